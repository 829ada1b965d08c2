"""What every answer tells the browser: no foreign or inline code, no frame, copy or referrer."""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; "
    "script-src 'self'; "
    "style-src 'self'; "
    "img-src 'self' data: blob:; "
    "connect-src 'self'; "
    "form-action 'self'; "
    "frame-ancestors 'none'; "
    "base-uri 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Unless the route says otherwise: nearly everything here is about a patient.
CACHE_CONTROL: Final = "no-store"


class SecurityHeaders:
    """Middleware that puts them on every answer; a header that the route has set stays."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, and the headers with its answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                add_to(MutableHeaders(scope=message))
            await send(message)

        await self._app(scope, receive, with_headers)


def add_to(headers: MutableHeaders) -> None:
    """Put the headers beside those of an answer."""
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("Cache-Control", CACHE_CONTROL)
