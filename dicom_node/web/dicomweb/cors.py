"""Viewers that are served elsewhere: which of them a browser lets read DICOMweb (Fetch, CORS)."""

from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

_MINUTE: Final = 60


class CrossOrigin:
    """Middleware for what is below one path. Such a viewer sends a token, never our cookie."""

    def __init__(self, app: ASGIApp, root: str, origins: tuple[str, ...]) -> None:
        self._app, self._root = app, f"{root}/"
        self._shared = CORSMiddleware(
            app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Accept", "Content-Type"),
            allow_credentials=False,
            expose_headers=("Content-Type", "Warning", "Retry-After"),
            max_age=10 * _MINUTE,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request."""
        is_ours = scope["type"] == "http" and scope["path"].startswith(self._root)
        await (self._shared if is_ours else self._app)(scope, receive, send)
