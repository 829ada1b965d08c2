"""The addresses below `/ups-rs` (PS3.18 Table 11.3-1, 8.10.4): unpack, ask, answer."""

from functools import partial
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Path, Query, Request, WebSocket
from fastapi.responses import Response
from pydicom.dataset import Dataset

from dicom_node import values
from dicom_node.errors import WorkitemError
from dicom_node.web.api.parameters import Reader
from dicom_node.web.dicomweb import answers as dicomweb
from dicom_node.web.workitems import answers
from dicom_node.web.workitems.body import data_set
from dicom_node.web.workitems.channel import Channels
from dicom_node.web.workitems.service import ROOT, Service
from dicom_node.worklist.ups import acts
from models.people_sections import UpsSettings
from models.session import Database
from models.settings import Settings

_Uid = Annotated[str, Path(pattern=r"^[0-9.]{1,64}$")]
_Lock = Annotated[str | None, Query(alias="transaction-uid", pattern=r"^[0-9.]{1,64}$")]
_Title = Annotated[str, Path(pattern=r"^[\x21-\x5b\x5d-\x7e][\x20-\x5b\x5d-\x7e]{0,15}$")]
_Flag = Annotated[bool, Query()]
_Body = Annotated[Dataset, Depends(data_set)]

_WORKITEM: Final = "/workitems/{uid}"
_SUBSCRIBER: Final = f"{_WORKITEM}/subscribers/{{ae_title}}"


def install(app: FastAPI, settings: Settings, database: Database) -> None:
    """Add UPS-RS to an application, where `worklist.ups.web` is on.

    pydicom's checks of values are off from now on in this process.
    """
    ups = settings.worklist.ups
    if not (ups.enabled and ups.web):
        return
    values.take_as_they_are()
    for kind in dicomweb.HANDLED:
        app.add_exception_handler(kind, dicomweb.refused)
    app.add_exception_handler(WorkitemError, answers.refused)
    app.include_router(router(settings, database))


def router(settings: Settings, database: Database) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix=ROOT, include_in_schema=False)
    service = Service(settings, database)
    _add_workitems(routes, service)
    _add_subscriptions(routes, service, settings.worklist.ups)
    _add_channel(routes, Channels(settings, database))
    return routes


def _add_workitems(routes: APIRouter, service: Service) -> None:
    @routes.get("/workitems")
    def search(request: Request, who: Reader) -> Response:
        return service.search(request, who)

    @routes.get(_WORKITEM)
    def retrieve(request: Request, who: Reader, uid: _Uid) -> Response:
        return service.retrieve(request, who, uid)

    @routes.post(_WORKITEM)
    def update(request: Request, who: Reader, uid: _Uid, ds: _Body, lock: _Lock = None) -> Response:
        return service.update(request, who, uid, lock, ds)

    @routes.put(f"{_WORKITEM}/state")
    def change_state(request: Request, who: Reader, uid: _Uid, ds: _Body) -> Response:
        return service.act(request, who, uid, acts.change_state, ds, HTTPStatus.OK)

    @routes.post(f"{_WORKITEM}/cancelrequest")
    def request_cancel(request: Request, who: Reader, uid: _Uid, ds: _Body) -> Response:
        return service.act(request, who, uid, acts.request_cancel, ds, HTTPStatus.ACCEPTED)


def _add_subscriptions(routes: APIRouter, service: Service, ups: UpsSettings) -> None:
    """Whoever may read the worklist may subscribe the AE titles that the settings name."""
    beginning, ending = partial(acts.subscribe, ups), partial(acts.unsubscribe, ups)
    suspending = partial(acts.suspend, ups)

    @routes.post(_SUBSCRIBER)
    def subscribe(
        request: Request, who: Reader, uid: _Uid, ae_title: _Title, *, deletionlock: _Flag = False
    ) -> Response:
        ds = _subscriber(ae_title)
        ds.DeletionLock = "TRUE" if deletionlock else "FALSE"
        answer = service.act(request, who, uid, beginning, ds, HTTPStatus.CREATED)
        answer.headers["Content-Location"] = service.channel_of(request, ae_title)
        return answer

    @routes.delete(_SUBSCRIBER)
    def unsubscribe(request: Request, who: Reader, uid: _Uid, ae_title: _Title) -> Response:
        return service.act(request, who, uid, ending, _subscriber(ae_title), HTTPStatus.OK)

    @routes.post(f"{_SUBSCRIBER}/suspend")
    def suspend(request: Request, who: Reader, uid: _Uid, ae_title: _Title) -> Response:
        return service.act(request, who, uid, suspending, _subscriber(ae_title), HTTPStatus.OK)


def _subscriber(ae_title: str) -> Dataset:
    ds = Dataset()
    ds.ReceivingAE = ae_title
    return ds


def _add_channel(routes: APIRouter, channels: Channels) -> None:
    @routes.websocket("/subscribers/{ae_title}")
    async def channel(socket: WebSocket, who: Reader, ae_title: _Title) -> None:
        if not channels.takes(ae_title):
            raise HTTPException(HTTPStatus.FORBIDDEN, "it is not in worklist.ups.web_subscribers")
        await channels.serve(socket, who, ae_title)
