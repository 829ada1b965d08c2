"""What the worklist says of studies beyond their own rows: five queries for a whole page."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.imaging import Instance, Series, Study
from models.reading import Reading
from models.reasons import Reason
from models.rejection import WithdrawnArtifact
from models.result import Analysis, AnalysisCaveat, Artifact, of_the_patient
from models.states import ArtifactKind, InstanceState

_ENDED = (InstanceState.NOT_ANALYSED, InstanceState.FAILED, InstanceState.WITHDRAWN)


@dataclass(frozen=True)
class Facts:
    """Of one study: its reading, why images have no figure, caveats, its newest report."""

    reading: Reading | None
    reasons: tuple[str, ...]
    quarantined: tuple[str, ...]
    caveats: tuple[str, ...]
    revision: int
    result_at: datetime | None


def facts_of(session: Session, study_ids: Sequence[int]) -> Mapping[int, Facts]:
    """Return what is known of each of these studies."""
    if not study_ids:
        return {}
    readings = {
        row.study_id: row
        for row in session.scalars(select(Reading).where(Reading.study_id.in_(study_ids)))
    }
    reasons = _reasons(session, study_ids, quarantined=False)
    quarantined = _reasons(session, study_ids, quarantined=True)
    caveats = _caveats(session, study_ids)
    reports = _reports(session, study_ids)
    return {
        key: Facts(
            readings.get(key),
            tuple(reasons[key]),
            tuple(quarantined[key]),
            tuple(caveats[key]),
            *reports.get(key, (0, None)),
        )
        for key in study_ids
    }


def _reasons(
    session: Session, study_ids: Sequence[int], *, quarantined: bool
) -> Mapping[int, list[str]]:
    """Return the reasons of images that have no figure, or that wait in quarantine.

    What is in quarantine may be another patient's: its reason is told, nothing else.
    """
    query = (
        select(Series.study_id, Instance.reason)
        .join(Instance, Instance.series_id == Series.id)
        .join(Study, Study.id == Series.study_id)
        .where(Series.study_id.in_(study_ids), Instance.reason.is_not(None))
        .distinct()
        .order_by(Series.study_id, Instance.reason)
    )
    if quarantined:
        query = query.where(Instance.state == InstanceState.QUARANTINED)
    else:
        query = query.where(
            Instance.state.in_(_ENDED),
            Instance.reason != Reason.OWN_RESULT.value,
            of_the_patient(),
        )
    return _lists(session.execute(query).all())


def _caveats(session: Session, study_ids: Sequence[int]) -> Mapping[int, list[str]]:
    newest = (
        select(func.max(Analysis.id))
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .where(
            Series.study_id.in_(study_ids),
            Instance.state == InstanceState.ANALYSED,
            Analysis.is_replaced.is_(False),
        )
        .group_by(Analysis.instance_id)
    )
    query = (
        select(Series.study_id, AnalysisCaveat.caveat)
        .join(Analysis, AnalysisCaveat.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .where(Analysis.id.in_(newest))
        .distinct()
        .order_by(Series.study_id, AnalysisCaveat.caveat)
    )
    return _lists(session.execute(query).all())


def _reports(session: Session, study_ids: Sequence[int]) -> Mapping[int, tuple[int, datetime]]:
    """Return revision and time of the newest report of each study that was not taken back."""
    query = (
        select(Artifact.study_id, Artifact.revision, Artifact.created_at)
        .where(
            Artifact.study_id.in_(study_ids),
            Artifact.kind == ArtifactKind.SR,
            Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)),
        )
        .order_by(Artifact.study_id, Artifact.revision)
    )
    # The last one of each study stays.
    return {key or 0: (revision or 0, at) for key, revision, at in session.execute(query)}


def _lists(pairs: Sequence[tuple[int, str | None]]) -> Mapping[int, list[str]]:
    found: dict[int, list[str]] = defaultdict(list)
    for key, value in pairs:
        found[key].append(value or "")
    return found
