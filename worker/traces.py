"""The worker's spans: an image that was analysed, in stages, and a report."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from models import tracing
from models.imaging import Instance
from models.job import Job
from models.result import Analysis, Artifact, ReportedAnalysis
from models.session import Database
from models.states import ArtifactKind, JobKind

_STAGES = ("decode", "gate", "inference", "measure", "objects")
_SECOND = 1_000_000_000


@contextmanager
def traced(database: Database, job: Job) -> Iterator[None]:
    """Note the job when the block is over, by what its rows say then."""
    began = tracing.now()
    try:
        yield
    finally:
        if tracing.is_on():
            with database.read() as session:
                _note(session, session.get_one(Job, job.id), began, tracing.now())


def _note(session: Session, job: Job, began: int, ended: int) -> None:
    if job.kind is JobKind.REPORT:
        _note_report(session, job, began, ended)
    elif job.instance_id is not None:
        _note_image(session, job, began, ended)


def _note_image(session: Session, job: Job, began: int, ended: int) -> None:
    instance = session.get_one(Instance, job.instance_id)
    key = instance.storage_key
    span = tracing.note(
        job.kind.value,
        key,
        began,
        ended,
        job_id=job.id,
        instance_id=instance.id,
        outcome=instance.state.value,
        reason=instance.reason,
        attempt=job.attempts,
        model=job.model_selector,
    )
    newest = select(Analysis).where(Analysis.instance_id == instance.id)
    analysis = session.scalar(newest.order_by(Analysis.id.desc()).limit(1))
    if job.kind is not JobKind.ANALYSE or analysis is None or instance.reason is not None:
        return
    for stage in _STAGES:
        seconds = getattr(analysis, f"{stage}_seconds") or 0.0
        after = began + round(seconds * _SECOND)
        tracing.note(stage, key, began, after, parent=span)
        began = after


def _note_report(session: Session, job: Job, began: int, ended: int) -> None:
    keys = session.scalars(
        select(Instance.storage_key)
        .join(Analysis, Analysis.instance_id == Instance.id)
        .join(ReportedAnalysis, ReportedAnalysis.analysis_id == Analysis.id)
        .join(Artifact, ReportedAnalysis.artifact_id == Artifact.id)
        .where(Artifact.study_id == job.study_id, Artifact.revision == job.revision)
        .where(Artifact.kind == ArtifactKind.SR)
        .order_by(Analysis.id)
    ).all()
    if keys:
        first, *others = keys
        tracing.note(
            "report",
            first,
            began,
            ended,
            links=others,
            job_id=job.id,
            revision=job.revision,
            images=len(keys),
        )
