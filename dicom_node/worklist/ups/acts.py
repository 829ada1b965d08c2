"""What an AE or an account does to workitems: by rows, one transaction each (PS3.4 CC.2).

The reading of the study moves with the workitem (`worklist.readings`): what is claimed here is
claimed on the web, and the other way round. Each act returns its status; a refusal is an error.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from dicom_node.errors import (
    AlreadyCompletedError,
    AlreadyEndedError,
    AlreadyInProgressError,
    AttributeValueError,
    FilteredSubscriptionError,
    NotInProgressError,
    NotSchedulableError,
    PerformerAwayError,
    ReadingError,
    UnknownReceiverError,
    UnknownWorkitemError,
    WrongActionError,
    WrongTransactionError,
)
from dicom_node.worklist import readings
from dicom_node.worklist.readings import AE_PREFIX, Reader
from dicom_node.worklist.ups.names import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION, SETTABLE
from dicom_node.worklist.ups.statuses import (
    ALREADY_CANCELED,
    ALREADY_COMPLETED,
    ATTRIBUTES_NOT_SUPPORTED,
    SUCCESS,
)
from models.audit import AuditAction, record
from models.base import utc_now
from models.people_sections import UpsSettings
from models.reading import reading_of
from models.states import WorkitemState
from models.workitem import (
    CANCEL_REQUESTED,
    PROGRESS_REPORT,
    Workitem,
    WorkitemSubscription,
    WorkitemWatcher,
    begin,
    move,
    report_to,
    subscribe_to_all,
    tell,
)

_ENDED: Final = frozenset({WorkitemState.COMPLETED, WorkitemState.CANCELED})
_UID_LENGTH: Final = 64
_REASON_LENGTH: Final = 1024
_PROGRESS: Final = "ProcedureStepProgressInformationSequence"
_OF_REQUEST: Final = (
    "ReasonForCancellation",
    "ProcedureStepDiscontinuationReasonCodeSequence",
    "ContactURI",
    "ContactDisplayName",
)
_UPDATED: Final = AuditAction.WORKITEM_UPDATED
_NO_ATTRIBUTES: Final = frozenset({"SpecificCharacterSet", "TransactionUID"})


def workitem_of(session: Session, workitem_uid: str) -> Workitem:
    """Return a workitem. Raises UnknownWorkitemError."""
    workitem = session.scalar(select(Workitem).where(Workitem.workitem_uid == workitem_uid))
    if workitem is None:
        msg = "there is no workitem with this SOP Instance UID"
        raise UnknownWorkitemError(msg)
    return workitem


def _locked(session: Session, workitem_uid: str) -> Workitem:
    """Return a workitem whose study nobody else changes until the transaction ends."""
    workitem = workitem_of(session, workitem_uid)
    readings.locked_study(session, workitem.study.study_instance_uid)
    session.refresh(workitem)
    return workitem


def change_state(session: Session, workitem_uid: str, who: Reader, wanted: Dataset) -> int:
    """Claim, complete or give up a workitem under its Locking UID (Table CC.1.1-2).

    Raises a WorkitemError by that table.
    """
    workitem = _locked(session, workitem_uid)
    state, lock = text_of(wanted, "ProcedureStepState"), _transaction_uid(wanted)
    if state == WorkitemState.SCHEDULED:
        msg = "a workitem becomes SCHEDULED when it is made, and never again"
        raise NotSchedulableError(msg)
    if state not in _CHANGES:
        msg = f"{state or 'nothing'} is no Procedure Step State"
        raise AttributeValueError(msg)
    if lock is None or (
        workitem.state is not WorkitemState.SCHEDULED and lock != workitem.transaction_uid
    ):
        msg = "the Transaction UID is missing or another one than that of the claim"
        raise WrongTransactionError(msg)
    try:
        return _CHANGES[state](session, workitem, who, lock)
    except ReadingError as error:
        raise AlreadyInProgressError(str(error)) from error


def _claim(session: Session, workitem: Workitem, who: Reader, lock: str) -> int:
    if workitem.state in _ENDED:
        raise _ended(workitem)
    if workitem.state is WorkitemState.IN_PROGRESS:
        msg = "the workitem is in progress already"
        raise AlreadyInProgressError(msg)
    readings.claim(session, workitem.study.study_instance_uid, who, lock)
    return SUCCESS


def _complete(session: Session, workitem: Workitem, who: Reader, _lock: str) -> int:
    if workitem.state is WorkitemState.COMPLETED:
        return ALREADY_COMPLETED
    _require_progress(workitem)
    readings.read(session, workitem.study.study_instance_uid, _holder(session, workitem, who))
    return SUCCESS


def _give_up(session: Session, workitem: Workitem, who: Reader, _lock: str) -> int:
    if workitem.state is WorkitemState.CANCELED:
        return ALREADY_CANCELED
    _require_progress(workitem)
    readings.release(session, workitem.study.study_instance_uid, _holder(session, workitem, who))
    return SUCCESS


_CHANGES: Final[dict[str, Callable[[Session, Workitem, Reader, str], int]]] = {
    WorkitemState.IN_PROGRESS.value: _claim,
    WorkitemState.COMPLETED.value: _complete,
    WorkitemState.CANCELED.value: _give_up,
}


def _holder(session: Session, workitem: Workitem, who: Reader) -> Reader:
    """Return an AE as the AE that has claimed: the Locking UID proves that, no title does (CC.1.1).

    An account has proved who it is, and acts for itself alone; nobody else acts for it.
    """
    holder = reading_of(session, workitem.study).claimed_by or ""
    is_of_ae = who.calling_aet is not None and holder.startswith(AE_PREFIX)
    return replace(who, name=holder) if is_of_ae else who


def _require_progress(workitem: Workitem) -> None:
    if workitem.state in _ENDED:
        raise _ended(workitem)
    if workitem.state is not WorkitemState.IN_PROGRESS:
        msg = "the workitem is not in progress: claim it first"
        raise NotInProgressError(msg)


def _ended(workitem: Workitem) -> AlreadyEndedError:
    msg = f"the workitem is {workitem.state.value} and stays so"
    return AlreadyEndedError(msg)


def request_cancel(session: Session, workitem_uid: str, who: Reader, why: Dataset) -> int:
    """Cancel a workitem that nobody has begun; ask the performer of one in progress.

    The study stays unread: what is canceled is the workitem of this report.
    Raises AlreadyCompletedError, and PerformerAwayError where nobody would hear of it.
    """
    workitem = _locked(session, workitem_uid)
    if workitem.state is WorkitemState.CANCELED:
        return ALREADY_CANCELED
    if workitem.state is WorkitemState.COMPLETED:
        msg = "the workitem is COMPLETED"
        raise AlreadyCompletedError(msg)
    heard = tell(session, workitem, CANCEL_REQUESTED, _cancel_request(who, why))
    was = workitem.state
    if was is WorkitemState.SCHEDULED:
        begin(session, workitem, None)
        reason = text_of(why, "ReasonForCancellation")[:_REASON_LENGTH] or None
        values = {"canceled_by": who.ae_title, "ended_at": utc_now(), "reason": reason}
        move(session, workitem, WorkitemState.CANCELED, **values)
    elif not heard:
        msg = "the performer is not subscribed, so it cannot be asked"
        raise PerformerAwayError(msg)
    _record(session, workitem, who, "canceled" if was is WorkitemState.SCHEDULED else "asked")
    return SUCCESS


def _cancel_request(who: Reader, why: Dataset) -> dict[str, Any]:
    ds = Dataset()
    ds.RequestingAE = who.ae_title
    for keyword in _OF_REQUEST:
        if keyword in why:
            _copy(why, ds, keyword)
    return json_of(ds)


def _copy(source: Dataset, ds: Dataset, keyword: str) -> None:
    try:
        setattr(ds, keyword, source[keyword].value)
    except Exception as error:
        msg = f"{keyword} has a value that it cannot have"
        raise AttributeValueError(msg) from error


def set_attributes(session: Session, workitem_uid: str, who: Reader, wanted: Dataset) -> int:
    """Keep what the performer says of its progress and of what it did (N-SET, CC.2.6).

    Other attributes are left out, and a warning says so.
    """
    workitem = _locked(session, workitem_uid)
    _require_progress(workitem)
    if _transaction_uid(wanted) != workitem.transaction_uid:
        msg = "the Transaction UID is missing or another one than that of the claim"
        raise WrongTransactionError(msg)
    if _holder(session, workitem, who).name != reading_of(session, workitem.study).claimed_by:
        msg = "somebody else has claimed the study"
        raise AlreadyInProgressError(msg)
    chosen, others = _settable(wanted)
    workitem.attributes = {**workitem.attributes, **json_of(chosen)}
    workitem.changed_at = utc_now()
    if _PROGRESS in chosen:
        progress = Dataset()
        progress.add(chosen[_PROGRESS])
        tell(session, workitem, PROGRESS_REPORT, json_of(progress))
    _record(session, workitem, who, "progress" if _PROGRESS in chosen else "performed", _UPDATED)
    return ATTRIBUTES_NOT_SUPPORTED if others else SUCCESS


def _settable(wanted: Dataset) -> tuple[Dataset, bool]:
    """Return what a performer may set, and whether there is more. Raises AttributeValueError."""
    chosen, others = Dataset(), False
    for element in wanted:
        if element.keyword not in SETTABLE:
            others = others or element.keyword not in _NO_ATTRIBUTES
            continue
        if element.VR != "SQ":
            msg = f"{element.keyword} must be a sequence"
            raise AttributeValueError(msg)
        chosen.add(element)
    return chosen, others


def subscribe(ups: UpsSettings, session: Session, uid: str, who: Reader, ds: Dataset) -> int:
    """Subscribe the Receiving AE to one workitem, or to all of them (Table CC.2.3-2)."""
    receiver = _receiver(ups, ds)
    lock = text_of(ds, "DeletionLock").upper()
    if lock not in {"TRUE", "FALSE"}:
        msg = "Deletion Lock must be TRUE or FALSE"
        raise AttributeValueError(msg)
    if uid == GLOBAL_SUBSCRIPTION:
        subscribe_to_all(session, receiver, is_locked=lock == "TRUE")
        record_subscription(session, who, receiver, "all")
        return SUCCESS
    workitem = _locked(session, _single(uid))
    known = session.get(WorkitemSubscription, (receiver, workitem.id))
    if known is None:
        known = WorkitemSubscription(ae_title=receiver, workitem_id=workitem.id)
        session.add(known)
    known.is_locked = lock == "TRUE"
    report_to(session, receiver, workitem)
    record_subscription(session, who, receiver, "one")
    return SUCCESS


def unsubscribe(ups: UpsSettings, session: Session, uid: str, who: Reader, ds: Dataset) -> int:
    """End the subscription of the Receiving AE to one workitem, or every one that it has."""
    receiver = _receiver(ups, ds)
    gone = delete(WorkitemSubscription).where(WorkitemSubscription.ae_title == receiver)
    if uid == GLOBAL_SUBSCRIPTION:
        _suspend(session, receiver)
    else:
        workitem = _locked(session, _single(uid))
        gone = gone.where(WorkitemSubscription.workitem_id == workitem.id)
    session.execute(gone)
    outcome = "none" if uid == GLOBAL_SUBSCRIPTION else "one_less"
    record_subscription(session, who, receiver, outcome)
    return SUCCESS


def suspend(ups: UpsSettings, session: Session, uid: str, who: Reader, ds: Dataset) -> int:
    """Let the Receiving AE hear of no new workitem; of those that it knows it still hears.

    Raises WrongActionError for one workitem.
    """
    receiver = _receiver(ups, ds)
    if uid != GLOBAL_SUBSCRIPTION:
        workitem_of(session, _single(uid))
        msg = "only the global subscription can be suspended"
        raise WrongActionError(msg)
    _suspend(session, receiver)
    record_subscription(session, who, receiver, "suspended")
    return SUCCESS


def _suspend(session: Session, receiver: str) -> None:
    session.execute(
        delete(WorkitemWatcher).where(
            WorkitemWatcher.ae_title == receiver, WorkitemWatcher.is_manager.is_(False)
        )
    )


def _single(uid: str) -> str:
    """Return the UID of one workitem. Raises FilteredSubscriptionError."""
    if uid == FILTERED_SUBSCRIPTION:
        msg = "filtered global subscription is not supported"
        raise FilteredSubscriptionError(msg)
    return uid


def _receiver(ups: UpsSettings, ds: Dataset) -> str:
    title = text_of(ds, "ReceivingAE")
    if title not in ups.subscribers:
        msg = "the Receiving AE is not in worklist.ups.receivers or worklist.ups.web_subscribers"
        raise UnknownReceiverError(msg)
    return title


def text_of(ds: Dataset, keyword: str) -> str:
    """Return an element as stripped text; empty when it is absent or broken."""
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        return ""
    return "" if value is None else str(value).replace("\0", "").strip()


def _transaction_uid(ds: Dataset) -> str | None:
    text = text_of(ds, "TransactionUID")
    is_uid = 0 < len(text) <= _UID_LENGTH and set(text) <= set("0123456789.")
    return text if is_uid else None


def json_of(ds: Dataset) -> dict[str, Any]:
    """Return a data set in the DICOM JSON Model, which gives one back that can be sent by DIMSE.

    Raises AttributeValueError when it has no such form.
    """
    try:
        model = ds.to_json_dict()
        json.dumps(model, allow_nan=False)
        is_sound = encode(Dataset.from_json(model), is_implicit_vr=False, is_little_endian=True)
    except Exception as error:
        msg = "a value is none of its attribute"
        raise AttributeValueError(msg) from error
    if is_sound is None:
        msg = "a value is none of its attribute"
        raise AttributeValueError(msg)
    return model


def _record(
    session: Session,
    workitem: Workitem,
    who: Reader,
    outcome: str,
    action: AuditAction = AuditAction.WORKITEM_CANCEL_REQUESTED,
) -> None:
    record(
        session,
        action,
        outcome,
        **who.of_event,
        study_instance_uid=workitem.study.study_instance_uid,
        details={"workitem": workitem.workitem_uid},
        patient={"patient_id": workitem.study.patient_id},
    )


def record_subscription(session: Session, who: Reader, receiver: str, outcome: str) -> None:
    """Write what became of the subscriptions of an AE."""
    record(
        session,
        AuditAction.WORKITEM_SUBSCRIPTION,
        outcome,
        **who.of_event,
        details={"receiver": receiver},
    )
