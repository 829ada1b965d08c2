"""Requests and responses of the service on an association: the edge to pynetdicom.

The SOP Class of a workitem is always Push, whatever was negotiated (PS3.4 CC.3.1), so pynetdicom
could not tell by it which service is asked; the presentation context tells (`dicom_node.services`).
"""

import logging
from collections.abc import Callable, Collection
from functools import partial
from io import BytesIO
from typing import Any, Final, cast

from pydicom.datadict import keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, N_ACTION, N_GET, N_SET
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.errors import (
    AttributeValueError,
    IdentifierError,
    NodeError,
    NoSuchActionError,
    WorkitemNotAuthorisedError,
    WorkitemOperationError,
)
from dicom_node.peer import audit, peer_of
from dicom_node.query.exchange import Exchange
from dicom_node.query.keys import tag_of
from dicom_node.services import Serve
from dicom_node.worklist.readings import Reader
from dicom_node.worklist.ups import acts
from dicom_node.worklist.ups.described import KEYWORDS, Describer
from dicom_node.worklist.ups.names import (
    ACTIONS,
    CHANGE_STATE,
    PULL,
    PUSH,
    QUERY,
    REQUEST_CANCEL,
    SUBSCRIBE,
    SUSPEND,
    SYNTAXES,
    UNSUBSCRIBE,
    WATCH,
)
from dicom_node.worklist.ups.search import Request, at_most, find
from dicom_node.worklist.ups.statuses import (
    ATTRIBUTES_NOT_SUPPORTED,
    PENDING,
    PENDING_WITH_WARNING,
    SUCCESS,
    ups_status,
)
from models.audit import AuditAction, record
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

Message = C_FIND | N_ACTION | N_GET | N_SET
Act = Callable[[Session, str, Reader, Dataset], int]
# What each SOP Class offers (PS3.4 Tables CC.2-2, CC.2-3 and CC.2-5).
OPERATIONS: Final[dict[str, tuple[type[Message], ...]]] = {
    PULL: (C_FIND, N_GET, N_SET, N_ACTION),
    WATCH: (C_FIND, N_GET, N_ACTION),
    QUERY: (C_FIND,),
}
_MAX_BYTES: Final = 1 << 18  # of a data set that comes with N-ACTION or N-SET
_MAX_COMMENT: Final = 64  # VR LO, PS3.7 C.1


def ups_contexts(settings: Settings) -> list[PresentationContext]:
    """Return the contexts of the service, none where it is off."""
    if not settings.worklist.ups.enabled:
        return []
    return [build_context(uid, list(SYNTAXES)) for uid in OPERATIONS]


def ups_services(settings: Settings, database: Database) -> dict[str, Serve]:
    """Return what serves the abstract syntaxes of the service, nothing where it is off."""
    if not settings.worklist.ups.enabled:
        return {}
    return dict.fromkeys(OPERATIONS, UpsService(settings, database).serve)


