"""The Query/Retrieve SCP: who may, what is asked, responses, statuses, audit."""

import logging
from collections.abc import Callable, Mapping
from typing import Final, cast

from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE
from pynetdicom.presentation import PresentationContext, build_context
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.contexts import (
    QUERY_RETRIEVE,
    STORAGE_CLASSES,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
)
from dicom_node.errors import (
    IdentifierError,
    QueryError,
    QueryNotAuthorisedError,
    QueryOperationError,
)
from dicom_node.peer import peer_of
from dicom_node.query.destinations import MoveDestinations
from dicom_node.query.events import QueryLog
from dicom_node.query.exchange import Exchange, Request, SubOperations
from dicom_node.query.find import find
from dicom_node.query.held import Holdings
from dicom_node.query.keys import read_query, read_selection, tag_of
from dicom_node.query.retrieve import (
    Originator,
    StoredObject,
    move_association,
    require_room,
    select_objects,
    store,
)
from dicom_node.query.status import (
    ALL_FAILED,
    CANCELLED,
    PENDING,
    PENDING_WITH_WARNING,
    SOME_FAILED,
    query_status,
)
from dicom_node.services import Serve
from dicom_node.status import SUCCESS
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

OPERATIONS: Final[Mapping[str, type[Request]]] = {
    STUDY_ROOT_FIND: C_FIND,
    STUDY_ROOT_MOVE: C_MOVE,
    STUDY_ROOT_GET: C_GET,
}

_OUTCOMES: Final = {
    SUCCESS: "success",
    SOME_FAILED: "warning",
    ALL_FAILED: "failure",
    CANCELLED: "cancelled",
}

_Store = Callable[[StoredObject, int], int | None]


class QueryRetrieve:
    """Serves C-FIND, C-MOVE and C-GET over what the node holds; any number of them at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings.query_retrieve
        self._ae_title = settings.dicom.ae_title
        self._destinations = MoveDestinations.of(settings)
        self._database = database
        self._holdings = Holdings(settings, database)

    def serve(self, assoc: Association, request: Request, context: PresentationContext) -> None:
        """Answer one request, whatever happens; every end is a status, and an audit event."""
        exchange = Exchange(assoc, request, context)
        events = QueryLog(self._database, exchange)
        try:
            self._authorise(exchange)
            if isinstance(request, C_FIND):
                self._find(exchange, events)
            else:
                self._retrieve(exchange, events)
        except Exception as error:  # noqa: BLE001  the edge: every failure becomes a status
            status = query_status(error, retrieves=not isinstance(request, C_FIND))
            _log_end(exchange, error, status)
            events.failed(error, status)
            keyword = error.keyword if isinstance(error, IdentifierError) else None
            comment = str(error) if isinstance(error, QueryError) else ""
            exchange.end(status, comment, [tag_of(keyword)] if keyword else [])

    def _authorise(self, exchange: Exchange) -> None:
        """Raise QueryNotAuthorisedError or QueryOperationError unless the peer may ask this."""
        if peer_of(exchange.assoc).calling_aet not in self._settings.calling_aets:
            msg = "this AE title may not query: query_retrieve.calling_aets"
            raise QueryNotAuthorisedError(msg)
        sop_class = exchange.context.abstract_syntax
        is_named = exchange.request.AffectedSOPClassUID == sop_class
        if not is_named or not isinstance(exchange.request, OPERATIONS[str(sop_class)]):
            msg = "not the operation of this presentation context"
            raise QueryOperationError(msg)

    def _find(self, exchange: Exchange, events: QueryLog) -> None:
        query = read_query(exchange.identifier(), self._settings.max_results)
        events.asked(query)
        pending = PENDING_WITH_WARNING if query.unsupported else PENDING
        candidates = self._holdings.candidates(query)
        for match in find(candidates, query, self._settings, lambda: exchange.is_over):
            match.RetrieveAETitle = self._ae_title
            match.InstanceAvailability = "ONLINE"
            exchange.match(pending, match)
            events.matches += 1
        events.found()
        log.info("%s answered with %d matches", exchange.name, events.matches)
        exchange.end(SUCCESS)

    def _retrieve(self, exchange: Exchange, events: QueryLog) -> None:
        request = exchange.request
        receiver = None
        if isinstance(request, C_MOVE):
            receiver = self._destinations.receiver(str(request.MoveDestination or "").strip())
            events.to(receiver.ae_title)
        else:
            require_room(exchange.assoc)
        limit = self._settings.max_results
        selection = read_selection(exchange.identifier(), limit)
        events.selected(selection)
        objects = select_objects(self._database, self._holdings, selection, limit)
        events.begin(objects)
        if receiver is None:
            self._transfer(
                exchange, events, objects, lambda each, number: store(exchange.assoc, each, number)
            )
            return
        originator = Originator(peer_of(exchange.assoc).calling_aet, cast("int", request.MessageID))
        with move_association(self._destinations.sender, receiver, objects) as assoc:
            self._transfer(
                exchange,
                events,
                objects,
                lambda each, number: store(assoc, each, number, originator),
            )

    def _transfer(
        self, exchange: Exchange, events: QueryLog, objects: list[StoredObject], send: _Store
    ) -> None:
        """Do the sub-operations, one pending response after each, and answer how they went."""
        done = SubOperations(remaining=len(objects))
        for number, each in enumerate(objects, start=1):
            if exchange.is_over:
                break
            status = send(each, number)
            done.count(each.sop_instance_uid, status)
            events.sent(each, status)
            exchange.progress(PENDING, done)
        final = _final_status(done, len(objects))
        events.transferred(_OUTCOMES[final], final)
        log.info("%s answered 0x%04X %s", exchange.name, final, done.numbers())
        exchange.progress(final, done)


def _final_status(done: SubOperations, number: int) -> int:
    """Return the status by what became of the sub-operations (PS3.4 C.4.2.3.1)."""
    if done.remaining:
        return CANCELLED
    if number and done.failed == number:
        return ALL_FAILED
    return SOME_FAILED if done.failed or done.warning else SUCCESS


def query_contexts(settings: Settings) -> list[PresentationContext]:
    """Return the contexts of the service, none where it is off."""
    if not settings.query_retrieve.enabled:
        return []
    return [build_context(uid, list(syntaxes)) for uid, syntaxes in QUERY_RETRIEVE.items()]


def with_roles(
    settings: Settings, contexts: list[PresentationContext]
) -> list[PresentationContext]:
    """Return contexts of storage in which a peer may be SCP too, as C-GET needs it.

    Where the service is off they are as they were: a proposed role gets no answer
    (PS3.7 D.3.3.4).
    """
    for context in contexts:
        if settings.query_retrieve.enabled and context.abstract_syntax in STORAGE_CLASSES:
            context.scu_role = context.scp_role = True
    return contexts


def query_services(settings: Settings, database: Database) -> dict[str, Serve]:
    """Return what serves the abstract syntaxes of the service, nothing where it is off."""
    if not settings.query_retrieve.enabled:
        return {}
    return dict.fromkeys(QUERY_RETRIEVE, QueryRetrieve(settings, database).serve)


def _log_end(exchange: Exchange, error: Exception, status: int) -> None:
    """Log an expected end in one line; what caused it may quote what the peer sent."""
    if isinstance(error, QueryError | SQLAlchemyError | OSError):
        text = str(error) if isinstance(error, QueryError) else ""
        log.warning("%s answered 0x%04X: %s %s", exchange.name, status, type(error).__name__, text)
    else:
        log.error("%s answered 0x%04X", exchange.name, status, exc_info=error)
