"""`app.state.access`: finds out who asks, and ends the request of whoever may not."""

import hashlib
from ipaddress import ip_address
from typing import Final

from fastapi import HTTPException, status
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from dicom_node.logins import (
    Identity,
    Lifetimes,
    PasswordLogin,
    session_identity,
    token_identity,
)
from dicom_node.passwords import Passwords
from dicom_node.web.access import csrf
from dicom_node.web.access.cookies import SESSION, Cookies
from dicom_node.web.access.throttle import Throttle
from dicom_node.web.auth import Principal, Requires, Scope
from models.account import Role
from models.audit import AuditAction, record
from models.people_sections import WebSettings
from models.session import Database

ANYBODY: Final = Principal("anybody", Role.VIEWER, frozenset())
_FAILED_LOGINS: Final = (20, 600.0)  # of one address, in so many seconds
_FAILED_SIGN_ONS: Final = (20, 600.0)  # that are recorded; they shut out no password
_DENIALS: Final = (60, 600.0)  # that are recorded; a flood of them must not fill the audit

_NO_PERSON: Final = "a token makes no credentials: log in"


class Access:
    """Who may do what. One per application."""

    def __init__(
        self, settings: WebSettings, database: Database, passwords: Passwords | None = None
    ) -> None:
        self.settings, self.database = settings, database
        self.cookies = Cookies(settings.is_secure)
        self.lifetimes = Lifetimes.of(settings)
        self.passwords = passwords or Passwords()
        self.login = PasswordLogin(database, self.passwords, self.lifetimes)
        self.failed_logins = Throttle(*_FAILED_LOGINS)
        self.failed_sign_ons = Throttle(*_FAILED_SIGN_ONS)
        self._denials = Throttle(*_DENIALS)

    async def principal(self, connection: HTTPConnection, wanted: Requires) -> Principal:
        """Return who asks. Raises HTTPException 401 or 403."""
        if wanted.are_counts and self._counts_are_open(connection):
            return ANYBODY
        principal = await self.whoever(connection)
        if principal is None:
            raise HTTPException(
                status.HTTP_401_UNAUTHORIZED,
                "log in, or send an API token (Authorization: Bearer …)",
                {"WWW-Authenticate": "Bearer"},
            )
        secret = self.cookies.read(connection, SESSION)
        if principal.token_id is None and secret is not None:
            await csrf.require_token(connection, secret)
        lack = _lack(principal, wanted)
        if lack is not None:
            await run_in_threadpool(self._record_denial, connection, principal, lack)
            raise _forbidden(lack, wanted)
        return principal

    async def whoever(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks, if that is known, and leave it in the state of the request."""
        principal = await run_in_threadpool(self._identify, connection)
        connection.state.principal = principal
        secret = self.cookies.read(connection, SESSION)
        if principal is not None and principal.token_id is None and secret is not None:
            connection.state.csrf_token = csrf.token_of(secret)
        return principal

    def _identify(self, connection: HTTPConnection) -> Principal | None:
        """Return who asks. A header decides before a cookie: a wrong token is nobody's."""
        header = connection.headers.get("authorization")
        if header is not None:
            scheme, _, secret = header.partition(" ")
            is_bearer = scheme.lower() == "bearer"
            token = secret.strip() if is_bearer else None
            found = None if token is None else token_identity(self.database, token)
            if found is None:
                self._record_unknown(connection, token)
            return _principal(found)
        cookie = self.cookies.read(connection, SESSION)
        if cookie is None:
            return None
        return _principal(
            session_identity(
                self.database, cookie, self.lifetimes, is_activity=_is_activity(connection)
            )
        )

    def _counts_are_open(self, connection: HTTPConnection) -> bool:
        """Behind a proxy every request may seem to come from this host: none is trusted for it."""
        if self.settings.open_metrics:
            return True
        return not self.settings.behind_proxy and _is_loopback(address_of(connection))

    def _record_denial(self, connection: HTTPConnection, principal: Principal, lack: str) -> None:
        if not self._denials.note(address_of(connection)):
            return
        with self.database.write() as session:
            record(
                session,
                AuditAction.ACCESS_DENIED,
                lack,
                actor=principal.name,
                peer=address_of(connection),
                details={"token": principal.token_id, **_route(connection)},
            )

    def _record_unknown(self, connection: HTTPConnection, token: str | None) -> None:
        """Record a token that does not work (any more), by the beginning of its hash.

        None is what is no token: it may be a password, whose hash could be guessed back.
        """
        if not self._denials.note(address_of(connection)):
            return
        known = {}
        if token is not None:
            known["sha256"] = hashlib.sha256(token.encode()).hexdigest()[:16]
        with self.database.write() as session:
            record(
                session,
                AuditAction.ACCESS_DENIED,
                "unknown_token",
                peer=address_of(connection),
                details={**known, **_route(connection)},
            )


def address_of(connection: HTTPConnection) -> str:
    """Return the client's address; behind a configured proxy what that says it is."""
    return connection.client.host if connection.client else ""


def _principal(identity: Identity | None) -> Principal | None:
    if identity is None:
        return None
    known = {scope.value for scope in Scope}
    scopes = (
        None
        if identity.scopes is None
        else frozenset(Scope(each) for each in identity.scopes if each in known)
    )
    return Principal(identity.name, identity.role, scopes, identity.account_id, identity.token_id)


def _is_activity(connection: HTTPConnection) -> bool:
    """Say whether a person did something: a page that reads by itself keeps nobody logged in."""
    if connection.scope["type"] == "websocket":
        return False
    return csrf.is_unsafe(connection) or connection.headers.get("sec-fetch-dest") != "empty"


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return False


def _lack(principal: Principal, wanted: Requires) -> str | None:
    """Return what is missing, as the audit calls it."""
    if not Principal(principal.name, principal.role).may(wanted.role, wanted.scope):
        return "role"
    if not principal.may(wanted.role, wanted.scope):
        return "scope"
    return "person" if wanted.needs_person and principal.token_id is not None else None


def _forbidden(lack: str, wanted: Requires) -> HTTPException:
    if lack == "scope":
        return HTTPException(
            status.HTTP_403_FORBIDDEN,
            f"the token lacks the scope {wanted.scope}",
            {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{wanted.scope}"'},
        )
    is_role = lack == "role"
    told = f"this is for the role {wanted.role} and above" if is_role else _NO_PERSON
    return HTTPException(status.HTTP_403_FORBIDDEN, told)


def _route(connection: HTTPConnection) -> dict[str, str]:
    """Return which route was asked for, without the UIDs in the path."""
    route = connection.scope.get("route")
    return {
        "route": str(getattr(route, "path", "")),
        "method": str(connection.scope.get("method", "WEBSOCKET")),
    }
