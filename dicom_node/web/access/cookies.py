"""Cookies of the node: never for scripts, never for other sites, over TLS under names of `__Host-`.

That prefix has browsers refuse a cookie that another host of the domain would plant.
"""

from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection
from starlette.responses import Response

SESSION: Final = "dicom-node-session"
SIGN_ON: Final = "dicom-node-sign-on"  # while somebody is at the identity provider


@dataclass(frozen=True)
class Cookies:
    """Reads and writes them. `is_secure`: browsers come over TLS."""

    is_secure: bool

    def name(self, kind: str) -> str:
        """Return the name that a cookie has here."""
        return f"__Host-{kind}" if self.is_secure else kind

    def read(self, connection: HTTPConnection, kind: str) -> str | None:
        """Return the value that the browser sent."""
        return connection.cookies.get(self.name(kind))

    def put(self, response: Response, kind: str, value: str, seconds: int | None = None) -> None:
        """Have the browser keep a cookie for so long, by default until it is closed."""
        response.set_cookie(
            self.name(kind),
            value,
            max_age=seconds,
            path="/",
            secure=self.is_secure,
            httponly=True,
            samesite="lax",
        )

    def drop(self, response: Response, kind: str) -> None:
        """Have the browser forget a cookie."""
        response.delete_cookie(
            self.name(kind), path="/", secure=self.is_secure, httponly=True, samesite="lax"
        )
