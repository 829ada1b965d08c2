"""Whether a request was meant by whom it comes from: its origin, and a token of the session.

The page says `Referrer-Policy: no-referrer`, with which browsers send `Origin: null` with a form.
What they say in Sec-Fetch-Site (W3C Fetch Metadata) is therefore looked at first.
"""

import hashlib
import hmac
from typing import Final

from fastapi import HTTPException, status
from starlette.requests import HTTPConnection, Request

FIELD: Final = "csrf_token"
HEADER: Final = "x-csrf-token"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM: Final = "application/x-www-form-urlencoded"


def token_of(secret: str) -> str:
    """Return the token of a session. Nobody can tell the session's secret from it."""
    return hmac.new(secret.encode(), b"csrf", hashlib.sha256).hexdigest()


def is_unsafe(connection: HTTPConnection) -> bool:
    """Say whether a request may change something; a WebSocket may."""
    return connection.scope.get("method") not in _SAFE_METHODS


def require_same_origin(connection: HTTPConnection) -> None:
    """Raise HTTPException unless the browser says that our own page sent this."""
    site = connection.headers.get("sec-fetch-site")
    is_ours = _origin_is_host(connection) if site is None else site == "same-origin"
    if not is_ours:
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            "the request does not come from this site (Sec-Fetch-Site or Origin)",
        )


async def require_token(connection: HTTPConnection, secret: str) -> None:
    """Raise HTTPException unless an unsafe request of this session proves where it comes from."""
    if not is_unsafe(connection):
        return
    require_same_origin(connection)
    if not isinstance(connection, Request):
        return  # a page cannot give a WebSocket a header; its origin is what there is
    given = connection.headers.get(HEADER)
    content_type = connection.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given is None and content_type == _FORM:
        field = (await connection.form()).get(FIELD)
        given = field if isinstance(field, str) else None
    if given is None or not hmac.compare_digest(given.encode(), token_of(secret).encode()):
        raise HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"the CSRF token is missing or of another session: send it as {FIELD} of the form "
            "or X-CSRF-Token",
        )


def _origin_is_host(connection: HTTPConnection) -> bool:
    origin, host = connection.headers.get("origin"), connection.headers.get("host")
    return origin is not None and host is not None and origin.partition("://")[2] == host
