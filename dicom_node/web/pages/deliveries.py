"""`/deliveries`: what went where, what is stuck and why, and the button that sends it again."""

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Form, Query, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.deliveries import DeliveryCounts, DeliveryFilter, delivery_counts, delivery_page
from dicom_node.deliveries import destinations as destination_rows
from dicom_node.errors import CursorError, OperatorError
from dicom_node.retrying import retry
from dicom_node.web.api.remembered import Remembered
from dicom_node.web.auth import Principal
from dicom_node.web.changes import newest_event
from dicom_node.web.pages.site import ROWS, Sender, Site, given
from dicom_node.web.rendering import page
from models.states import DeliveryState

_STATES: Final = tuple(DeliveryState)
_GIVEN_UP: Final = (DeliveryState.DEAD, DeliveryState.REJECTED)


class Wanted(BaseModel):
    """What the address says."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    state: DeliveryState | Literal[""] = ""
    destination: Annotated[str, Field(max_length=64)] = ""
    study: Annotated[str, Field(max_length=64)] = ""
    cursor: Annotated[str, Field(max_length=512)] | None = None

    def filter(self) -> DeliveryFilter:
        """Return the filter of the listing."""
        return DeliveryFilter(self.state or None, given(self.destination), given(self.study))


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)

    def count() -> DeliveryCounts:
        with site.database.read() as session:
            return delivery_counts(session)

    counts = Remembered(count)

    @router.get("/deliveries")
    def show(request: Request, who: Sender, wanted: Annotated[Wanted, Query()]) -> HTMLResponse:
        """Show one page of deliveries, the newest first."""
        return _page(site, counts, request, who, wanted)

    @router.post("/deliveries/retry")
    def again(
        request: Request,
        who: Sender,
        delivery: Annotated[int | None, Form(ge=1, le=(1 << 31) - 1)] = None,
        destination: Annotated[str, Form(max_length=64)] = "",
    ) -> Response:
        """Make due again what was rejected or given up: one, those of a destination, or all."""
        try:
            number = retry(site.database, delivery, given(destination), who.name)
        except OperatorError as error:
            return _page(site, counts, request, who, Wanted(), problem=str(error))
        return RedirectResponse(f"/deliveries?retried={number}", status.HTTP_303_SEE_OTHER)

    return router


def _page(
    site: Site,
    counts: Remembered[DeliveryCounts],
    request: Request,
    who: Principal,
    wanted: Wanted,
    *,
    problem: str | None = None,
) -> HTMLResponse:
    known = counts.value().value
    with site.database.read() as session:
        since = newest_event(session)
        try:
            shown = delivery_page(
                session, wanted.filter(), descends=True, cursor=wanted.cursor, limit=ROWS
            )
        except CursorError:  # of another filter: from the beginning
            shown = delivery_page(session, wanted.filter(), descends=True, cursor=None, limit=ROWS)
        receivers = destination_rows(session, known)
    retried = request.query_params.get("retried", "")
    context = {
        "since": since,
        "wanted": wanted,
        "shown": shown,
        "destinations": receivers,
        "states": _STATES,
        "given_up": sum(
            each["deliveries"].get(state.value, 0) for each in receivers for state in _GIVEN_UP
        ),
        "retried": int(retried) if retried.isdecimal() else None,
        "problem": problem,
    }
    code = status.HTTP_200_OK if problem is None else status.HTTP_409_CONFLICT
    return page(request, "deliveries.html", context, principal=who, status_code=code)
