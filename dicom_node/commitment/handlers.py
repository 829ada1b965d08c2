"""pynetdicom events of Storage Commitment: event -> message -> rows -> status; nothing else."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from pynetdicom import evt
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commitment.answers import record_report
from dicom_node.commitment.associations import SYNTAXES
from dicom_node.commitment.messages import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    PUSH_MODEL,
    REQUEST_COMMITMENT,
    WELL_KNOWN_INSTANCE,
    decode_question,
    decode_report,
)
from dicom_node.commitment.orders import accept_order, record_refusal
from dicom_node.commitment.statuses import SUCCESS, commitment_status
from dicom_node.errors import (
    CommitmentError,
    MalformedCommitmentError,
    UnknownActionError,
    UnknownEventError,
    WrongSopInstanceError,
)
from dicom_node.peer import peer_of
from models.session import Database
from models.settings import Settings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.dimse_primitives import N_ACTION, N_EVENT_REPORT

log = logging.getLogger(__name__)


def commitment_contexts(settings: Settings) -> list[PresentationContext]:
    """Return the context that the listener accepts; none where the settings use no commitment.

    A peer may be SCU (it asks us) where we provide the service, SCP (it answers us) where we ask
    (PS3.7 D.3.3.4).
    """
    asked, asks = settings.commitment_provider.enabled, bool(settings.destinations_with_commitment)
    if not (asked or asks):
        return []
    context = build_context(PUSH_MODEL, list(SYNTAXES))
    context.scu_role, context.scp_role = asked, asks
    return [context]


def commitment_events(settings: Settings, database: Database) -> list[EventHandlerType]:
    """Return the listener's handlers; none where the settings use no commitment."""
    if not commitment_contexts(settings):
        return []
    handlers = CommitmentHandlers(settings, database)
    return [
        (evt.EVT_N_ACTION, handlers.on_n_action),
        (evt.EVT_N_EVENT_REPORT, handlers.on_n_event_report),
    ]


@dataclass(frozen=True)
class CommitmentHandlers:
    """The handlers of both roles and what they need."""

    settings: Settings
    database: Database

    def on_n_event_report(self, event: Event) -> tuple[int, None]:
        """Take the answer to a question of ours; success only when its rows are durable."""
        return _answer("N-EVENT-REPORT", lambda: self._take_report(event)), None

    def _take_report(self, event: Event) -> None:
        request = cast("N_EVENT_REPORT", event.request)
        _require_instance(request.AffectedSOPInstanceUID)
        if request.EventTypeID not in {ALL_COMMITTED, FAILURES_EXIST}:
            msg = "the Event Type ID is none of the Push Model"
            raise UnknownEventError(msg)
        report = decode_report(_data_set(lambda: event.event_information))
        record_report(self.database, self.settings.delivery, report)

    def on_n_action(self, event: Event) -> tuple[int, None]:
        """Take a sender's question; success only when its row is durable."""
        status = _answer("N-ACTION", lambda: self._take_question(event))
        if status != SUCCESS:
            try:
                record_refusal(self.database, peer_of(event.assoc).calling_aet, status)
            except Exception:
                log.exception("audit event commitment_asked could not be written")
        return status, None

    def _take_question(self, event: Event) -> None:
        request = cast("N_ACTION", event.request)
        _require_instance(request.RequestedSOPInstanceUID)
        if request.ActionTypeID != REQUEST_COMMITMENT:
            msg = "the Action Type ID is none of the Push Model"
            raise UnknownActionError(msg)
        question = decode_question(_data_set(lambda: event.action_information))
        accept_order(self.database, self.settings, peer_of(event.assoc).calling_aet, question)


def _answer(name: str, take: Callable[[], None]) -> int:
    """Return the DIMSE status of an attempt to take a message."""
    try:
        take()
    except Exception as error:  # the edge: every failure becomes a status
        status = commitment_status(error)
        if isinstance(error, CommitmentError | SQLAlchemyError):
            text = str(error) if isinstance(error, CommitmentError) else type(error).__name__
            log.error("%s answered 0x%04X: %s", name, status, text)  # noqa: TRY400  expected
        else:
            log.exception("%s answered 0x%04X", name, status)
        return status
    return SUCCESS


def _require_instance(uid: object) -> None:
    if uid != WELL_KNOWN_INSTANCE:
        msg = "the SOP Instance is not the one of the Push Model"
        raise WrongSopInstanceError(msg)


def _data_set(read: "Callable[[], Dataset]") -> "Dataset":
    try:
        return read()
    except Exception as error:
        msg = "the message has no data set that can be read"
        raise MalformedCommitmentError(msg) from error
