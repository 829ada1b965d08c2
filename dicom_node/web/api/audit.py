"""`audit`: who did what. Administrators get all of it as a stream."""

from typing import Annotated, Final

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from pydantic import TypeAdapter

from dicom_node.audit.log import events, every_event
from dicom_node.web.api.filters import EventQuery, EventSearch
from dicom_node.web.api.listings import Listed
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import Auditor, Form, Known
from dicom_node.web.api.schemas import Event, PageOf
from dicom_node.web.api.streaming import wanted_form
from dicom_node.web.auth import Principal, Scope
from models.account import Role

Events = PageOf[Event] | Response

_EVENTS: Final = Listed[EventQuery, Event](
    "audit",
    PageOf[Event],
    TypeAdapter(Event),
    lambda session, query: events(
        session, query.wanted, query.cursor, query.rows, oldest_first=not query.descends
    ),
    lambda session, query: every_event(session, query.wanted),
)


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])

    @routes.get("/audit", summary="Events by a filter without patient data", **_EVENTS.told)
    def list_events(
        request: Request, who: Auditor, query: Annotated[EventQuery, Query()]
    ) -> Events:
        """Newest first, in pages; or for administrators all that match, oldest first."""
        return _answer(node, request, who, query)

    @routes.post("/audit/search", summary="Events, also by patient", **_EVENTS.told)
    def search_events(request: Request, who: Auditor, query: EventSearch) -> Events:
        """Filter in a body: an address ends in the logs of proxies."""
        return _answer(node, request, who, query)

    return routes


def _answer(node: Node, request: Request, who: Principal, query: EventQuery) -> Events:
    is_export = wanted_form(request, query) is not Form.JSON
    if is_export and not who.may(Role.ADMIN, Scope.AUDIT):
        raise HTTPException(
            status.HTTP_403_FORBIDDEN, "the export of the audit is for the role admin"
        )
    return _EVENTS.answer(node, request, who, query)
