"""`deliveries` and `destinations`: UIDs and reasons, no names."""

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import TypeAdapter

from dicom_node.deliveries import (
    DeliveryCounts,
    deliveries,
    delivery_counts,
    delivery_page,
    destinations,
)
from dicom_node.web.api.filters import DeliveryQuery
from dicom_node.web.api.listings import Listed
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import Known, Operator, Sender
from dicom_node.web.api.remembered import Remembered
from dicom_node.web.api.schemas import Delivery, Destination, PageOf, problems

_DELIVERIES: Final = Listed[DeliveryQuery, Delivery](
    "deliveries",
    PageOf[Delivery],
    TypeAdapter(Delivery),
    lambda session, query: delivery_page(
        session, query.wanted, descends=query.descends, cursor=query.cursor, limit=query.rows
    ),
    lambda session, query: deliveries(session, query.wanted, descends=query.descends),
    is_about_patients=False,
)


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])

    def count() -> DeliveryCounts:
        with node.database.read() as session:
            return delivery_counts(session)

    counts = Remembered(count)

    @routes.get("/deliveries", summary="What is sent to whom", **_DELIVERIES.told)
    def list_deliveries(
        request: Request, who: Sender, query: Annotated[DeliveryQuery, Query()]
    ) -> PageOf[Delivery] | Response:
        """Newest first, in pages; or all that match, as CSV or JSON lines."""
        return _DELIVERIES.answer(node, request, who, query)

    @routes.get(
        "/destinations",
        summary="Who gets results, and whether they can be reached",
        responses=problems(),
    )
    def list_destinations(_who: Operator) -> list[Destination]:
        """Every enabled destination with its circuit breaker; counts are some seconds old."""
        known = counts.value().value
        with node.database.read() as session:
            return [Destination.model_validate(row) for row in destinations(session, known)]

    return routes
