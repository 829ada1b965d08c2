"""Who asks, and whether that may: every route names the least role and the scope it needs."""

from dataclasses import dataclass
from enum import StrEnum

from fastapi import Request

from models.account import Role


class Scope(StrEnum):
    """What an API token may be limited to."""

    RESULTS = "results"  # studies, images, figures
    WORKLIST = "worklist"  # claim, read, feedback
    DELIVERIES = "deliveries"
    AUDIT = "audit"
    SYSTEM = "system"  # ledger, destinations, workers
    ACCOUNTS = "accounts"


@dataclass(frozen=True)
class Principal:
    """Who asks. `scopes` is None for somebody who is logged in: the role alone decides."""

    name: str
    role: Role
    scopes: frozenset[Scope] | None = None


@dataclass(frozen=True)
class Requires:
    """A dependency of a route: returns the Principal, or ends the request with 401 or 403."""

    role: Role
    scope: Scope

    def __call__(self, request: Request) -> Principal:
        """Return who asks."""
        principal: Principal = request.app.state.access.principal(request, self.role, self.scope)
        return principal
