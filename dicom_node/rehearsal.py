"""What another model would say of images that were analysed: `dicom-node replay --dry-run`.

The images are measured again as a shadow does it: figures to compare, no object, no report, nothing
sent, and nothing of the study changed. What was measured before is not measured again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.quarantine import Operator
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.imaging import Instance, Series, Study
from models.job import SHADOW, Job
from models.result import Analysis, ModelVersion
from models.session import Database
from models.states import JobKind, JobState

_BLOCK: Final = 500
_AS_NEW: Final = {"attempts": 0, "published_at": None, "lease_owner": None, "finished_at": None}
_OPEN: Final = (JobState.PENDING, JobState.LEASED)


@dataclass(frozen=True)
class Rehearsal:
    """Which analyses are to be repeated, and by which model. `since` and `until` are of their time.

    `seen_by` is the network that made them: a name, a version, or both with a space between.
    """

    model: str
    seen_by: str | None = None
    study_instance_uid: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def analyses(self) -> list[ColumnElement[bool]]:
        """Return the conditions over Analysis, Instance, Series, Study and their ModelVersion."""
        found: list[ColumnElement[bool]] = []
        if self.seen_by is not None:
            whole = ModelVersion.name + " " + ModelVersion.version
            found.append(
                (ModelVersion.name == self.seen_by)
                | (ModelVersion.version == self.seen_by)
                | (whole == self.seen_by)
            )
        if self.study_instance_uid is not None:
            found.append(Study.study_instance_uid == self.study_instance_uid)
        if self.since is not None:
            found.append(Analysis.created_at >= self.since)
        if self.until is not None:
            found.append(Analysis.created_at < self.until)
        return found

    def jobs(self) -> list[ColumnElement[bool]]:
        """Return the conditions of the comparisons, over Job too."""
        return [Job.model_selector == self.model, *self.analyses()]


@dataclass(frozen=True)
class Begun:
    """How many analyses are meant, repeated now, and cannot be: their images were purged."""

    analyses: int
    begun: int
    purged: int


def begin(database: Database, wanted: Rehearsal, operator: Operator) -> Begun:
    """Queue what was not measured by that model yet, or could not be; count what is meant.

    Interrupted and begun again it does the rest.
    """
    with database.read() as session:
        rows = session.execute(_meant(wanted).order_by(Analysis.id)).all()
    open_ids = [key for key, purged_at, state in rows if purged_at is None and _is_new(state)]
    for start in range(0, len(open_ids), _BLOCK):
        with database.write() as session:
            _queue(session, wanted.model, open_ids[start : start + _BLOCK])
    purged = sum(purged_at is not None and _is_new(state) for _, purged_at, state in rows)
    found = Begun(len(rows), len(open_ids), purged)
    with database.write() as session:
        record(
            session,
            AuditAction.STUDY_REPLAYED,
            "dry_run",
            actor=operator.name[:64],
            study_instance_uid=wanted.study_instance_uid,
            details={key: _text(value) for key, value in vars(wanted).items()} | vars(found),
            patient={"why": operator.why} if operator.why else None,
        )
    return found


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _is_new(state: JobState | None) -> bool:
    return state is None or state in {JobState.FAILED, JobState.DEAD}


def _meant(wanted: Rehearsal) -> Any:  # noqa: ANN401  a query of id, purged_at and the job's state
    of_model = (Job.analysis_id == Analysis.id) & (Job.model_selector == wanted.model)
    return (
        select(Analysis.id, Instance.purged_at, Job.state)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .join(ModelVersion, Analysis.model_version_id == ModelVersion.id)
        .outerjoin(Job, of_model)
        .where(*wanted.analyses())
    )


def _queue(session: Session, model: str, analysis_ids: Sequence[int]) -> None:
    """Give each analysis a job, or its old one, which broke, another try."""
    of_model = (Job.kind == JobKind.SHADOW) & (Job.model_selector == model)
    known = session.scalars(select(Job).where(of_model, Job.analysis_id.in_(analysis_ids))).all()
    for job in known:
        if job.state in {JobState.FAILED, JobState.DEAD}:
            advance(session, job, JobState.PENDING, **_AS_NEW, not_before=utc_now(), error=None)
    missing = set(analysis_ids) - {job.analysis_id for job in known}
    session.add_all(
        Job(kind=JobKind.SHADOW, analysis_id=key, model_selector=model, priority=SHADOW)
        for key in sorted(missing)
    )


def waiting(database: Database, wanted: Rehearsal) -> int:
    """Return how many of the analyses still wait for the model."""
    query = (
        select(func.count())
        .select_from(Job)
        .join(Analysis, Job.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .join(ModelVersion, Analysis.model_version_id == ModelVersion.id)
        .where(Job.kind == JobKind.SHADOW, Job.state.in_(_OPEN), *wanted.jobs())
    )
    with database.read() as session:
        return session.scalar(query) or 0
