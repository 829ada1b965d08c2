"""`/api/v1/deliveries` and `/api/v1/destinations`: UIDs and reasons, no names."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import AwareDatetime

from dicom_node.deliveries import DeliveryFilter, deliveries, destinations
from dicom_node.web.auth import Requires, Scope
from models.account import Role
from models.session import Database
from models.states import DeliveryState


def router(database: Database) -> APIRouter:
    """Return the routes over the given database."""
    routes = APIRouter(prefix="/api/v1")

    @routes.get("/deliveries", dependencies=[Depends(Requires(Role.OPERATOR, Scope.DELIVERIES))])
    def list_deliveries(
        *,
        state: DeliveryState | None = None,
        destination: str | None = None,
        study_uid: str | None = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
        after: int | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    ) -> list[dict[str, Any]]:
        """Return deliveries in the order of their ids; the next page comes `after` the last id."""
        wanted = DeliveryFilter(state, destination, study_uid, since, until, after, limit)
        with database.read() as session:
            return list(deliveries(session, wanted))

    @routes.get("/destinations", dependencies=[Depends(Requires(Role.OPERATOR, Scope.SYSTEM))])
    def list_destinations() -> list[dict[str, Any]]:
        """Return every destination with its circuit breaker and the number of its deliveries."""
        with database.read() as session:
            return destinations(session)

    return routes
