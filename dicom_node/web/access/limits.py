"""What a request may be: no larger than a form or a JSON body needs, no NUL in its address.

Objects that come by STOW-RS are no forms: their route bounds them.
"""

from typing import Final

from fastapi import HTTPException, status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.web.problems import problem

MAX_BODY_BYTES: Final = 1 << 20
_UNBOUNDED: Final = ("multipart/related", "application/dicom")


class Limits:
    """Middleware that refuses what is none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, or answer it with 400; a body that is too large ends with 413."""
        if scope["type"] == "http" and _has_nul(scope):
            # No text in a database can have one: PostgreSQL refuses it.
            answer = problem(status.HTTP_400_BAD_REQUEST, "the address has a NUL character")
            await answer(scope, receive, send)
            return
        kind = Headers(scope=scope).get("content-type", "") if scope["type"] == "http" else ""
        is_bounded = scope["type"] == "http" and not _is_unbounded(kind)
        await self._app(scope, _bounded(receive) if is_bounded else receive, send)


def _has_nul(scope: Scope) -> bool:
    return "\x00" in scope["path"] or b"%00" in scope.get("query_string", b"")


def _is_unbounded(kind: str) -> bool:
    return kind.partition(";")[0].strip().lower() in _UNBOUNDED


def _bounded(receive: Receive) -> Receive:
    """Return `receive` that raises in the route which reads too much."""
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > MAX_BODY_BYTES:
                raise HTTPException(
                    status.HTTP_413_CONTENT_TOO_LARGE,
                    f"the body is larger than {MAX_BODY_BYTES} bytes",
                )
        return message

    return bounded
