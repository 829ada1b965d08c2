"""`/`: what to read first, and whether to believe it."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.web.auth import Principal
from dicom_node.web.changes import newest_event
from dicom_node.web.pages.site import ROWS, SEVERITIES, Reader, Site, given
from dicom_node.web.reads import record_read
from dicom_node.web.rendering import page
from dicom_node.worklist.rows import WorklistFilter, WorklistRow, late_studies, worklist
from models.fields import Priority
from models.states import ReadingState

_LATE_ROWS: Final = 20  # above the others; the rest has a page of its own


class View(StrEnum):
    """Which part of the worklist."""

    UNREAD = "unread"
    LATE = "late"
    CLAIMED = "claimed"
    READ = "read"
    ALL = "all"


_STATES: Final = {
    View.UNREAD: ReadingState.UNREAD,
    View.LATE: ReadingState.UNREAD,
    View.CLAIMED: ReadingState.CLAIMED,
    View.READ: ReadingState.READ,
    View.ALL: None,
}
_VIEWS: Final = (
    (View.UNREAD, "To read"),
    (View.LATE, "Result late"),
    (View.CLAIMED, "Claimed"),
    (View.READ, "Read"),
    (View.ALL, "All"),
)


class Wanted(BaseModel):
    """What the address says; none of it is about a patient."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    view: View = View.UNREAD
    severity: Literal["severe", "moderate", "mild", "none", ""] = ""
    priority: Priority | Literal[""] = ""
    sender: Annotated[str, Field(max_length=16)] = ""
    cursor: Annotated[str, Field(max_length=512)] | None = None

    def filter(self, **more: Any) -> WorklistFilter:  # noqa: ANN401  fields of WorklistFilter
        """Return the filter of the worklist."""
        return WorklistFilter(
            **{
                "reading_state": _STATES[self.view],
                "late": True if self.view is View.LATE else None,
                "severity": given(self.severity),
                "priority": given(self.priority),
                "calling_aet": given(self.sender),
            }
            | more
        )


@dataclass(frozen=True)
class Shown:
    """What stands on the page."""

    since: int  # the newest event when it was read
    late: list[WorklistRow]
    rows: list[WorklistRow]
    next: str | None
    late_number: int

    @property
    def every_row(self) -> list[WorklistRow]:
        """Both parts."""
        return [*self.late, *self.rows]


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def show(request: Request, who: Reader, wanted: Annotated[Wanted, Query()]) -> HTMLResponse:
        """Show one page of the worklist; what is late stands above what is to read."""
        return _page(site, request, who, wanted, _shown(site, wanted))

    @router.post("/")
    def search(
        request: Request,
        who: Reader,
        patient_id: Annotated[str, Form(max_length=64)] = "",
        accession_number: Annotated[str, Form(max_length=64)] = "",
        cursor: Annotated[str, Form(max_length=512)] = "",
    ) -> HTMLResponse:
        """Show the studies of a patient or an accession number, which no address may name."""
        sought = {"patient_id": patient_id, "accession_number": accession_number}
        named = {name: value for name, text in sought.items() if (value := given(text))}
        wanted = Wanted(view=View.ALL, cursor=given(cursor) if named else None)
        shown = _found(site, wanted, named) if named else _shown(site, wanted)
        return _page(site, request, who, wanted, shown, named)

    return router


def _shown(site: Site, wanted: Wanted) -> Shown:
    is_first = wanted.view is View.UNREAD and wanted.cursor is None
    with site.database.read() as session:
        since = newest_event(session)
        late = (
            worklist(session, site.settings, wanted.filter(late=True), None, _LATE_ROWS).rows
            if is_first
            else []
        )
        more = {"late": False} if wanted.view is View.UNREAD else {}
        found = worklist(session, site.settings, wanted.filter(**more), wanted.cursor, ROWS)
        return Shown(since, late, found.rows, found.next, late_studies(session, site.settings))


def _found(site: Site, wanted: Wanted, named: dict[str, str]) -> Shown:
    with site.database.read() as session:
        found = worklist(session, site.settings, wanted.filter(**named), wanted.cursor, ROWS)
        return Shown(0, [], found.rows, found.next, late_studies(session, site.settings))


def _page(
    site: Site,
    request: Request,
    who: Principal,
    wanted: Wanted,
    shown: Shown,
    named: dict[str, str] | None = None,
) -> HTMLResponse:
    rows = shown.every_row
    patients = {row.patient_id: None for row in rows if row.patient_id}
    record_read(
        site.database,
        who,
        request,
        "worklist",
        patient={**(named or {}), "patient_ids": list(patients)} if rows or named else None,
        studies=len(rows),
    )
    context = {
        "wanted": wanted,
        "named": named or {},
        "shown": shown,
        "views": _VIEWS,
        "severities": SEVERITIES,
        "late_seconds": 60 * site.settings.worklist.late_minutes,
    }
    return page(request, "worklist.html", context, principal=who)
