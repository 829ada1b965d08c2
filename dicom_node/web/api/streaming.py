"""Large answers: everything that a filter matches, in bounded memory, and never half of it unseen.

A stream that breaks ends without the last chunk of HTTP/1.1, which every client reports. Before
1.1 the end of a body is the end of the connection, whatever the reason: such a request is refused.
"""

import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import anyio
from anyio import to_thread
from fastapi import HTTPException, Request, status
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter
from sqlalchemy.orm import Session
from starlette.concurrency import iterate_in_threadpool
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dicom_node.web.api.parameters import Form, Paging
from dicom_node.web.api.tables import Writer
from models.session import Database

MEDIA_TYPES: Final = {Form.CSV: "text/csv", Form.NDJSON: "application/x-ndjson"}
_AT_ONCE: Final = 4  # each holds a connection to the database
_RETRY_SECONDS: Final = "10"
_MOST_SECONDS: Final = 3600.0  # a reader that stands still must not keep a view of the rows


class TimedStream(StreamingResponse):
    """A stream that is broken off where it takes too long."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the body. Raises TimeoutError, which breaks off the connection."""
        with anyio.fail_after(_MOST_SECONDS):
            await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class Streams:
    """The large answers that run at once; each reads one consistent view of the database."""

    database: Database
    _free: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_AT_ONCE)
    )

    def answer(
        self,
        form: Form,
        name: str,
        kind: "TypeAdapter[Any]",
        rows: Callable[[Session], Iterable[Any]],
    ) -> Response:
        """Return the answer that writes these rows. What fails before the first is an error yet.

        Raises HTTPException 503 where too many run already.
        """
        pieces = self._pieces(Writer(kind, is_csv=form is Form.CSV), rows)
        first = next(pieces)
        headers = {"Content-Disposition": f'attachment; filename="{name}.{form.value}"'}
        media_type = f"{MEDIA_TYPES[form]}; charset=utf-8"
        return TimedStream(_body(first, pieces), headers=headers, media_type=media_type)

    def _pieces(self, writer: Writer, rows: Callable[[Session], Iterable[Any]]) -> Generator[bytes]:
        with self._turn(), self.database.read() as session:
            yield from writer.pieces(rows(session))

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._free.acquire(blocking=False):
            raise HTTPException(
                status.HTTP_503_SERVICE_UNAVAILABLE,
                f"{_AT_ONCE} large answers are being written already: try again later",
                {"Retry-After": _RETRY_SECONDS},
            )
        try:
            yield
        finally:
            self._free.release()


async def _body(first: bytes, pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pieces; the connection to the database ends with the stream, however that ends."""
    try:
        yield first
        async for piece in iterate_in_threadpool(pieces):
            yield piece
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(pieces.close)


def wanted_form(request: Request, paging: Paging) -> Form:
    """Return what the answer is to be written as.

    Raises HTTPException 400 for a page of a stream, 426 where its end could not be told.
    """
    form = paging.format or _accepted(request.headers.get("accept", ""))
    if form is Form.JSON:
        return form
    if paging.cursor is not None or paging.limit is not None:
        raise HTTPException(
            status.HTTP_400_BAD_REQUEST, f"{form.value} is everything: leave out cursor and limit"
        )
    if request.scope["http_version"] in {"0.9", "1.0"}:
        raise HTTPException(
            status.HTTP_426_UPGRADE_REQUIRED,
            "a large answer needs HTTP/1.1: before it, a broken one looks like a complete one",
            {"Upgrade": "HTTP/1.1"},
        )
    return form


def _accepted(header: str) -> Form:
    """Return the form that is liked best (RFC 9110 12.5.1); JSON where none of ours is named.

    What is liked not at all is never chosen. Whoever takes anything gets JSON, unless a form that
    is named is liked as well.
    """
    named = {"application/json": Form.JSON} | {each: form for form, each in MEDIA_TYPES.items()}
    liked: dict[str, float] = {}
    for part in header.split(","):
        media_type, *parameters = (piece.strip().lower() for piece in part.split(";"))
        liked[media_type] = max(liked.get(media_type, 0.0), _quality(parameters))
    found = [(value, named[each]) for each, value in liked.items() if each in named and value]
    if "application/json" not in liked and liked.get("*/*"):
        found.append((liked["*/*"], Form.JSON))
    return max(found, key=lambda each: each[0], default=(1.0, Form.JSON))[1]


def _quality(parameters: list[str]) -> float:
    for each in parameters:
        name, _, value = each.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0


def forms(kind: Any) -> dict[int | str, dict[str, Any]]:  # noqa: ANN401  a response model
    """Return what the schema says of a listing: a page, or everything as a stream."""
    text = {"schema": {"type": "string"}}
    return {
        200: {
            "model": kind,
            "description": "A page as JSON, or everything as CSV or JSON lines",
            "content": dict.fromkeys(MEDIA_TYPES.values(), text),
        }
    }
