"""The addresses below `/dicom-web` (PS3.18 10.4.1, 10.5.1, 10.6.1): unpack, ask, answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from dicom_node import values
from dicom_node.query.keys import Level
from dicom_node.web.auth import Principal, Requires
from dicom_node.web.dicomweb.answers import HANDLED, refused
from dicom_node.web.dicomweb.cors import CrossOrigin
from dicom_node.web.dicomweb.errors import NotHereError
from dicom_node.web.dicomweb.requests import ROOT, Service, ranges_of
from dicom_node.web.dicomweb.targets import Target
from models.account import Role, Scope
from models.session import Database
from models.settings import Settings

Viewer = Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.RESULTS))]
Sender = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.STORE))]
Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
_Numbers = Annotated[str, Path(pattern=r"^[0-9]{1,9}(,[0-9]{1,9}){0,999}$")]
_Place = Annotated[str, Path(pattern=r"^[0-9A-Fa-f]{8}(/[0-9]{1,6}/[0-9A-Fa-f]{8}){0,32}$")]

_SERIES: Final = "/studies/{study}/series/{series}"
_INSTANCE: Final = f"{_SERIES}/instances/{{instance}}"


def install(app: FastAPI, settings: Settings, database: Database) -> None:
    """Add DICOMweb to an application, unless `web.dicomweb` is off.

    pydicom's checks of values are off from now on in this process, as in the listener's.
    """
    if not settings.web.dicomweb:
        return
    values.take_as_they_are()
    for kind in HANDLED:
        app.add_exception_handler(kind, refused)
    app.include_router(router(Service(settings, database)))
    if settings.web.dicomweb_origins:
        app.add_middleware(CrossOrigin, root=ROOT, origins=settings.web.dicomweb_origins)


def router(service: Service) -> APIRouter:
    """Return the routes."""

    @asynccontextmanager
    async def closing(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    routes = APIRouter(prefix=ROOT, include_in_schema=False, lifespan=closing)
    _add_searches(routes, service)
    _add_objects(routes, service)
    _add_pictures(routes, service)
    _add_values(routes, service)
    _add_stores(routes, service)
    return routes


def _add_searches(routes: APIRouter, service: Service) -> None:
    """QIDO-RS (PS3.18 Table 10.6.1-1)."""

    @routes.get("/studies")
    def studies(request: Request, who: Viewer) -> Response:
        return service.search(request, who, Level.STUDY)

    @routes.get("/series")
    def all_series(request: Request, who: Viewer) -> Response:
        return service.search(request, who, Level.SERIES)

    @routes.get("/instances")
    def all_instances(request: Request, who: Viewer) -> Response:
        return service.search(request, who, Level.IMAGE)

    @routes.get("/studies/{study}/series")
    def series_of(request: Request, who: Viewer, study: Uid) -> Response:
        return service.search(request, who, Level.SERIES, study)

    @routes.get("/studies/{study}/instances")
    def instances_of_study(request: Request, who: Viewer, study: Uid) -> Response:
        return service.search(request, who, Level.IMAGE, study)

    @routes.get(f"{_SERIES}/instances")
    def instances_of_series(request: Request, who: Viewer, study: Uid, series: Uid) -> Response:
        return service.search(request, who, Level.IMAGE, study, series)


def _add_objects(routes: APIRouter, service: Service) -> None:
    """WADO-RS: whole objects, and what their headers say (PS3.18 Tables 10.4.1-1, 10.4.1-2)."""
    retrieval = service.retrieval

    def objects(request: Request, who: Principal, target: Target) -> Response:
        return retrieval.instances(service.events(request, who), target, ranges_of(request))

    def metadata(request: Request, who: Principal, target: Target) -> Response:
        root = service.root_of(request)
        return retrieval.metadata(service.events(request, who), target, ranges_of(request), root)

    @routes.get("/studies/{study}")
    def study_objects(request: Request, who: Viewer, study: Uid) -> Response:
        return objects(request, who, Target(study))

    @routes.get(_SERIES)
    def series_objects(request: Request, who: Viewer, study: Uid, series: Uid) -> Response:
        return objects(request, who, Target(study, series))

    @routes.get(_INSTANCE)
    def instance(request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid) -> Response:
        return objects(request, who, Target(study, series, instance))

    @routes.get("/studies/{study}/metadata")
    def study_metadata(request: Request, who: Viewer, study: Uid) -> Response:
        return metadata(request, who, Target(study))

    @routes.get(f"{_SERIES}/metadata")
    def series_metadata(request: Request, who: Viewer, study: Uid, series: Uid) -> Response:
        return metadata(request, who, Target(study, series))

    @routes.get(f"{_INSTANCE}/metadata")
    def instance_metadata(
        request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid
    ) -> Response:
        return metadata(request, who, Target(study, series, instance))


def _add_pictures(routes: APIRouter, service: Service) -> None:
    """WADO-RS: rendered resources and thumbnails (PS3.18 Tables 10.4.1-3, 10.4.1-4)."""
    retrieval = service.retrieval

    def picture(request: Request, who: Principal, target: Target) -> Response:
        events, names = service.events(request, who), list(request.query_params)
        return retrieval.picture(events, target, ranges_of(request), names)

    @routes.get(f"{_INSTANCE}/rendered")
    def rendered(request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid) -> Response:
        events, names = service.events(request, who), list(request.query_params)
        target = Target(study, series, instance)
        return retrieval.rendered(events, target, ranges_of(request), names)

    @routes.get(f"{_INSTANCE}/frames/{{numbers}}/rendered")
    def rendered_frame(
        request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid, numbers: _Numbers
    ) -> Response:
        if numbers != "1":
            msg = "there is a picture of the first frame alone"
            raise NotHereError(msg)
        return picture(request, who, Target(study, series, instance))

    @routes.get("/studies/{study}/thumbnail")
    def study_thumbnail(request: Request, who: Viewer, study: Uid) -> Response:
        return picture(request, who, Target(study))

    @routes.get(f"{_SERIES}/thumbnail")
    def series_thumbnail(request: Request, who: Viewer, study: Uid, series: Uid) -> Response:
        return picture(request, who, Target(study, series))

    @routes.get(f"{_INSTANCE}/thumbnail")
    def thumbnail(
        request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid
    ) -> Response:
        return picture(request, who, Target(study, series, instance))


def _add_values(routes: APIRouter, service: Service) -> None:
    """WADO-RS: frames and other long values (PS3.18 Tables 10.4.1-5, 10.4.1-6)."""
    retrieval = service.retrieval

    @routes.get(f"{_INSTANCE}/frames/{{numbers}}")
    def frames(
        request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid, numbers: _Numbers
    ) -> Response:
        target = Target(study, series, instance)
        events = service.events(request, who)
        return retrieval.frames(events, target, ranges_of(request), numbers)

    @routes.get(f"{_INSTANCE}/bulkdata/{{place:path}}")
    def bulk(
        request: Request, who: Viewer, study: Uid, series: Uid, instance: Uid, place: _Place
    ) -> Response:
        target = Target(study, series, instance)
        events = service.events(request, who)
        return retrieval.bulk(events, target, ranges_of(request), place)


def _add_stores(routes: APIRouter, service: Service) -> None:
    """STOW-RS (PS3.18 Table 10.5.1-1)."""

    @routes.post("/studies")
    def store(request: Request, who: Sender) -> Response:
        return service.store(request, who, None)

    @routes.post("/studies/{study}")
    def store_into(request: Request, who: Sender, study: Uid) -> Response:
        return service.store(request, who, study)
