"""Every route says who may use it, and keeps to that for each role and for tokens."""

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.routing import RouteContext, iter_route_contexts
from web_accounts import Browser, bearer, browser
from web_served import migrated, serving, web_settings

from dicom_node.web.access.public import PUBLIC
from dicom_node.web.app import create_app
from dicom_node.web.auth import Principal, Requires, Scope
from models.account import Role
from models.session import Database

_ROLES = tuple(Role)
_SHUT = (401, 403)
# OpenID Connect is on, so that its routes are there too; nothing is asked of the provider.
_SIGN_ON = {
    "url": "http://127.0.0.1:8080",
    "oidc": {"issuer": "http://127.0.0.1:9", "client_id": "node", "roles": {"all": "viewer"}},
}
# Somebody may subscribe, so that 403 is an answer about the role.
_WORKITEMS = {"worklist": {"ups": {"enabled": True, "web": True, "web_subscribers": ["1"]}}}


@dataclass(frozen=True)
class Node:
    """A served node, and who asks it: nobody comes from this host, as far as it can know."""

    app: FastAPI
    database: Database
    client: httpx.Client


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    settings = web_settings(
        tmp_path_factory.mktemp("routes"), sections=_WORKITEMS, behind_proxy=True, **_SIGN_ON
    )
    with migrated(settings) as database:
        app = create_app(settings, database)
        with (
            serving(settings, database, app) as url,
            httpx.Client(base_url=url, timeout=20) as client,
        ):
            yield Node(app, database, client)


def requirement(route: RouteContext) -> Requires | None:
    """Return what a route requires, in itself or in any router that it came by."""
    waiting = [getattr(route, "dependant", None)]
    while waiting:
        dependant = waiting.pop()
        if dependant is None:
            continue
        if isinstance(dependant.call, Requires):
            return dependant.call
        waiting += dependant.dependencies
    return None


def undeclared(app: FastAPI) -> list[str]:
    """Return the paths of routes that say nothing of access."""
    return [
        str(route.path)
        for route in iter_route_contexts(app.routes)
        if requirement(route) is None and route.path not in PUBLIC
    ]


def guarded(app: FastAPI) -> Iterator[tuple[str, str, Requires]]:
    """Yield method, path with values in it, and requirement of every guarded HTTP route."""
    for route in iter_route_contexts(app.routes):
        wanted = requirement(route)
        if wanted is not None and route.methods:
            path = re.sub(r"\{[^}]+\}", "1", str(route.path))
            for method in sorted(route.methods - {"HEAD"}):
                yield method, path, wanted


def status(node: Node, method: str, path: str, headers: dict[str, str]) -> int:
    """Return the status; the body of a stream that never ends is not waited for."""
    with node.client.stream(method, path, headers=headers) as answer:
        return answer.status_code


def test_every_route_declares_its_access(node: Node) -> None:
    assert undeclared(node.app) == []


def test_what_is_public_is_there(node: Node) -> None:
    """A line that is left behind would open a later route of that name."""
    paths = {str(route.path) for route in iter_route_contexts(node.app.routes)}
    assert set(PUBLIC) - paths <= {"/static"}


def test_a_route_that_declares_nothing_is_found(tmp_path: Path) -> None:
    settings = web_settings(tmp_path)
    with migrated(settings) as database:
        app = create_app(settings, database)
        routes = APIRouter(prefix="/new")
        routes.add_api_route("/open", lambda: "patient")
        allowed = Depends(Requires(Role.VIEWER, Scope.RESULTS))
        routes.add_api_route("/shut", lambda: "patient", dependencies=[allowed])
        app.include_router(routes)
        app.mount("/inner", FastAPI())
        assert undeclared(app) == ["/new/open", "/inner"]


def test_nobody_gets_in(node: Node) -> None:
    found = {
        (method, path): status(node, method, path, {}) for method, path, _ in guarded(node.app)
    }
    assert ("GET", "/metrics") in found
    assert ("POST", "/logout") in found
    assert {each for each, code in found.items() if code != 401} == set()


@pytest.mark.parametrize("role", _ROLES)
def test_a_role_gets_what_is_for_it(node: Node, role: Role) -> None:
    """By session and by token alike, but for what needs a person.

    A new session each time: one of the routes ends it.
    """
    headers = bearer(node.database, role)
    wrong = []
    for method, path, wanted in guarded(node.app):
        is_enough = _ROLES.index(role) >= _ROLES.index(wanted.role)
        person: Browser = browser(node.database, role)
        for who, given in (("session", person.headers), ("token", headers)):
            code = status(node, method, path, given)
            may = is_enough and not (who == "token" and wanted.needs_person)
            if (code not in _SHUT) != may or (not may and code != 403):
                wrong.append((who, method, path, wanted.role, code))
    assert wrong == []


def test_a_token_gets_what_is_in_its_scopes(node: Node) -> None:
    """With the one scope of the route, and with all but that one."""

    def token(*scopes: Scope) -> dict[str, str]:
        return bearer(node.database, Role.ADMIN, *scopes, name="scoped")

    fitting = {scope: token(scope) for scope in Scope}
    lacking = {scope: token(*(each for each in Scope if each != scope)) for scope in Scope}
    wrong = [
        (method, path, wanted.scope)
        for method, path, wanted in guarded(node.app)
        if (status(node, method, path, fitting[wanted.scope]) in _SHUT) != wanted.needs_person
        or status(node, method, path, lacking[wanted.scope]) != 403
    ]
    assert wrong == []


def test_a_session_without_its_csrf_token_changes_nothing(node: Node) -> None:
    headers = browser(node.database, Role.ADMIN).headers
    del headers["X-CSRF-Token"]
    found = {
        (method, path): status(node, method, path, headers)
        for method, path, _ in guarded(node.app)
        if method != "GET"
    }
    assert len(found) > 5
    assert {each for each, code in found.items() if code != 403} == set()


def test_a_websocket_is_guarded_like_a_request(tmp_path: Path) -> None:
    """Of another site's page not even with the cookie."""
    settings = web_settings(tmp_path)
    with migrated(settings) as database:
        app = create_app(settings, database)
        asked = browser(database, Role.VIEWER)

        @app.websocket("/channel")
        async def _channel(
            websocket: WebSocket,
            who: Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.WORKLIST))],
            after: int = 0,
        ) -> None:
            await websocket.accept(f"{who.name} {after}")

        ours = {"Cookie": asked.headers["Cookie"], "Origin": "http://node", "Host": "node"}
        assert _connect(app, ours) == {"type": "websocket.accept", "subprotocol": "viewer 0"}
        assert _connect(app, ours | {"Origin": "http://evil.example"})["status"] == 403
        assert _connect(app, {"Host": "node"})["status"] == 401
        assert _connect(app, ours, "after=PATIENT") == {
            "type": "websocket.close",
            "code": 1008,
            "reason": "not understood",
        }


def _connect(app: FastAPI, headers: dict[str, str], query: str = "") -> dict[str, Any]:
    """Return the first message to a WebSocket, as a server would get it."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        said.append({key: value for key, value in message.items() if key != "headers"})

    scope = {
        "type": "websocket",
        "path": "/channel",
        "query_string": query.encode(),
        "headers": [(key.lower().encode(), value.encode()) for key, value in headers.items()],
        "client": ("192.0.2.1", 1),
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    asyncio.run(app(scope, receive, send))
    return said[0]
