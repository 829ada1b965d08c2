"""A known SOP Instance UID came again with other bytes: update of the image, or conflict.

Intake sets such an object aside as `uid_conflict`. A worker then reads its file and that of the row
that counts; what it found decides here, in the order of arrival. The same pixels under a header
that gives other results are an update: the new row takes the place of the old one, which is
superseded, and its study gets another revision. The same pixels under a header that gives the same
results add nothing, and neither does a header that counted before: what the source or an operator
corrected stays corrected. Other pixels stay a conflict, for an operator.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, aliased

from dicom_node.errors import LostRaceError, NodeError
from dicom_node.intake import Verdict, is_another_patient, judge_content, queue_for_analysis
from dicom_node.recovery import spooled_file
from dicom_node.rejection import end_replaced, take_back
from dicom_node.types import Identity
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.imaging import SET_ASIDE, Instance, Series, Study
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.rejection import register_arrival, rejected_before
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState, StoreOutcome, StudyState

log = logging.getLogger(__name__)

_BATCH = 200
_ACTIVE = (JobState.PENDING, JobState.LEASED)
_WITHOUT_FIGURES = (InstanceState.NOT_ANALYSED, InstanceState.FAILED)


def decide_updates(database: Database, settings: Settings) -> int:
    """Move every object that was set aside for its UID one step on; return how many moved."""
    with database.read() as session:
        waiting = _to_decide(session)
    moved = 0
    for instance_id in waiting:
        try:
            with database.write() as session:
                moved += _decide(session, settings, instance_id)
        except (LostRaceError, IntegrityError):
            log.info("instance %d: another process was first, looked at again", instance_id)
    return moved


def _is_undecided(row: type[Instance]) -> ColumnElement[bool]:
    return and_(
        row.reason == Reason.UID_CONFLICT.value,
        row.decided_at.is_(None),
        row.state == InstanceState.QUARANTINED,
    )


def _to_decide(session: Session) -> Sequence[int]:
    """Return the undecided instances that wait for nothing, in the order of arrival.

    What they may wait for: their comparison, the analysis of the row that counts, and an earlier
    one of the same UID.
    """
    earlier, live = aliased(Instance), aliased(Instance)
    same = live.sop_instance_uid == Instance.sop_instance_uid
    query = select(Instance.id).where(
        _is_undecided(Instance),
        ~exists().where(
            Job.instance_id == Instance.id, Job.kind == JobKind.COMPARE, Job.state.in_(_ACTIVE)
        ),
        ~exists().where(same, live.state == InstanceState.QUEUED),
        ~exists().where(
            earlier.sop_instance_uid == Instance.sop_instance_uid,
            earlier.id < Instance.id,
            _is_undecided(earlier),
        ),
    )
    return session.scalars(query.order_by(Instance.id).limit(_BATCH)).all()


def _decide(session: Session, settings: Settings, instance_id: int) -> bool:
    candidate = session.get_one(Instance, instance_id)
    live = live_row(session, candidate.sop_instance_uid)
    lock_studies(session, candidate, live)
    is_waiting = candidate.reason == Reason.UID_CONFLICT.value and candidate.decided_at is None
    if candidate.state is not InstanceState.QUARANTINED or not is_waiting:
        return False  # somebody else decided, or an operator did
    if live is None or live.state is InstanceState.WITHDRAWN:
        return _keep(session, candidate)
    if live.state is InstanceState.QUEUED:
        return False
    if candidate.header_sha256 is None or live.header_sha256 is None:
        return _compare_first(session, candidate, live)
    if candidate.pixel_sha256 != live.pixel_sha256:
        return _keep(session, candidate)
    return _decide_same_pixels(session, settings, candidate, live)


def _decide_same_pixels(
    session: Session, settings: Settings, candidate: Instance, live: Instance
) -> bool:
    versions = _versions(session, live)
    is_known = any(row.file_header_sha256 == candidate.file_header_sha256 for row in versions)
    is_corrected = is_known or any(row.identity_revision for row in versions)
    is_same = is_known or candidate.header_sha256 == live.header_sha256
    if is_same and live.state not in _WITHOUT_FIGURES:
        _supersede(session, candidate, Reason.SAME_IMAGE)
        _record(session, candidate, StoreOutcome.UPDATE, live, reissued=False)
    elif makes_a_second_patient(candidate, live) or (
        is_corrected and is_another_patient(live, candidate)
    ):
        return _keep(session, candidate, Reason.PATIENT_MISMATCH)
    else:
        take_place(session, settings, candidate, live)
        _record(session, candidate, StoreOutcome.UPDATE, live, reissued=True)
    return True


def _versions(session: Session, live: Instance) -> list[Instance]:
    """Return `live` and what it took the place of, where a worker found these pixels."""
    chain = [live]
    while (before := chain[-1].supersedes_id) is not None:
        chain.append(session.get_one(Instance, before))
    found = [row for row in chain if row.pixel_sha256 == live.pixel_sha256]
    return [row for row in found if row.file_header_sha256 is not None]


def live_row(session: Session, sop_instance_uid: str) -> Instance | None:
    """Return the one row of a SOP Instance UID that counts, if there is one."""
    return session.scalar(
        select(Instance).where(
            Instance.sop_instance_uid == sop_instance_uid, Instance.state.not_in(SET_ASIDE)
        )
    )


def makes_a_second_patient(row: Instance, live: Instance | None) -> bool:
    """Say whether `row` in place of `live` would bring another patient into its study.

    In the same study the new identity becomes the study's; that it has none is no correction.
    """
    study = row.series.study
    is_correction = live is not None and live.series.study_id == study.id
    if is_correction and row.patient_id is not None:
        return False
    return is_another_patient(study, row)


def lock_studies(session: Session, *rows: Instance | None) -> None:
    """Lock the studies of these instances, always in one order, and read the instances again.

    Whoever changes what counts in a study holds its lock, so no two can cross.
    """
    found = [row for row in rows if row is not None]
    studies = {row.series.study_id for row in found}
    session.scalars(
        select(Study).where(Study.id.in_(studies)).order_by(Study.id).with_for_update()
    ).all()
    for row in found:
        session.refresh(row)
        session.refresh(row.series.study)


def _compare_first(session: Session, candidate: Instance, live: Instance) -> bool:
    """Have a worker read the files, once for each pair; keep the conflict when it could not."""
    last = session.scalar(
        select(Job)
        .where(Job.instance_id == candidate.id, Job.kind == JobKind.COMPARE)
        .order_by(Job.id.desc())
        .limit(1)
    )
    if last is not None and last.state in _ACTIVE:
        return False
    if last is None or _is_outdated(last, live):
        revision = live.identity_revision
        job = Job(kind=JobKind.COMPARE, instance_id=candidate.id, identity_revision=revision)
        session.add(job)
        return True
    return _keep(session, candidate)


def _is_outdated(comparison: Job, live: Instance) -> bool:
    """Say whether `live` was corrected, or took its place, after the comparison was asked for."""
    is_newer = live.decided_at is not None and live.decided_at > comparison.created_at
    return is_newer or comparison.identity_revision != live.identity_revision


def _keep(session: Session, candidate: Instance, reason: Reason = Reason.UID_CONFLICT) -> bool:
    """Leave the object to an operator."""
    candidate.decided_at = utc_now()
    candidate.reason, candidate.detail = reason.value, SENTENCES[reason]
    _record(session, candidate, StoreOutcome.CONFLICT, None, reissued=False)
    return True


def _record(
    session: Session,
    candidate: Instance,
    outcome: StoreOutcome,
    live: Instance | None,
    *,
    reissued: bool,
) -> None:
    record(
        session,
        AuditAction.INSTANCE_COMPARED,
        outcome.value,
        study_instance_uid=candidate.series.study.study_instance_uid,
        sop_instance_uid=candidate.sop_instance_uid,
        details={
            "instance": candidate.id,
            "compared_with": live.id if live else None,
            "reissued": reissued,
            "reason": candidate.reason,
        },
        patient={
            "patient_id": candidate.patient_id,
            "patient_id_before": live.patient_id if live else None,
        },
    )


def _supersede(session: Session, row: Instance, reason: Reason) -> None:
    won = advance(
        session,
        row,
        InstanceState.SUPERSEDED,
        reason=reason.value,
        detail=SENTENCES[reason],
        decided_at=utc_now(),
    )
    if not won:
        raise LostRaceError


def take_place(session: Session, settings: Settings, row: Instance, live: Instance | None) -> None:
    """Make `row` the one that counts, in place of `live`, and have it analysed.

    Both studies are open again: what was reported of `live` is reported anew, or no more. The
    caller holds the lock of both studies (`lock_studies`). Raises LostRaceError, or
    sqlalchemy.exc.IntegrityError, when somebody else moved one of them: nothing is changed then.
    """
    study = row.series.study
    is_first = live is None or live.series.study_id != study.id
    if live is not None:
        row.supersedes_id = live.id
        _supersede(session, live, Reason.UPDATED)
        if is_first:  # it left the other study, where no report replaces what speaks of it
            before = live.series.study
            take_back(session, before, {live.sop_instance_uid}, Reason.REJECTED_WORKLIST)
        else:
            end_replaced(session, study, {live.id})
        reopen(session, live.series.study)
    if not is_first or study.patient_id is None:
        _set_identity(settings, study, row)
    row.decided_at = utc_now()
    reopen(session, study)
    admit(session, settings, row)
    admit_matching(session, settings, study)


def admit_matching(session: Session, settings: Settings, study: Study) -> None:
    """Let go of what waits because it is another patient's, and is the study's now.

    Where its SOP Instance UID is taken, it is compared. The caller holds the lock of the study.
    """
    if study.patient_id is None:
        return
    mismatch = Reason.PATIENT_MISMATCH.value
    query = select(Instance).join(Series).where(Series.study_id == study.id)
    query = query.where(Instance.state == InstanceState.QUARANTINED, Instance.reason == mismatch)
    for row in session.scalars(query.order_by(Instance.id)).all():
        if is_another_patient(study, row):
            continue
        if live_row(session, row.sop_instance_uid) is not None:
            conflict = Reason.UID_CONFLICT
            row.reason, row.detail, row.decided_at = conflict.value, SENTENCES[conflict], None
            continue
        admit(session, settings, row)
        reopen(session, study)
        record(
            session,
            AuditAction.QUARANTINE_ENDED,
            "identity_matches",
            study_instance_uid=study.study_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            details={"instance": row.id, "reason": mismatch},
            patient={"patient_id": row.patient_id},
        )


def _set_identity(settings: Settings, study: Study, row: Instance) -> None:
    study.patient_id = row.patient_id
    study.issuer_of_patient_id = row.issuer_of_patient_id
    path = settings.image_store.path_of(row.storage_key, row.purged_at)
    identity = _identity_in_file(path, row)
    if identity is not None:
        study.accession_number = identity.accession_number
        study.study_date = identity.study_date
        study.exam_at = identity.exam_at


def _identity_in_file(path: Path, row: Instance) -> Identity | None:
    try:
        return spooled_file(path, row.storage_key).identity
    except (OSError, NodeError):
        log.exception("instance %d: its spool file cannot be read", row.id)
        return None


def admit(session: Session, settings: Settings, row: Instance) -> None:
    """Give an object that was set aside the way of a new one; analyse one of another identity."""
    verdict = _verdict(session, settings, row)
    if verdict.state is InstanceState.QUEUED:
        moved = queue_for_analysis(session, settings, row)
    else:
        reason, detail = None, None
        if verdict.reason is not None:
            reason, detail = verdict.reason.value, SENTENCES[verdict.reason]
        moved = advance(session, row, verdict.state, reason=reason, detail=detail)
    session.flush()
    if not moved:
        raise LostRaceError
    register_arrival(session, row.series.study, row)


def _verdict(session: Session, settings: Settings, row: Instance) -> Verdict:
    if row.state is not InstanceState.QUARANTINED:
        return Verdict(InstanceState.QUEUED)
    rejected = rejected_before(session, row.series.study_id, row.sop_instance_uid)
    if rejected is not None:
        return Verdict(InstanceState.WITHDRAWN, rejected)
    identity = _identity_in_file(settings.image_store.path(row.storage_key), row)
    if identity is None:
        return Verdict(InstanceState.QUEUED)  # a worker says what is wrong with the file
    return judge_content(settings, identity)


def reopen(session: Session, study: Study) -> None:
    """Open the study again, as a late image does."""
    study.last_received_at = utc_now()
    if study.state is not StudyState.OPEN and not advance(session, study, StudyState.OPEN):
        raise LostRaceError
