"""When is a study complete, and what follows: its report job, or closing. Rows only."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import exists, func, select
from sqlalchemy.orm import Session

from dicom_node.intake import is_for_processing, queue_for_analysis
from dicom_node.shadow import add_shadow_jobs
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.rejection import WithdrawnArtifact, has_untold_message, untold
from models.result import (
    Artifact,
    ReportedAnalysis,
    newest_analyses,
    set_figure,
    unanalysed_instances,
)
from models.sections import DispatchSettings
from models.settings import Settings
from models.states import (
    ArtifactKind,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)

_AS_NEW = {"attempts": 0, "published_at": None, "lease_owner": None, "finished_at": None}


def is_quiet(study: Study, settings: DispatchSettings, now: datetime) -> bool:
    """Say whether the study got no instance for the settle time of its sender."""
    wanted = settings.settle_seconds_by_calling_ae.get(study.calling_aet, settings.settle_seconds)
    return study.last_received_at <= now - timedelta(seconds=wanted)


def quiet_studies(session: Session, settings: DispatchSettings, now: datetime) -> list[Study]:
    """Return the open studies that are quiet, have an accepted instance, and wait for no worker."""
    shortest = min([settings.settle_seconds, *settings.settle_seconds_by_calling_ae.values()])
    of_study = (Series.study_id == Study.id, Instance.series_id == Series.id)
    candidates = session.scalars(
        select(Study).where(
            Study.state == StudyState.OPEN,
            Study.last_received_at <= now - timedelta(seconds=shortest),
            exists().where(*of_study, Instance.state != InstanceState.QUARANTINED),
            ~exists().where(*of_study, Instance.state == InstanceState.QUEUED),
        )
    )
    return [study for study in candidates if is_quiet(study, settings, now)]


def report_again(session: Session, actor: str | None = None) -> int:
    """Have the reports written again that were given up; return how many. `actor` asked for it.

    Of settled studies and their newest revision: an older one would be replaced at once.
    """
    given_up = session.execute(
        select(Job, Study)
        .join(Study, (Job.study_id == Study.id) & (Job.revision == Study.revision))
        .where(
            Job.kind == JobKind.REPORT,
            Job.state == JobState.DEAD,
            Study.state == StudyState.SETTLED,
        )
    ).all()
    again = 0
    for job, study in given_up:
        if advance(session, job, JobState.PENDING, **_AS_NEW, not_before=utc_now()):
            again += 1
            record(
                session,
                AuditAction.REPORT_DUE_AGAIN,
                "due",
                actor=actor,
                study_instance_uid=study.study_instance_uid,
                details={"job_id": job.id},
            )
    return again


def settle(session: Session, settings: Settings, study: Study) -> bool:
    """Settle one quiet study if every analyse job ended. Returns whether anything changed."""
    if study.state is not StudyState.OPEN:
        return False  # somebody else settled it
    instances = _instances(session, study)
    if any(row.state is InstanceState.QUEUED for row in instances):
        return False
    waiting = [row for row in instances if row.state is InstanceState.RECEIVED]
    if waiting:
        _decide_for_processing(session, settings, waiting, instances)
        return True
    analyses = newest_analyses(session, study.id)
    if not analyses:
        set_figure(study, [])  # what an earlier analysis gave stands no more
        if not _is_to_be_told(session, settings, study):
            return advance(session, study, StudyState.CLOSED)
    add_shadow_jobs(session, settings.shadow, analyses)
    if analyses and study.revision and _reported(session, study) == {row.id for row in analyses}:
        set_figure(study, analyses)
        return advance(session, study, StudyState.SETTLED)  # a late image changed no result
    revision = study.revision + 1
    if not advance(session, study, StudyState.SETTLED, revision=revision):
        return False
    session.add(Job(kind=JobKind.REPORT, study_id=study.id, revision=revision))
    return True


def _is_to_be_told(session: Session, settings: Settings, study: Study) -> bool:
    """Say whether a study without any analysed image has something for receivers.

    What they may have of it counts no more, or one wants to hear why there is nothing.
    """
    if untold(session, study.id, with_reports=True) or has_untold_message(session, study.id):
        return True
    if _has_told_figure(session, settings, study):
        return True
    return settings.tells_not_analysed and any(
        row.reason != Reason.OWN_RESULT.value for row in unanalysed_instances(session, study.id)
    )


def _has_told_figure(session: Session, settings: Settings, study: Study) -> bool:
    """Say whether the newest message of a kind that is still wanted gives figures.

    That is one beside an SR that counts; the one that takes them back stands beside none.
    """
    wanted = {ArtifactKind.HL7: settings.makes_hl7, ArtifactKind.FHIR: settings.makes_fhir}
    newest = (
        select(func.max(Artifact.revision))
        .where(
            Artifact.study_id == study.id,
            Artifact.kind.in_([kind for kind, is_wanted in wanted.items() if is_wanted]),
        )
        .group_by(Artifact.kind)
    )
    report = select(Artifact.id).where(
        Artifact.study_id == study.id,
        Artifact.kind == ArtifactKind.SR,
        Artifact.revision.in_(newest),
        Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)),
    )
    return session.scalar(report.limit(1)) is not None


def _instances(session: Session, study: Study) -> Sequence[Instance]:
    return session.scalars(
        select(Instance)
        .join(Series)
        .where(Series.study_id == study.id, Instance.state != InstanceState.QUARANTINED)
        .order_by(Instance.id)
    ).all()


def _decide_for_processing(
    session: Session, settings: Settings, waiting: list[Instance], instances: Sequence[Instance]
) -> None:
    """Analyse raw images only when no processed one of the study was analysed.

    A processed lateral, or one that could not be read, stands for no frontal raw image.
    """
    has_sibling = any(
        row.state is InstanceState.ANALYSED
        and not is_for_processing(row.sop_class_uid, row.presentation_intent)
        for row in instances
    )
    for instance in waiting:
        if has_sibling:
            reason = Reason.FOR_PROCESSING_SIBLING
            advance(
                session,
                instance,
                InstanceState.NOT_ANALYSED,
                reason=reason.value,
                detail=SENTENCES[reason],
            )
        else:
            queue_for_analysis(session, settings, instance)


def _reported(session: Session, study: Study) -> set[int]:
    """Return the analyses that the newest SR of `study` speaks of."""
    return set(
        session.scalars(
            select(ReportedAnalysis.analysis_id)
            .join(Artifact, ReportedAnalysis.artifact_id == Artifact.id)
            .where(Artifact.study_id == study.id, Artifact.revision == study.revision)
        )
    )
