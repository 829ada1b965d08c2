"""Every page of the node in one router, and the files that they are made with."""

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from dicom_node.web.changes import Changes
from dicom_node.web.pages import (
    audit,
    deliveries,
    events,
    models,
    quarantine,
    study,
    system,
    worklist,
)
from dicom_node.web.pages.site import Site
from dicom_node.web.rendering import FOLDER

_STATIC: Final = FOLDER / "static"


class Published(StaticFiles):
    """Style sheets and scripts. A browser keeps them, and asks each time whether they changed."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, or that the browser has it."""
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def published() -> Published:
    """Return the files, to be mounted at `/static`."""
    return Published(directory=_STATIC)


def page_routes(site: Site, changes: Changes) -> APIRouter:
    """Return the routes of all pages."""
    router = APIRouter()
    for each in (worklist, study, deliveries, audit, system, quarantine, models):
        router.include_router(each.routes(site))
    router.include_router(events.routes(changes))
    return router