class UpsService:
    """Serves the SOP Classes Pull, Watch and Query; any number of requests at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._ups = settings.worklist.ups
        self._database = database

    def serve(self, assoc: Association, request: Any, context: PresentationContext) -> None:  # noqa: ANN401  any message may come
        """Answer one request, whatever happens; every end is a status."""
        try:
            self._authorise(assoc, request, context)
            if isinstance(request, C_FIND):
                self._find(Exchange(assoc, request, context))
                return
            status, ds = self._act(assoc, request, context)
        except Exception as error:  # noqa: BLE001  the edge: every failure becomes a status
            self._refuse(assoc, request, context, error)
            return
        _answer(assoc, request, context, status, ds=ds)

    def _authorise(self, assoc: Association, request: object, context: PresentationContext) -> None:
        if peer_of(assoc).calling_aet not in self._ups.calling_aets:
            msg = "this AE title may not use it: worklist.ups.calling_aets"
            raise WorkitemNotAuthorisedError(msg)
        if not isinstance(request, OPERATIONS[str(context.abstract_syntax)]):
            msg = "not an operation of this presentation context"
            raise WorkitemOperationError(msg)

    def _refuse(
        self,
        assoc: Association,
        request: Any,  # noqa: ANN401  any message may come
        context: PresentationContext,
        error: Exception,
    ) -> None:
        is_query = isinstance(request, C_FIND)
        status = ups_status(error, is_query=is_query)
        name = type(request).__name__.replace("_", "-")
        text = str(error) if isinstance(error, NodeError) else ""
        if isinstance(error, NodeError | SQLAlchemyError | OSError):
            log.warning("UPS %s answered 0x%04X: %s %s", name, status, type(error).__name__, text)
        else:
            log.error("UPS %s answered 0x%04X", name, status, exc_info=error)
        if is_query:
            self._audit_query(assoc, type(error).__name__, status, 0)
            keyword = error.keyword if isinstance(error, IdentifierError) else None
            Exchange(assoc, request, context).end(
                status, text, [tag_of(keyword)] if keyword else []
            )
        else:
            _answer(assoc, request, context, status, text)

    def _find(self, exchange: Exchange) -> None:
        request = Request(exchange.identifier())
        pending = PENDING_WITH_WARNING if request.unsupported else PENDING
        number = 0
        with self._database.read() as session:
            found = find(session, self._settings, request, lambda: exchange.is_over)
            for match in at_most(self._ups.max_results, found):
                exchange.match(pending, match)
                number += 1
        self._audit_query(exchange.assoc, "success", SUCCESS, number)
        exchange.end(SUCCESS)

    def _audit_query(self, assoc: Association, outcome: str, status: int, matches: int) -> None:
        peer = peer_of(assoc)
        audit(
            self._database,
            AuditAction.QUERY,
            outcome,
            calling_aet=peer.calling_aet,
            called_aet=peer.called_aet,
            peer=peer.address,
            status=status,
            details={"service": "C-FIND", "model": "UPS", "matches": matches},
        )

    def _act(
        self, assoc: Association, request: N_ACTION | N_GET | N_SET, context: PresentationContext
    ) -> tuple[int, Dataset | None]:
        uid = str(request.RequestedSOPInstanceUID or "")
        who = Reader.of_ae(peer_of(assoc).calling_aet)
        if isinstance(request, N_GET):
            return self._get(uid, who, request)
        raw = (
            request.ActionInformation if isinstance(request, N_ACTION) else request.ModificationList
        )
        ds = _data_set(raw, context)
        with self._database.write() as session:
            if isinstance(request, N_SET):
                return acts.set_attributes(session, uid, who, ds), None
            action = self._action(request, context)
            return action(session, uid, who, ds), None

    def _action(self, request: N_ACTION, context: PresentationContext) -> Act:
        """Return what an N-ACTION does. Raises NoSuchActionError."""
        ups = self._ups
        actions: dict[int, Act] = {
            CHANGE_STATE: acts.change_state,
            REQUEST_CANCEL: acts.request_cancel,
            SUBSCRIBE: partial(acts.subscribe, ups),
            UNSUBSCRIBE: partial(acts.unsubscribe, ups),
            SUSPEND: partial(acts.suspend, ups),
        }
        number = request.ActionTypeID
        if context.abstract_syntax is None or number not in ACTIONS[context.abstract_syntax]:
            msg = "the SOP Class of this presentation context has no such action"
            raise NoSuchActionError(msg)
        return actions[number]

    def _get(self, uid: str, who: Reader, request: N_GET) -> tuple[int, Dataset]:
        """Return the attributes that are asked for, or all; the audit knows who asks."""
        wanted, unsupported = _wanted(request.AttributeIdentifierList)
        with self._database.write() as session:
            workitem = acts.workitem_of(session, uid)
            record(
                session,
                AuditAction.PATIENT_DATA_READ,
                "workitem",
                **who.of_event,
                study_instance_uid=workitem.study.study_instance_uid,
                details={"workitem": uid},
                patient={"patient_id": workitem.study.patient_id},
            )
        with self._database.read() as session:
            workitem = acts.workitem_of(session, uid)
            ds = Describer(self._settings, session).describe(workitem, wanted)
        return ATTRIBUTES_NOT_SUPPORTED if unsupported else SUCCESS, ds


def _wanted(tags: Any) -> tuple[Collection[str], bool]:  # noqa: ANN401  one tag, several or none
    """Return the keywords of an Attribute Identifier List, and whether some are not supported."""
    if tags is None:
        return KEYWORDS, False
    listed = [tags] if isinstance(tags, BaseTag | int) else list(tags)
    names = [keyword_for_tag(tag) for tag in listed]
    others = [name for name in names if name not in KEYWORDS and name != "SpecificCharacterSet"]
    return [name for name in names if name in KEYWORDS], bool(others)


def _data_set(raw: Any, context: PresentationContext) -> Dataset:  # noqa: ANN401  a stream or none
    if raw is None:
        return Dataset()
    syntax = context.transfer_syntax[0]
    if raw.getbuffer().nbytes > _MAX_BYTES:
        msg = f"the data set has more than {_MAX_BYTES} bytes"
        raise AttributeValueError(msg)
    try:
        ds = decode(raw, syntax.is_implicit_VR, syntax.is_little_endian)
        for _ in ds.iterall():  # every value is read here, or none
            pass
    except Exception as error:
        msg = "the data set cannot be read"
        raise AttributeValueError(msg) from error
    return ds


def _answer(
    assoc: Association,
    request: Any,  # noqa: ANN401  any message may come
    context: PresentationContext,
    status: int,
    comment: str = "",
    ds: Dataset | None = None,
) -> None:
    """Send the response to a DIMSE-N request."""
    response = type(request)()
    response.MessageIDBeingRespondedTo = request.MessageID
    response.AffectedSOPClassUID = PUSH
    response.AffectedSOPInstanceUID = getattr(request, "RequestedSOPInstanceUID", None)
    if isinstance(request, N_ACTION):
        response.ActionTypeID = request.ActionTypeID
    response.Status = status
    if comment:
        response.ErrorComment = comment[:_MAX_COMMENT]
    if ds is not None:
        syntax = context.transfer_syntax[0]
        encoded = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian)
        if encoded is None:
            response.Status = 0x0110
        else:
            response.AttributeList = BytesIO(encoded)
    if assoc.is_established:
        assoc.dimse.send_msg(response, cast("int", context.context_id))
