"""`/quarantine`: objects that were set aside, why, and what an operator decides."""

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Form, HTTPException, Path, Query, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.errors import OperatorError
from dicom_node.quarantine import (
    Operator as Decider,
)
from dicom_node.quarantine import (
    QuarantineFilter,
    correct,
    details,
    objects,
    reject,
    release,
)
from dicom_node.web.auth import Principal
from dicom_node.web.changes import newest_event
from dicom_node.web.pages.site import ROWS, Operator, Site, given
from dicom_node.web.reads import record_read
from dicom_node.web.rendering import page

_MOST: Final = (1 << 31) - 1
_PRINTABLE: Final = r"^[^\\\x00-\x1f\x7f]*$"  # PS3.5 6.2: no backslash, no control character

ObjectId = Annotated[int, Path(ge=1, le=_MOST)]
Why = Annotated[str, Field(min_length=1, max_length=400, pattern=_PRINTABLE)]
LongText = Annotated[str, Field(max_length=64, pattern=_PRINTABLE)]  # PS3.5 6.2, VR LO


class Decision(BaseModel):
    """The form of a decision. An identity that is given stands over that of the object."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    to: Literal["release", "correct", "reject"]
    why: Why
    replace: bool = False
    patient_id: LongText = ""
    issuer: LongText = ""
    patient_name: Annotated[str, Field(max_length=324, pattern=_PRINTABLE)] = ""
    birth_date: Annotated[str, Field(pattern=r"^([0-9]{4}-?[0-9]{2}-?[0-9]{2})?$")] = ""
    sex: Literal["M", "F", "O", ""] = ""

    def correction(self) -> dict[str, str]:
        """Return the correction by keyword; an issuer that is not given belonged to the old ID.

        Raises OperatorError without a PatientID.
        """
        patient_id = given(self.patient_id)
        if patient_id is None:
            msg = "a correction needs the PatientID that is right"
            raise OperatorError(msg)
        person = {
            "PatientName": given(self.patient_name),
            "PatientBirthDate": given(self.birth_date.replace("-", "")),
            "PatientSex": given(self.sex),
        }
        known = {keyword: value for keyword, value in person.items() if value is not None}
        return {"PatientID": patient_id, "IssuerOfPatientID": given(self.issuer) or "", **known}


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/quarantine")
    def show(
        request: Request,
        who: Operator,
        after: Annotated[int, Query(ge=0, le=_MOST)] = 0,
        rejected: bool = False,  # noqa: FBT001, FBT002  a parameter of the address
    ) -> HTMLResponse:
        """List what waits for a decision, the oldest first."""
        wanted = QuarantineFilter(with_rejected=rejected, after=after, limit=ROWS + 1)
        with site.database.read() as session:
            since = newest_event(session)
            rows = list(islice(objects(session, wanted), ROWS + 1))
        _record(site, request, who, rows[:ROWS])
        context = {
            "since": since,
            "rows": rows[:ROWS],
            "has_more": len(rows) > ROWS,
            "rejected": rejected,
        }
        return page(request, "quarantine.html", context, principal=who)

    @router.get("/quarantine/{key}")
    def look(request: Request, who: Operator, key: ObjectId) -> HTMLResponse:
        """Show one object and what may be decided about it."""
        return _page(site, request, who, key)

    @router.post("/quarantine/{key}")
    def decide(
        request: Request, who: Operator, key: ObjectId, decision: Annotated[Decision, Form()]
    ) -> Response:
        """Have the object analysed, under its own identity or another, or set it aside for good."""
        try:
            _decide(site, key, Decider(who.name, decision.why.strip()), decision)
        except OperatorError as error:
            return _page(site, request, who, key, problem=str(error))
        return RedirectResponse("/quarantine", status.HTTP_303_SEE_OTHER)

    return router


def _decide(site: Site, key: int, decider: Decider, decision: Decision) -> None:
    acts: dict[str, Callable[[], None]] = {
        "release": lambda: release(
            site.database, site.settings, key, decider, replace=decision.replace
        ),
        "correct": lambda: correct(
            site.database,
            site.settings,
            key,
            decider,
            decision.correction(),
            replace=decision.replace,
        ),
        "reject": lambda: reject(site.database, key, decider),
    }
    acts[decision.to]()


def _page(
    site: Site, request: Request, who: Principal, key: int, *, problem: str | None = None
) -> HTMLResponse:
    try:
        with site.database.read() as session:
            row = details(session, site.settings, key)
    except OperatorError as error:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND, f"there is no object {key}: see the list"
        ) from error
    _record(site, request, who, [row])
    code = status.HTTP_200_OK if problem is None else status.HTTP_409_CONFLICT
    context = {"row": row, "problem": problem}
    return page(request, "quarantined.html", context, principal=who, status_code=code)


def _record(site: Site, request: Request, who: Principal, rows: list[dict[str, Any]]) -> None:
    patients = [row["patient_id"] for row in rows if row["patient_id"]]
    record_read(
        site.database,
        who,
        request,
        "quarantine",
        study_instance_uid=rows[0]["study_instance_uid"] if len(rows) == 1 else None,
        patient={"patient_ids": list(dict.fromkeys(patients))} if patients else None,
        objects=len(rows),
    )
