"""A spooled object becomes rows, in one transaction, as often as it is sent.

What is decided here: new, duplicate, conflict, our own result coming back; quarantined or not;
whether it needs an analyse job. The audit event stands in the same transaction, so the ledger's
two sides cannot drift apart.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.contexts import CAPTURES, IMAGE_CLASSES
from dicom_node.healing import take_bytes
from dicom_node.spool import Spool
from dicom_node.status import SUCCESS
from dicom_node.types import Identity, SpooledInstance
from models.audit import AuditAction, AuditEvent, record
from models.base import advance, utc_now
from models.identity import is_own_object
from models.imaging import SET_ASIDE, Instance, Series, Study
from models.job import ROUTINE, STAT, Job
from models.reasons import SENTENCES, Reason
from models.rejection import register_arrival, rejected_before
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState, StoreOutcome, StudyState

_TRIES = 5
_AS_NEW = {"attempts": 0, "published_at": None, "lease_owner": None, "finished_at": None}
FOR_PROCESSING = "FOR PROCESSING"
_FOR_PROCESSING_CLASS = IMAGE_CLASSES[2]
_COME_BACK = frozenset(
    {
        (InstanceState.WITHDRAWN, Reason.REJECTED_RETENTION.value),
        (InstanceState.FAILED, Reason.MODEL_UNAVAILABLE.value),
        (InstanceState.FAILED, Reason.PURGED.value),
    }
)
_ENDED = (JobState.CANCELLED, JobState.FAILED, JobState.DEAD)


@dataclass(frozen=True)
class Verdict:
    """What an instance starts as."""

    state: InstanceState
    reason: Reason | None = None


def record_instance(
    database: Database,
    settings: Settings,
    spooled: SpooledInstance,
    action: AuditAction = AuditAction.INSTANCE_STORED,
) -> StoreOutcome:
    """Write the rows of one received object and return what it was.

    When this returns, the rows are committed. Repeating it with the same object adds nothing but
    an audit event. Raises sqlalchemy.exc.SQLAlchemyError when the database cannot be written.
    """
    for attempt in range(_TRIES):
        try:
            with database.write() as session:
                outcome = _record(session, settings, spooled)
                _audit(session, action, outcome, spooled)
        except IntegrityError:
            # Another association inserted the same study, series or instance between our look
            # and our insert; its commit is visible now, so look again.
            if attempt == _TRIES - 1:
                raise
        else:
            return outcome
    raise AssertionError  # the loop returns or raises


def drop_if_extra(database: Database, spool: Spool, key: str, outcome: StoreOutcome) -> None:
    """Delete the bytes under `key` when intake kept nothing of them.

    A row that names this very file keeps it: the orphan sweep may have recorded the file while its
    listener was still waiting for the database, whose answer then is `duplicate`.
    """
    if outcome not in {StoreOutcome.DUPLICATE, StoreOutcome.OWN_RESULT}:
        return
    with database.read() as session:
        named = session.scalar(select(Instance.id).where(Instance.storage_key == key))
    if named is None:
        spool.delete(key)


def _audit(
    session: Session, action: AuditAction, outcome: StoreOutcome, spooled: SpooledInstance
) -> None:
    session.add(AuditEvent(action=action, **audit_values(outcome, spooled)))


def audit_values(outcome: StoreOutcome, spooled: SpooledInstance) -> dict[str, object]:
    """Return the columns of the audit event that says what a received object was."""
    return {
        "outcome": outcome.value,
        "calling_aet": spooled.peer.calling_aet,
        "called_aet": spooled.peer.called_aet,
        "peer": spooled.peer.address,
        "study_instance_uid": spooled.identity.study_instance_uid,
        "sop_instance_uid": spooled.identity.sop_instance_uid,
        "status": SUCCESS,
        "actor": spooled.peer.actor,
        "details": {
            "data_set_sha256": spooled.data_set_sha256,
            "size_bytes": spooled.size_bytes,
        },
        "patient_id": spooled.identity.patient_id,
        "patient": {"patient_id": spooled.identity.patient_id},
    }


def _record(session: Session, settings: Settings, spooled: SpooledInstance) -> StoreOutcome:
    identity = spooled.identity
    if _is_own_artifact(session, identity.sop_instance_uid):
        return StoreOutcome.OWN_RESULT
    same_uid = session.scalars(
        select(Instance).where(Instance.sop_instance_uid == identity.sop_instance_uid)
    ).all()
    known = [row for row in same_uid if row.data_set_sha256 == spooled.data_set_sha256]
    for row in known:
        take_bytes(session, settings, row, spooled)
        _take_back_again(session, settings, row, spooled)
        _tell_if_outdated(session, row, spooled)
    if known:
        return StoreOutcome.DUPLICATE
    study = _study(session, spooled)
    is_conflict = any(row.state not in SET_ASIDE for row in same_uid)
    verdict = _judge(settings, study, spooled, is_conflict=is_conflict)
    verdict = _withdrawn_before(session, study, identity, verdict) or verdict
    instance = _add_instance(session, study, spooled, verdict)
    if verdict.state is InstanceState.QUEUED:
        session.add(_analyse_job(settings, instance))
    if verdict.state is not InstanceState.QUARANTINED:
        _accept_into(session, study, spooled)
        register_arrival(session, study, instance)
    session.flush()
    conflict = verdict.reason is Reason.UID_CONFLICT
    return StoreOutcome.CONFLICT if conflict else StoreOutcome.STORED


def _is_own_artifact(session: Session, sop_instance_uid: str) -> bool:
    """Recognise what this node made and still has: its bytes are dropped when they come back."""
    found = select(Artifact.id).where(Artifact.sop_instance_uid == sop_instance_uid)
    return session.scalar(found) is not None


def _judge(
    settings: Settings, study: Study, spooled: SpooledInstance, *, is_conflict: bool
) -> Verdict:
    """Decide quarantine first, then whether a worker must look at the object at all."""
    identity = spooled.identity
    if identity.patient_id is None and not settings.dicom.allow_missing_patient_id:
        return Verdict(InstanceState.QUARANTINED, Reason.NO_PATIENT_ID)
    if is_conflict:
        return Verdict(InstanceState.QUARANTINED, Reason.UID_CONFLICT)
    if is_another_patient(study, identity):
        return Verdict(InstanceState.QUARANTINED, Reason.PATIENT_MISMATCH)
    return judge_content(settings, identity)


def judge_content(settings: Settings, identity: Identity) -> Verdict:
    """Decide whether a worker must look at an object that is out of quarantine, and when."""
    if is_own_object(
        identity.manufacturer or "",
        identity.manufacturer_model_name or "",
        identity.sop_class_uid,
        identity.sop_instance_uid,
        settings.objects.uid_root,
    ):
        return Verdict(InstanceState.NOT_ANALYSED, Reason.OWN_RESULT)
    wanted = IMAGE_CLASSES + CAPTURES if settings.analysis.secondary_capture else IMAGE_CLASSES
    if identity.sop_class_uid not in wanted:
        return Verdict(InstanceState.NOT_ANALYSED, Reason.SOP_CLASS)
    if is_for_processing(identity.sop_class_uid, identity.presentation_intent):
        return Verdict(InstanceState.RECEIVED)  # waits for a For Presentation sibling
    return Verdict(InstanceState.QUEUED)


def _withdrawn_before(
    session: Session, study: Study, identity: Identity, verdict: Verdict
) -> Verdict | None:
    """Return the verdict on an object that a rejection note already names, else None."""
    if verdict.state is InstanceState.QUARANTINED or verdict.reason is Reason.OWN_RESULT:
        return None
    reason = rejected_before(session, study.id, identity.sop_instance_uid)
    return None if reason is None else Verdict(InstanceState.WITHDRAWN, reason)


def _tell_if_outdated(session: Session, row: Instance, spooled: SpooledInstance) -> None:
    """Write an audit event when a version comes again that another one took the place of.

    Its sender may have taken a correction back; the node does not swing.
    """
    if row.state is InstanceState.SUPERSEDED and row.reason == Reason.UPDATED.value:
        record(
            session,
            AuditAction.INSTANCE_COMPARED,
            "outdated",
            calling_aet=spooled.peer.calling_aet,
            study_instance_uid=spooled.identity.study_instance_uid,
            sop_instance_uid=row.sop_instance_uid,
            details={"instance": row.id},
            patient={"patient_id": row.patient_id},
        )


def _take_back_again(
    session: Session, settings: Settings, row: Instance, spooled: SpooledInstance
) -> None:
    """Have an image that comes back analysed, if only its expired retention withdrew it.

    Or if it failed for want of something that is there now: the model, or its bytes.
    """
    if not _may_come_back(row):
        return
    study = _study(session, spooled)
    session.refresh(row)
    if (
        not _may_come_back(row)
        or is_another_patient(study, row)
        or rejected_before(session, study.id, row.sop_instance_uid) is not None
    ):
        return
    is_raw = is_for_processing(row.sop_class_uid, row.presentation_intent)
    if is_raw and row.state is InstanceState.WITHDRAWN:
        advance(session, row, InstanceState.RECEIVED, reason=None, detail=None)
    else:
        queue_for_analysis(session, settings, row)
    _accept_into(session, study, spooled)


def _may_come_back(row: Instance) -> bool:
    return (row.state, row.reason) in _COME_BACK


class HasPatient(Protocol):
    """What says whose it is: a study, an instance, a data set."""

    @property
    def patient_id(self) -> str | None: ...  # noqa: D102  PatientID

    @property
    def issuer_of_patient_id(self) -> str | None: ...  # noqa: D102  IssuerOfPatientID


def is_another_patient(study: HasPatient, identity: HasPatient) -> bool:
    """Compare PatientID, and the issuers where both are known: modalities often leave it out."""
    if study.patient_id is None:
        return False
    issuers = {study.issuer_of_patient_id, identity.issuer_of_patient_id} - {None}
    return study.patient_id != identity.patient_id or len(issuers) > 1


def is_for_processing(sop_class_uid: str, presentation_intent: str | None) -> bool:
    """Say whether an image is raw detector data (PS3.3 C.8.11.1)."""
    return sop_class_uid == _FOR_PROCESSING_CLASS or presentation_intent == FOR_PROCESSING


def _study(session: Session, spooled: SpooledInstance) -> Study:
    uid = spooled.identity.study_instance_uid
    study = session.scalar(select(Study).where(Study.study_instance_uid == uid).with_for_update())
    if study is None:
        study = Study(study_instance_uid=uid, calling_aet=spooled.peer.calling_aet)
        session.add(study)
        session.flush()
    return study


def _accept_into(session: Session, study: Study, spooled: SpooledInstance) -> None:
    """Let an accepted instance set the study's identity once, and open the study again."""
    identity = spooled.identity
    if study.patient_id is None:
        study.patient_id = identity.patient_id
        study.issuer_of_patient_id = identity.issuer_of_patient_id
        study.accession_number = identity.accession_number
        study.study_date = identity.study_date
        study.exam_at = identity.exam_at
    study.last_received_at = utc_now()
    if study.state is not StudyState.OPEN:
        advance(session, study, StudyState.OPEN)


