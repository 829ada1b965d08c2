"""`/studies/{uid}`: one study: the picture, its figures and their worth, and what became of it."""

import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Form, HTTPException, Query, Request, status
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from dicom_node.errors import FeedbackError, ReadingError
from dicom_node.patient_header import Patient, patient_of
from dicom_node.study_detail import study_detail
from dicom_node.study_values import FeedbackDetail, ImageDetail, StudyDetail
from dicom_node.web.auth import Principal, Scope
from dicom_node.web.changes import newest_event
from dicom_node.web.pages.site import Reader, Site, StudyUid, Viewer, given
from dicom_node.web.plots import Figure, Trend, trend
from dicom_node.web.reads import record_read
from dicom_node.web.rendering import page
from dicom_node.worklist.feedback import Opinion, give_feedback
from dicom_node.worklist.neighbours import Neighbours, neighbours
from dicom_node.worklist.priors import Prior, priors
from dicom_node.worklist.readings import Reader as Person
from dicom_node.worklist.readings import claim, read, release, unread
from dicom_node.worklist.rows import WorklistRow, worklist_row
from models.account import Role
from models.imaging import SET_ASIDE
from models.states import ArtifactKind, InstanceState, Verdict

_PRIORS: Final = 20
_MISSING: Final = "there is no study with this Study Instance UID: see the worklist"


class Said(BaseModel):
    """The form about the figure of an image; `number` is that of its tab.

    `analysis_id` is the figure that stood on the page.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    verdict: Verdict
    sop_instance_uid: Annotated[str, Field(max_length=64)]
    analysis_id: Annotated[int, Field(ge=1)]
    number: Annotated[int, Field(ge=1)] = 1
    percent: Annotated[str, Field(max_length=16)] = ""
    comment: Annotated[str, Field(max_length=4000)] = ""

    def opinion(self) -> Opinion:
        """Return what is said. Raises FeedbackError where the percentage is no number."""
        return Opinion(self.verdict, _number(given(self.percent)), given(self.comment))


@dataclass(frozen=True)
class Shown:
    """What stands on the page."""

    since: int  # the newest event when it was read
    detail: StudyDetail
    row: WorklistRow
    images: tuple[ImageDetail, ...]  # in the order of the tabs
    image: ImageDetail | None
    number: int
    patient: Patient
    priors: list[Prior]
    trend: Trend | None
    beside: Neighbours

    @property
    def has_deliveries(self) -> bool:
        """Whether anything of the study is on its way, or was."""
        of_images = [each for image in self.images for each in image.artifacts]
        of_study = [each for revision in self.detail.revisions for each in revision.artifacts]
        return any(each.deliveries for each in (*of_images, *of_study))

    @property
    def opinions(self) -> list[FeedbackDetail]:
        """What readers said of the image whose tab is shown."""
        uid = self.image.sop_instance_uid if self.image else None
        return [each for each in self.detail.feedback if each.sop_instance_uid == uid]

    @property
    def change(self) -> Prior | None:
        """The newest earlier exam that can be compared."""
        earlier = (each for each in reversed(self.priors) if not each.is_later)
        return next((each for each in earlier if each.delta is not None), None)


def routes(site: Site) -> APIRouter:
    """Return the routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/studies/{uid}")
    def show(
        request: Request, who: Viewer, uid: StudyUid, image: Annotated[int, Query(ge=1)] = 1
    ) -> HTMLResponse:
        """Show a study; `image` is the number of one of its images."""
        return _page(site, request, who, uid, image)

    @router.get("/studies/{uid}/state")
    def state(_who: Viewer, uid: StudyUid) -> dict[str, Any]:
        """Tell an open page whether it is out of date; nothing about the patient."""
        with site.database.read() as session:
            row = worklist_row(session, site.settings, uid)
            return {"revision": row.revision, "reading": row.reading_state, "study": row.state}

    _add_acts(router, site)
    _add_feedback(router, site)
    return router


def _add_acts(router: APIRouter, site: Site) -> None:
    @router.post("/studies/{uid}/reading")
    def act(
        request: Request,
        who: Reader,
        uid: StudyUid,
        to: Annotated[str, Form(pattern="^(claim|release|read|unread)$")],
        revision: Annotated[int, Form(ge=0)] = 0,
    ) -> Response:
        """Claim the study, give it back, end its reading, or open it again."""
        person = Person(who.name, is_operator=who.may(Role.OPERATOR, Scope.WORKLIST))
        try:
            with site.database.write() as session:
                if to == "claim":
                    claim(session, uid, person)
                elif to == "release":
                    release(session, uid, person)
                elif to == "read":
                    read(session, uid, person, revision)
                else:
                    unread(session, uid, person)
        except ReadingError as error:
            return _page(site, request, who, uid, problem=str(error))
        return RedirectResponse(f"/studies/{uid}", status.HTTP_303_SEE_OTHER)


