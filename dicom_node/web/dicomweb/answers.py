"""HTTP answers of DICOMweb: streamed, described, and what they say beside their body."""

from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import anyio
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from dicom_node.errors import QueryError
from dicom_node.web import problems
from dicom_node.web.dicomweb.errors import RETRY_SECONDS, DicomwebError, status_of

_AGENT: Final = "dicom-node"


class Stream(StreamingResponse):
    """A body from an iterator that blocks. It is closed when the answer ends, however it ends."""

    def __init__(
        self,
        pieces: Iterator[bytes],
        media_type: str,
        status: HTTPStatus = HTTPStatus.OK,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(pieces, status, headers, media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self._pieces, "close", None)
            if close is not None:
                with anyio.CancelScope(shield=True):  # it writes an event, and that blocks
                    await run_in_threadpool(close)


def warned(remarks: Sequence[str]) -> dict[str, str]:
    """Return the header that says what was done otherwise than asked (PS3.18 8.4.2)."""
    said = ", ".join(f'299 {_AGENT} "{each}"' for each in remarks)
    return {"Warning": said} if said else {}


async def refused(_request: Request, error: Exception) -> Response:
    """Answer a request that cannot be served with a problem document."""
    status = status_of(error)
    is_busy = status is HTTPStatus.SERVICE_UNAVAILABLE
    later = {"Retry-After": str(RETRY_SECONDS)} if is_busy else {}
    return problems.problem(status, str(error), headers=later)


HANDLED: Final = (DicomwebError, QueryError)
