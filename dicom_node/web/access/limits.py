"""What a request may be: no larger than a form or a JSON body needs, no NUL in address or form.

Objects that come by STOW-RS are no forms: their route bounds them, after it knows who sends them.
"""

from typing import Final

from fastapi import HTTPException, status
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dicom_node.web.problems import problem

MAX_BODY_BYTES: Final = 1 << 20
_STORES: Final = "/dicom-web/studies"
_OBJECTS: Final = frozenset({"multipart/related", "application/dicom"})
# How a form may write the character.
_NULS: Final[dict[str, tuple[bytes, ...]]] = {
    "application/x-www-form-urlencoded": (b"\x00", b"%00"),
    "multipart/form-data": (b"\x00",),
}
_LONGEST: Final = 3


class Limits:
    """Middleware that refuses what is none."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, or answer it with 400; a body that is too large ends with 413."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if _has_nul(scope):
            # No text in a database can have one: PostgreSQL refuses it.
            answer = problem(status.HTTP_400_BAD_REQUEST, "the address has a NUL character")
            await answer(scope, receive, send)
            return
        kind = Headers(scope=scope).get("content-type", "").partition(";")[0].strip().lower()
        if not _holds_objects(scope, kind):
            receive = _bounded(receive, _NULS.get(kind, ()))
        await self._app(scope, receive, send)


def _has_nul(scope: Scope) -> bool:
    return "\x00" in scope["path"] or b"%00" in scope.get("query_string", b"")


def _holds_objects(scope: Scope, kind: str) -> bool:
    """Say whether this goes to the one route whose body nobody reads before its gate."""
    return scope["method"] == "POST" and scope["path"].startswith(_STORES) and kind in _OBJECTS


def _bounded(receive: Receive, unwanted: tuple[bytes, ...]) -> Receive:
    """Return `receive` that raises in the route which reads too much, or what no form may hold."""
    taken, end = 0, b""

    async def bounded() -> Message:
        nonlocal taken, end
        message = await receive()
        if message["type"] == "http.request":
            body = message.get("body", b"")
            taken += len(body)
            if taken > MAX_BODY_BYTES:
                raise HTTPException(
                    status.HTTP_413_CONTENT_TOO_LARGE,
                    f"the body is larger than {MAX_BODY_BYTES} bytes",
                )
            end += body  # what is cut in two is seen whole
            if any(each in end for each in unwanted):
                raise HTTPException(status.HTTP_400_BAD_REQUEST, "the form has a NUL character")
            end = end[1 - _LONGEST :]
        return message

    return bounded
