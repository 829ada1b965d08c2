"""Every page of the node in one router, and the files that they are made with."""

from typing import Final

from fastapi import APIRouter
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from dicom_node.web.changes import Changes
from dicom_node.web.pages import events, study, worklist
from dicom_node.web.pages.site import Site
from dicom_node.web.rendering import FOLDER

_STATIC: Final = FOLDER / "static"


class Published(StaticFiles):
    """Style sheets and scripts. A browser keeps them, and asks each time whether they changed."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        """Return a file, or that the browser has it."""
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]  as it is called
        response.headers["Cache-Control"] = "no-cache"
        return response


def published() -> Published:
    """Return the files, to be mounted at `/static`."""
    return Published(directory=_STATIC)


def page_routes(site: Site, changes: Changes) -> APIRouter:
    """Return the routes of all pages."""
    router = APIRouter()
    for each in (worklist, study):
        router.include_router(each.routes(site))
    router.include_router(events.routes(changes))
    return router
