"""`/audit`: who did what and saw whom, which model said what, and whether the log is proved.

All filters come in the body of a form: several of them name a patient.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from sqlalchemy import func, select

from dicom_node.audit.gauges import AuditGauges, audit_gauges
from dicom_node.audit.log import AuditFilter, events, every_event
from dicom_node.errors import CursorError
from dicom_node.paging import Page
from dicom_node.web.access.gate import address_of
from dicom_node.web.api.parameters import Form as Written
from dicom_node.web.api.schemas import Event
from dicom_node.web.api.streaming import Streams
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.pages.site import ROWS, Auditor, Site, given
from dicom_node.web.rendering import page
from models.account import Role
from models.audit import AuditAction, record
from models.seal import AuditSeal

Exporter = Annotated[Principal, Depends(Requires(Role.ADMIN, Scope.AUDIT))]
_EVENTS: Final = TypeAdapter(Event)
_OF_PATIENTS: Final = ("patient_id", "accession_number")
_Text = Annotated[str, Field(max_length=64)]
_MINUTES: Final = r"^([0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2})?)?)?$"


class Wanted(BaseModel):
    """The form. Times are UTC, as events are stored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    since: Annotated[str, Field(pattern=_MINUTES)] = ""
    until: Annotated[str, Field(pattern=_MINUTES)] = ""
    action: AuditAction | Literal[""] = ""
    outcome: _Text = ""
    user: _Text = ""
    ae_title: Annotated[str, Field(max_length=16)] = ""
    model: Annotated[str, Field(max_length=129)] = ""
    study_instance_uid: _Text = ""
    patient_id: _Text = ""
    accession_number: _Text = ""
    cursor: Annotated[str, Field(max_length=512)] = ""

    def filter(self) -> AuditFilter:
        """Return the filter of the log. Raises ValueError for a day that no calendar has."""
        texts = ("outcome", "user", "ae_title", "model", "study_instance_uid", *_OF_PATIENTS)
        return AuditFilter(
            since=_moment(self.since),
            until=_moment(self.until),
            action=self.action or None,
            **{name: given(getattr(self, name)) for name in texts},
        )

    def said(self) -> dict[str, str]:
        """Return what is filtered by, as the form has it."""
        fields = self.model_dump(mode="json", exclude={"cursor"})
        return {name: value for name, value in fields.items() if value}


@dataclass(frozen=True)
class State:
    """Whether the log can be trusted: how much is sealed, and what the last proof said."""

    gauges: AuditGauges
    seals: int
    sealed_at: datetime | None


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)
    streams = Streams(site.database)

    @router.get("/audit")
    def show(request: Request, who: Auditor) -> HTMLResponse:
        """Show the newest events."""
        return _page(site, request, who, Wanted())

    @router.post("/audit")
    def search(request: Request, who: Auditor, wanted: Annotated[Wanted, Form()]) -> HTMLResponse:
        """Show one page of the events that were asked for."""
        return _page(site, request, who, wanted)

    @router.post("/audit/export/{form}")
    def export(
        request: Request,
        who: Exporter,
        form: Literal["csv", "ndjson"],
        wanted: Annotated[Wanted, Form()],
    ) -> Response:
        """Write every event that was asked for, the oldest first."""
        chosen = wanted.filter()
        _record(site, request, who, wanted, AuditAction.AUDIT_EXPORTED, format=form)
        return streams.answer(
            Written(form), "audit", _EVENTS, lambda session: every_event(session, chosen)
        )

    return router


def _moment(text: str) -> datetime | None:
    return datetime.fromisoformat(text).replace(tzinfo=UTC) if text else None


def _page(site: Site, request: Request, who: Principal, wanted: Wanted) -> HTMLResponse:
    problem = None
    try:
        shown = _found(site, wanted)
    except ValueError:
        shown, problem = Page([], None), "There is no such day: write it as 2026-01-31."
    _record(site, request, who, wanted, rows=len(shown.rows))
    context: dict[str, Any] = {
        "wanted": wanted,
        "shown": shown,
        "actions": tuple(AuditAction),
        "state": _state(site),
        "may_export": who.may(Role.ADMIN, Scope.AUDIT),
        "problem": problem,
    }
    return page(request, "audit.html", context, principal=who)


def _found(site: Site, wanted: Wanted) -> Page[dict[str, Any]]:
    chosen = wanted.filter()
    with site.database.read() as session:
        try:
            return events(session, chosen, given(wanted.cursor), ROWS)
        except CursorError:
            return events(session, chosen, None, ROWS)


def _state(site: Site) -> State:
    with site.database.read() as session:
        last = select(func.max(AuditSeal.number), func.max(AuditSeal.sealed_at))
        number, at = session.execute(last).one()
        return State(audit_gauges(session), number or 0, at)


def _record(
    site: Site,
    request: Request,
    who: Principal,
    wanted: Wanted,
    action: AuditAction = AuditAction.AUDIT_READ,
    **details: str | int,
) -> None:
    """Write that the log was read: it says what it was asked for, the patient apart."""
    said = wanted.said()
    patient: dict[str, Any] = {name: said.pop(name) for name in _OF_PATIENTS if name in said}
    with site.database.write() as session:
        record(
            session,
            action,
            "page",
            actor=who.name,
            peer=address_of(request),
            study_instance_uid=given(wanted.study_instance_uid),
            details={"filter": said, **details},
            patient=patient,
        )
