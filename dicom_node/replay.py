"""A study is analysed again: by another model, or after a new one was installed.

Nothing is replaced in place. What comes out is the next revision of the report; the same model
under the same settings gives the same objects, and then there is nothing new to send. Older
revisions, and what they were made of, stay.
"""

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.contexts import CAPTURES, IMAGE_CLASSES
from dicom_node.errors import LostRaceError, OperatorError
from dicom_node.identity_update import reopen
from dicom_node.intake import priority_of
from dicom_node.quarantine import Operator
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reasons import Reason
from models.result import Analysis, Artifact, of_the_patient
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState

_ENDED = (InstanceState.ANALYSED, InstanceState.NOT_ANALYSED, InstanceState.FAILED)
# What no model would see any other way.
_OUT_OF_QUESTION = (Reason.OWN_RESULT, Reason.SOP_CLASS, Reason.FOR_PROCESSING_SIBLING)
_AS_NEW = {"attempts": 0, "published_at": None, "lease_owner": None, "finished_at": None}


def replay(
    database: Database,
    settings: Settings,
    study_instance_uid: str,
    model: str | None,
    operator: Operator,
) -> int:
    """Have every image of a study analysed again; return how many there are.

    By `model`, or by the one that the settings name for the sender. Raises OperatorError when the
    study is unknown, is being analysed, has no image, or has images whose bytes were purged.
    """
    try:
        with database.write() as session:
            wanted = select(Study).where(Study.study_instance_uid == study_instance_uid)
            study = session.scalar(wanted.with_for_update())
            if study is None:
                msg = f"there is no study {study_instance_uid}: see `dicom-node results`"
                raise OperatorError(msg)
            images = _images(session, settings, study)
            _require_ready(study, images)
            for image in images:
                _queue(session, settings, image, model)
            reopen(session, study)
            record(
                session,
                AuditAction.STUDY_REPLAYED,
                "due",
                actor=operator.name[:64],
                study_instance_uid=study.study_instance_uid,
                details={"by": operator.name, "model": model, "images": len(images)},
                patient={"why": operator.why},
            )
            return len(images)
    except (LostRaceError, IntegrityError) as error:
        msg = "the study was changed at the same moment: run it again"
        raise OperatorError(msg) from error


def purged_results(session: Session, study_instance_uid: str) -> int:
    """Return how many stored results of the study's images retention removed.

    What an analysis gives again has its row already, and retention would take the bytes again.
    """
    query = (
        select(func.count())
        .select_from(Artifact)
        .join(Analysis, Artifact.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(Study.study_instance_uid == study_instance_uid, Artifact.purged_at.is_not(None))
    )
    return session.scalar(query) or 0


def _images(session: Session, settings: Settings, study: Study) -> Sequence[Instance]:
    """Return what a worker may look at, under the study's own patient, and what waits for one."""
    classes = IMAGE_CLASSES + (CAPTURES if settings.analysis.secondary_capture else ())
    left_out = [reason.value for reason in _OUT_OF_QUESTION]
    return session.scalars(
        select(Instance)
        .join(Series)
        .join(Study)
        .where(
            Series.study_id == study.id,
            Instance.sop_class_uid.in_(classes),
            Instance.state.in_((*_ENDED, InstanceState.QUEUED, InstanceState.RECEIVED)),
            Instance.reason.is_(None) | Instance.reason.not_in(left_out),
            of_the_patient(),
        )
        .order_by(Instance.id)
        .with_for_update(of=Instance)
    ).all()


def _require_ready(study: Study, images: Sequence[Instance]) -> None:
    uid = study.study_instance_uid
    if not images:
        msg = f"study {uid} has no image that could be analysed: see `dicom-node results`"
        raise OperatorError(msg)
    if any(image.state not in _ENDED for image in images):
        msg = f"study {uid} is being analysed: wait until it has ended, then run it again"
        raise OperatorError(msg)
    purged = sum(image.purged_at is not None for image in images)
    if purged:
        msg = f"{purged} images of study {uid} were purged: have them sent again, then run it again"
        raise OperatorError(msg)


def _queue(session: Session, settings: Settings, image: Instance, model: str | None) -> None:
    """Give an image a job for that model, or its old one again: there is one per model."""
    selector = model or settings.model_for(image.calling_aet)
    job = session.scalar(
        select(Job).where(
            Job.instance_id == image.id,
            Job.model_selector == selector,
            Job.identity_revision == image.identity_revision,
        )
    )
    if not advance(session, image, InstanceState.QUEUED, reason=None, detail=None):
        raise LostRaceError
    if job is None:
        session.add(
            Job(
                kind=JobKind.ANALYSE,
                instance=image,
                model_selector=selector,
                identity_revision=image.identity_revision,
                priority=priority_of(settings, image.calling_aet),
            )
        )
    elif not advance(session, job, JobState.PENDING, **_AS_NEW, not_before=utc_now(), error=None):
        raise LostRaceError
