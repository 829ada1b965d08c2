"""Who asks, and whether that may: every route names the least role and the scope it needs."""

from dataclasses import dataclass
from typing import Final, Protocol

from starlette.requests import HTTPConnection

from models.account import Role, Scope

__all__ = ["Principal", "Requires", "Scope"]

_ROLES: Final = tuple(Role)


@dataclass(frozen=True)
class Principal:
    """Who asks. `scopes` is None for somebody who is logged in: the role alone decides.

    `token_id` is the row of the API token that was used, for the details of an audit event.
    """

    name: str
    role: Role
    scopes: frozenset[Scope] | None = None
    account_id: int | None = None
    token_id: int | None = None

    def may(self, role: Role, scope: Scope) -> bool:
        """Say whether the role is at least this one and no token leaves the scope out."""
        is_in_scope = self.scopes is None or scope in self.scopes
        return is_in_scope and _ROLES.index(self.role) >= _ROLES.index(role)


class Gate(Protocol):
    """What `app.state.access` is."""

    async def principal(self, connection: HTTPConnection, wanted: "Requires") -> Principal:
        """Return who asks, or end the request."""
        ...


@dataclass(frozen=True)
class Requires:
    """A dependency of a route: returns the Principal, or ends the request with 401 or 403.

    A session of a browser must prove a request that changes something by its CSRF token, too.
    `are_counts`: no more than counts is shown, so no login is wanted where `web.open_metrics` is
    set, or for requests from this very host.
    `needs_person`: no token may, since what it makes would outlive the token and go beyond it.
    """

    role: Role
    scope: Scope
    are_counts: bool = False
    needs_person: bool = False

    async def __call__(self, connection: HTTPConnection) -> Principal:
        """Return who asks. `connection` is a Request or a WebSocket."""
        gate: Gate = connection.app.state.access
        return await gate.principal(connection, self)