def _add_feedback(router: APIRouter, site: Site) -> None:
    @router.post("/studies/{uid}/feedback")
    def feedback(
        request: Request, who: Reader, uid: StudyUid, said: Annotated[Said, Form()]
    ) -> Response:
        """Store what a reader says of the figure of an image."""
        try:
            with site.database.write() as session:
                give_feedback(
                    session,
                    uid,
                    who.name,
                    said.opinion(),
                    said.sop_instance_uid,
                    said.analysis_id,
                )
        except (FeedbackError, ReadingError) as error:
            return _page(site, request, who, uid, said.number, problem=str(error))
        back = f"/studies/{uid}?image={said.number}#feedback"
        return RedirectResponse(back, status.HTTP_303_SEE_OTHER)


def _number(text: str | None) -> float | None:
    """Return a percentage as people write it. Raises FeedbackError."""
    if text is None:
        return None
    try:
        return float(text.replace(",", ".").rstrip("% "))
    except ValueError as error:
        msg = "the correction is no number: write a percentage from 0 to 100"
        raise FeedbackError(msg) from error


def _page(
    site: Site,
    request: Request,
    who: Principal,
    uid: str,
    number: int = 1,
    *,
    problem: str | None = None,
) -> HTMLResponse:
    with site.database.read() as session:
        shown = _shown(site, session, uid, number)
    record_read(
        site.database,
        who,
        request,
        "study",
        study_instance_uid=uid,
        patient={"patient_id": shown.row.patient_id} if shown.row.patient_id else None,
    )
    context = {
        "shown": shown,
        "problem": problem,
        "is_operator": who.may(Role.OPERATOR, Scope.WORKLIST),
        "kinds": ArtifactKind,
    }
    code = status.HTTP_200_OK if problem is None else status.HTTP_409_CONFLICT
    return page(request, "study.html", context, principal=who, status_code=code)


def _shown(site: Site, session: Session, uid: str, number: int) -> Shown:
    since = newest_event(session)
    detail = study_detail(session, uid)
    if detail is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, _MISSING)
    row = worklist_row(session, site.settings, uid)
    images = tuple(sorted((each for each in detail.images if each.is_of_patient), key=_tab_order))
    number = min(number, len(images)) or 1
    found = priors(session, site.settings, uid, _PRIORS)
    figure = images[0].analysis if images else None
    return Shown(
        since=since,
        detail=detail,
        row=row,
        images=images,
        image=images[number - 1] if images else None,
        number=number,
        patient=patient_of(session, site.settings.image_store, _naming(images)),
        priors=found,
        trend=_trend(found, row, figure.total.opacity_percent if figure else None),
        beside=neighbours(session, uid),
    )


def _naming(images: tuple[ImageDetail, ...]) -> list[int]:
    """Return the images whose headers may name the patient, those that were withdrawn last.

    What was replaced, or waits in quarantine, may have been sent under a wrong name.
    """
    live = (each for each in images if each.state not in SET_ASIDE)
    ordered = sorted(live, key=lambda each: each.state is InstanceState.WITHDRAWN)
    return [each.id for each in ordered]


def _tab_order(image: ImageDetail) -> tuple[bool, float, int]:
    """Put the image that gives the study its figure first, those without a figure last."""
    analysis = image.analysis
    percent = (analysis.total.opacity_percent or 0.0) if analysis else 0.0
    return analysis is None, -percent, image.id


def _trend(found: list[Prior], row: WorklistRow, percent: float | None) -> Trend | None:
    """Return the plot over all exams of the patient; None where there is nothing to compare.

    `percent` is what the page shows of this study: its report may not tell of it yet.
    """
    if not found:
        return None
    figures = [
        Figure(
            _exam(prior.exam_at, prior.study_date, prior.received_at),
            prior.percent,
            is_this=False,
            is_comparable=prior.is_comparable,
        )
        for prior in found
    ]
    if percent is not None:
        at = _exam(row.exam_at, row.study_date, row.received_at)
        figures.append(Figure(at, percent, is_this=True, is_comparable=True))
    return trend(sorted(figures, key=lambda figure: figure.at))


def _exam(exam_at: datetime | None, study_date: str | None, received_at: datetime) -> datetime:
    """Return when an exam was, as exactly as it is known: a date alone counts as its noon."""
    if exam_at is not None:
        return exam_at
    with contextlib.suppress(ValueError):
        return datetime.strptime(f"{study_date}12", "%Y%m%d%H").replace(tzinfo=UTC)
    return received_at
