"""Errors as RFC 9457 says them (problem+json), or as a page where a person sees them.

They repeat nothing of what was sent: it may be about a patient, and answers are logged elsewhere.
"""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI, Request, status
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.websockets import WebSocket

from dicom_node.errors import (
    BrokerError,
    BusyError,
    CursorError,
    FeedbackError,
    LostRaceError,
    NodeError,
    OperatorError,
    ReadingError,
    UnknownStudyError,
)
from dicom_node.web.access.headers import add_to
from dicom_node.web.rendering import page

log = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
# Under these programs ask, whatever they accept.
_FOR_PROGRAMS: Final = ("/api/", "/dicom-web", "/ups-rs", "/metrics", "/openapi.json")
_POLICY_VIOLATION: Final = 1008  # RFC 6455 7.4.1
# Types of errors of pydantic whose message a validator of ours wrote, with the value in it perhaps.
_QUOTING: Final = frozenset({"value_error", "assertion_error"})

# The first that fits. What is not here is a fault of ours, and says nothing of itself.
_STATUS: Final[tuple[tuple[type[NodeError], int], ...]] = (
    (CursorError, status.HTTP_400_BAD_REQUEST),
    (BusyError, status.HTTP_503_SERVICE_UNAVAILABLE),
    (UnknownStudyError, status.HTTP_404_NOT_FOUND),
    (ReadingError, status.HTTP_409_CONFLICT),
    (FeedbackError, status.HTTP_409_CONFLICT),
    (OperatorError, status.HTTP_409_CONFLICT),
    (LostRaceError, status.HTTP_409_CONFLICT),
)
_BROKER: Final = "the queue cannot be reached"
_DATABASE: Final = "the database cannot be used"
_OURS: Final = "an error of the node; its log says more"


def problem(
    code: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return an answer that says what is wrong. `errors` names fields, one by one."""
    body: dict[str, Any] = {"type": "about:blank", "title": HTTPStatus(code).phrase}
    body |= {"status": code, "detail": detail}
    if errors is not None:
        body["errors"] = list(errors)
    return JSONResponse(body, code, dict(headers or {}), MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Have every error of the application answered like that."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(WebSocketRequestValidationError, _channel_validation)
    app.add_exception_handler(NodeError, _node)
    app.add_exception_handler(SQLAlchemyError, _database)
    app.add_exception_handler(Exception, _unexpected)


def wants_page(request: Request) -> bool:
    """Say whether a person is to see the answer in a browser's window."""
    if request.url.path.startswith(_FOR_PROGRAMS):
        return False
    return "text/html" in request.headers.get("accept", "")


def answer(
    request: Request | WebSocket,
    code: int,
    detail: str,
    *,
    errors: Sequence[Mapping[str, Any]] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return the error in the form that is wanted; who must log in first is sent there."""
    if isinstance(request, WebSocket) or not wants_page(request):
        return problem(code, detail, errors=errors, headers=headers)
    if code == status.HTTP_401_UNAUTHORIZED:
        # Only the path: what follows it may name a patient.
        back = f"?next={quote(request.url.path)}" if request.method == "GET" else ""
        return RedirectResponse(f"/login{back}", status.HTTP_303_SEE_OTHER)
    told = {"title": HTTPStatus(code).phrase, "detail": detail, "code": code}
    principal = getattr(request.state, "principal", None)
    shown = page(request, "error.html", told, principal=principal, status_code=code)
    shown.headers.update(headers or {})
    return shown


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  as it was registered
    said = answer(request, error.status_code, error.detail, headers=error.headers)
    return await _deliver(request, said)


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101  as it was registered
    errors = [
        {
            "where": ".".join(str(part) for part in _place(each)),
            "what": "not allowed" if each["type"] in _QUOTING else each["msg"],
            "type": each["type"],
        }
        for each in error.errors()
    ]
    names = ", ".join(dict.fromkeys(each["where"] for each in errors))
    said = answer(
        request, status.HTTP_422_UNPROCESSABLE_CONTENT, f"not understood: {names}", errors=errors
    )
    return await _deliver(request, said)


async def _channel_validation(channel: WebSocket, _error: Exception) -> None:
    await channel.close(_POLICY_VIOLATION, "not understood")


def _place(error: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return where the error is; the name of a field that must not be there is the sender's."""
    place: tuple[Any, ...] = error["loc"]
    return place[:-1] if error["type"] == "extra_forbidden" else place


async def _node(request: Request, error: Exception) -> Response:
    if isinstance(error, BrokerError):
        log.warning("a request met a broker that does not answer")
        return await _deliver(request, answer(request, 503, _BROKER, headers={"Retry-After": "5"}))
    for kind, code in _STATUS:
        if isinstance(error, kind):
            return await _deliver(request, answer(request, code, str(error)))
    log.error("a request failed", exc_info=error)
    return await _deliver(request, answer(request, 500, _OURS))


async def _database(request: Request, error: Exception) -> Response:
    log.error("a request met a database error", exc_info=error)
    return await _deliver(request, answer(request, 503, _DATABASE, headers={"Retry-After": "5"}))


async def _unexpected(request: Request, _error: Exception) -> Response:
    """Answer outside of all middleware; uvicorn logs the traceback."""
    said = answer(request, status.HTTP_500_INTERNAL_SERVER_ERROR, _OURS)
    add_to(said.headers)
    return said


async def _deliver(request: Request | WebSocket, said: Response) -> Response:
    """Return an answer to a request; a WebSocket that is not accepted is given it here."""
    if isinstance(request, WebSocket):
        if "websocket.http.response" in request.scope.get("extensions", {}):
            await request.send_denial_response(said)
        else:
            await request.close(_POLICY_VIOLATION)
    return said
