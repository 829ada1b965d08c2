"""Which stored bytes nobody needs any more: the conditions of retention, as SQL over rows alone.

The same conditions choose the candidates and stand in the UPDATE that purges one, so what became
needed in between is not purged.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select
from sqlalchemy.orm import aliased

from models.delivery import Delivery, waits_for_commitment
from models.imaging import Instance, Series, Study
from models.job import Job
from models.rejection import KeyObject
from models.result import Analysis, Artifact
from models.settings import Settings
from models.states import ArtifactKind, DeliveryState, InstanceState, JobKind, JobState, StudyState

_ACTIVE = (JobState.PENDING, JobState.LEASED)
_ARRIVED = (DeliveryState.SENT, DeliveryState.COMMITTED)
_OPEN = (DeliveryState.DUE, DeliveryState.SENDING)
_DONE_WITH = (StudyState.DELIVERED, StudyState.CLOSED)
# What is large. Reports, rejection notes and presentation states are some kB, and stay.
OBJECTS: Final = (ArtifactKind.SEG, ArtifactKind.SC, ArtifactKind.PDF)
PICTURES: Final = (ArtifactKind.DISPLAY, ArtifactKind.OVERLAY, ArtifactKind.LAYER)


def images(settings: Settings, before: datetime | None) -> Select[Any]:
    """Select the images that may be purged, oldest first, where both they and their study are old.

    `before` is when the last image of the study must have come; None: any time. Their pixels were
    compared: other bytes under the same UID can be told from these for ever.
    """
    return unchecked_images(settings, before).where(_is_compared())


def uncompared_images(settings: Settings, before: datetime | None) -> Select[Any]:
    """Select what could be purged once a worker has said what its pixels are."""
    return unchecked_images(settings, before).where(~_is_compared())


def unchecked_images(settings: Settings, before: datetime | None) -> Select[Any]:
    """Select the images that may be purged once their pixels were compared.

    Without those whose comparison was given up: they broke a worker, or cannot be read, and stay.
    """
    states = [InstanceState(name) for name in settings.retention.states]
    query = (
        select(Instance)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(
            Instance.purged_at.is_(None),
            Instance.damaged_at.is_(None),
            Instance.state.in_(states),
            Study.state.in_(_DONE_WITH),
            ~_is_sent_still(settings),
            ~_is_worked_on(),
            or_(_is_compared(), ~_has_comparison(JobState.DEAD)),
            ~exists().where(KeyObject.instance_id == Instance.id, KeyObject.read_at.is_(None)),
        )
        .order_by(Instance.received_at, Instance.id)
    )
    if not settings.retention.purge_promised:
        query = query.where(Instance.promised_at.is_(None))
    if before is not None:
        stored_at = func.coalesce(Instance.stored_at, Instance.received_at)
        query = query.where(
            Instance.received_at < before, stored_at < before, Study.last_received_at < before
        )
    return query


def results(settings: Settings, before: datetime) -> Select[Any]:
    """Select the large results of old delivered studies that arrived somewhere, oldest first.

    The pictures of the web page go with the SEG of their image: where no receiver has that, this
    node has the only copy.
    """
    objects = and_(Artifact.kind.in_(OBJECTS), _has_arrived(Artifact.id))
    sibling = aliased(Artifact)
    has_segmentation = exists().where(
        sibling.analysis_id == Artifact.analysis_id,
        sibling.kind == ArtifactKind.SEG,
        _has_arrived(sibling.id),
    )
    pictures = and_(Artifact.kind.in_(PICTURES), has_segmentation)
    query = (
        select(Artifact)
        .outerjoin(Analysis, Artifact.analysis_id == Analysis.id)
        .outerjoin(Instance, Analysis.instance_id == Instance.id)
        .outerjoin(Series, Instance.series_id == Series.id)
        .join(Study, Study.id == func.coalesce(Artifact.study_id, Series.study_id))
        .where(
            Artifact.purged_at.is_(None),
            Artifact.damaged_at.is_(None),
            or_(objects, pictures),
            Study.state == StudyState.DELIVERED,
            Study.last_received_at < before,
            Artifact.created_at < before,
            ~_is_sent_still(settings),
            ~_has_jobs_of_study(),
        )
        .order_by(Artifact.id)
    )
    if not settings.retention.purge_promised:
        query = query.where(Artifact.promised_at.is_(None))
    return query


def _is_compared() -> ColumnElement[bool]:
    """Return the condition that a worker said what the pixels are, or that it cannot be said."""
    return or_(Instance.pixel_sha256.is_not(None), _has_comparison(JobState.DONE))


def _has_comparison(state: JobState) -> ColumnElement[bool]:
    found = exists().where(
        Job.instance_id == Instance.id, Job.kind == JobKind.COMPARE, Job.state == state
    )
    return found.correlate(Instance)


def _is_sent_still(settings: Settings) -> ColumnElement[bool]:
    """Return the condition on Study that some result of it is due, or not yet committed to."""
    is_open = or_(
        Delivery.state.in_(_OPEN), waits_for_commitment(settings.destinations_with_commitment)
    )
    artifact, image, series = aliased(Artifact), aliased(Instance), aliased(Series)
    of_study = (
        select(Delivery.id)
        .join(artifact, Delivery.artifact_id == artifact.id)
        .where(artifact.study_id == Study.id, is_open)
    )
    of_images = (
        select(Delivery.id)
        .join(artifact, Delivery.artifact_id == artifact.id)
        .join(Analysis, artifact.analysis_id == Analysis.id)
        .join(image, Analysis.instance_id == image.id)
        .join(series, image.series_id == series.id)
        .where(series.study_id == Study.id, is_open)
    )
    return or_(*(each.correlate(Study).exists() for each in (of_study, of_images)))


def _is_worked_on() -> ColumnElement[bool]:
    """Return the condition that a job reads the image, or compares another one with it."""
    twin = aliased(Instance)
    twins = select(twin.id).where(twin.sop_instance_uid == Instance.sop_instance_uid)
    analyses = select(Analysis.id).where(Analysis.instance_id == Instance.id)
    active = Job.state.in_(_ACTIVE)
    of_image = exists().where(active, Job.instance_id.in_(twins.correlate(Instance)))
    shadow = exists().where(active, Job.analysis_id.in_(analyses.correlate(Instance)))
    return or_(of_image.correlate(Instance), shadow.correlate(Instance), _has_jobs_of_study())


def _has_jobs_of_study() -> ColumnElement[bool]:
    return exists().where(Job.state.in_(_ACTIVE), Job.study_id == Study.id).correlate(Study)


def _has_arrived(artifact_id: object) -> ColumnElement[bool]:
    """Return the condition that some receiver has an artifact, and none will be asked again."""
    mine = Delivery.artifact_id == artifact_id
    not_here: Sequence[DeliveryState] = (*_OPEN, DeliveryState.REJECTED, DeliveryState.DEAD)
    return and_(
        exists().where(mine, Delivery.state.in_(_ARRIVED)),
        ~exists().where(mine, Delivery.state.in_(not_here)),
    )