def _add_instance(
    session: Session, study: Study, spooled: SpooledInstance, verdict: Verdict
) -> Instance:
    identity = spooled.identity
    series = session.scalar(
        select(Series).where(
            Series.study_id == study.id,
            Series.series_instance_uid == identity.series_instance_uid,
        )
    )
    if series is None:
        series = Series(
            study=study,
            series_instance_uid=identity.series_instance_uid,
            modality=identity.modality,
        )
    instance = Instance(series=series, **instance_values(spooled, verdict))
    session.add(instance)
    return instance


def instance_values(spooled: SpooledInstance, verdict: Verdict) -> dict[str, Any]:
    """Return the columns of a received object's row, beside its series and its time."""
    identity = spooled.identity
    return {
        "sop_instance_uid": identity.sop_instance_uid,
        "sop_class_uid": identity.sop_class_uid,
        "transfer_syntax_uid": spooled.transfer_syntax_uid,
        "data_set_sha256": spooled.data_set_sha256,
        "size_bytes": spooled.size_bytes,
        "storage_key": spooled.storage_key,
        "state": verdict.state,
        "reason": verdict.reason.value if verdict.reason else None,
        "detail": SENTENCES[verdict.reason] if verdict.reason else None,
        "patient_id": identity.patient_id,
        "issuer_of_patient_id": identity.issuer_of_patient_id,
        "presentation_intent": identity.presentation_intent,
        "calling_aet": spooled.peer.calling_aet,
        "called_aet": spooled.peer.called_aet,
    }


def priority_of(settings: Settings, calling_aet: str) -> int:
    """Return the priority of an analysis by who sent the image."""
    return STAT if calling_aet in settings.dispatch.stat_calling_aets else ROUTINE


def _analyse_job(settings: Settings, instance: Instance) -> Job:
    return Job(
        kind=JobKind.ANALYSE,
        instance=instance,
        model_selector=settings.model_for(instance.calling_aet),
        identity_revision=instance.identity_revision,
        priority=priority_of(settings, instance.calling_aet),
    )


def queue_for_analysis(session: Session, settings: Settings, instance: Instance) -> bool:
    """Give an instance its analyse job: one that waited, came back, or has another identity now.

    Returns False when somebody else moved it first.
    """
    if not advance(session, instance, InstanceState.QUEUED, reason=None, detail=None):
        return False
    job = _analyse_job(settings, instance)
    ended = session.scalar(
        select(Job).where(
            Job.instance_id == instance.id,
            Job.model_selector == job.model_selector,
            Job.identity_revision == job.identity_revision,
            Job.state.in_(_ENDED),
        )
    )
    if ended is None:
        session.add(job)
        return True
    return advance(session, ended, JobState.PENDING, **_AS_NEW, not_before=utc_now())
