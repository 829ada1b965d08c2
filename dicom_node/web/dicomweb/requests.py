"""Requests of DICOMweb as the services need them, and the answers of QIDO-RS and STOW-RS."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import anyio
from anyio import from_thread
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Message

from dicom_node.errors import QueryError
from dicom_node.query.keys import UNIQUE_KEYS, Level
from dicom_node.types import Peer
from dicom_node.web.access.gate import address_of
from dicom_node.web.auth import Principal
from dicom_node.web.dicomweb.answers import warned
from dicom_node.web.dicomweb.errors import (
    RETRY_SECONDS,
    BodyError,
    DicomwebError,
    MediaTypeError,
)
from dicom_node.web.dicomweb.events import STORE, Events
from dicom_node.web.dicomweb.json_model import dataset_text
from dicom_node.web.dicomweb.media_types import (
    DICOM,
    MULTIPART,
    MediaType,
    accepted,
    json_form,
)
from dicom_node.web.dicomweb.multipart import Reader
from dicom_node.web.dicomweb.retrieve import Retrieval
from dicom_node.web.dicomweb.search import (
    Page,
    Search,
    addressed,
    find_page,
    read_search,
    with_address,
)
from dicom_node.web.dicomweb.store import Sending, Store
from dicom_node.web.dicomweb.store_response import module_of, status_of_all
from dicom_node.web.dicomweb.targets import Targets
from models.fields import ae_title_of
from models.session import Database
from models.settings import Settings

ROOT: Final = "/dicom-web"
MORE: Final = "There are additional results that can be requested"


class Service:
    """DICOMweb of one node."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings, self._database = settings, database
        self._targets = Targets(settings, database)
        self.retrieval = Retrieval(self._targets)
        self._store = Store(settings, database)

    def close(self) -> None:
        """Close what is open."""
        self._store.close()

    def events(self, request: Request, who: Principal) -> Events:
        """Return what writes the events of a request."""
        return Events(self._database, who, request)

    def root_of(self, request: Request) -> str:
        """Return what the addresses in answers begin with."""
        site = self._settings.web.url or str(request.base_url)
        return f"{site.rstrip('/')}{ROOT}"

    def search(self, request: Request, who: Principal, level: Level, *path: str) -> Response:
        """Answer QIDO-RS; `path` are the UIDs of the levels above, the study's first."""
        form = json_form(ranges_of(request))
        events = self.events(request, who)
        search, page = self._find(request, events, level, path)
        root = self.root_of(request)
        matches = (
            with_address(match, f"{root}/{addressed(level, match).path}") for match in page.matches
        )
        remarks = [*search.remarks, *([MORE] if page.has_more else [])]
        if not page.matches:
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=warned(remarks))
        body = ",\n".join(map(dataset_text, matches))
        return Response(f"[{body}]", headers=warned(remarks), media_type=form)

    def _find(
        self, request: Request, events: Events, level: Level, path: tuple[str, ...]
    ) -> tuple[Search, Page]:
        """Search, and write the event of it, whatever comes of it."""
        limits = self._settings.query_retrieve
        target = dict(zip(UNIQUE_KEYS.values(), path, strict=False))
        search = None
        try:
            parameters = request.query_params.multi_items()
            search = read_search(level, target, parameters, limits.max_results)
            page = find_page(self._targets.holdings, search, limits)
        except (DicomwebError, QueryError) as error:
            events.searched(search.query if search else None, type(error).__name__[:40], 0)
            raise
        events.searched(search.query, "success", len(page.matches))
        return search, page

    def store(self, request: Request, who: Principal, study: str | None) -> Response:
        """Answer STOW-RS."""
        kind = MediaType.parse(request.headers.get("content-type", ""))
        if kind.kind != MULTIPART or kind.parameters.get("type", DICOM).lower() != DICOM:
            msg = f'the body must be {MULTIPART}; type="{DICOM}"'
            raise MediaTypeError(msg)
        form = json_form(ranges_of(request))
        peer = Peer(
            calling_aet=self._settings.web.stow_calling_aet or ae_title_of(who.name, STORE),
            called_aet=self._settings.dicom.ae_title,
            address=address_of(request),
            actor=who.name,
        )
        patience = self._settings.dicom.network_timeout_seconds
        reader = Reader(_body(request, patience), kind.parameters.get("boundary", ""))
        outcomes = self._store.store(reader, Sending(peer, study))
        status = status_of_all(outcomes)
        is_busy = status is HTTPStatus.SERVICE_UNAVAILABLE
        return Response(
            dataset_text(module_of(outcomes, self.root_of(request))),
            status,
            {"Retry-After": str(RETRY_SECONDS)} if is_busy else {},
            form,
        )


def ranges_of(request: Request) -> list[MediaType]:
    """Return what the client accepts, best first."""
    return accepted(request.headers.getlist("accept"), request.query_params.get("accept"))


def _body(request: Request, patience: float) -> Iterator[bytes]:
    """Yield the body as it comes, in a thread of its own.

    Raises BodyError when the client is gone, or sends nothing for so many seconds.
    """

    async def receive() -> Message:
        with anyio.fail_after(patience):
            return await request.receive()

    while True:
        try:
            message: Any = from_thread.run(receive)
        except TimeoutError as error:
            msg = "nothing came for too long"
            raise BodyError(msg) from error
        if message["type"] == "http.disconnect":
            msg = "the client is gone"
            raise BodyError(msg)
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return
