"""`worklist`: what to read first, who reads it, and what readers think of the figures."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response, status
from pydantic import Field, TypeAdapter
from sqlalchemy.orm import Session

from dicom_node.paging import MAX_LIMIT
from dicom_node.web.api.filters import WorklistQuery, WorklistSearch
from dicom_node.web.api.listings import Listed
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import (
    Known,
    Parameters,
    Percent,
    Reader,
    StudyUid,
    Uid,
    Viewer,
)
from dicom_node.web.api.schemas import PageOf, problems
from dicom_node.web.auth import Principal, Scope
from dicom_node.web.reads import record_read
from dicom_node.worklist import readings
from dicom_node.worklist.feedback import GivenFeedback, Opinion, feedback_of, give_feedback
from dicom_node.worklist.priors import Prior, priors
from dicom_node.worklist.rows import WorklistRow, worklist, worklist_row
from models.account import Role
from models.states import Verdict

Rows = PageOf[WorklistRow] | Response
_ERRORS: Final = problems(404, 409)


class ReadStudy(Parameters):
    """That a study was read, and up to which report."""

    revision: int | None = Field(
        None, ge=0, le=1_000_000, description="The report that was seen; 0: none."
    )


class NewFeedback(Parameters):
    """What a reader says of a figure. A percentage goes with a correction, and only there."""

    verdict: Verdict
    percent: Percent | None = None
    comment: str | None = Field(None, max_length=2000, pattern=r"^[^\x00]*$")
    sop_instance_uid: Uid | None = Field(
        None, description="Which image; not said: the one that the study's figure is from."
    )
    analysis_id: int | None = Field(
        None, ge=1, description="The figure that was seen; 409 where another one counts by now."
    )


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])
    _add_lists(routes, node)
    _add_readings(routes, node)
    _add_opinions(routes, node)
    return routes


def _add_lists(routes: APIRouter, node: Node) -> None:
    listed = _listed(node)

    @routes.get("/worklist", summary="What to read first", **listed.told)
    def list_worklist(
        request: Request, who: Reader, query: Annotated[WorklistQuery, Query()]
    ) -> Rows:
        """Begin with the highest percentage; with `late`, with what has waited longest."""
        return listed.answer(node, request, who, query)

    @routes.post("/worklist/search", summary="The worklist, also by patient", **listed.told)
    def search_worklist(request: Request, who: Reader, query: WorklistSearch) -> Rows:
        """Filter in a body: an address ends in the logs of proxies."""
        return listed.answer(node, request, who, query)


def _listed(node: Node) -> Listed[WorklistQuery, WorklistRow]:
    def every(session: Session, query: WorklistQuery) -> Iterator[WorklistRow]:
        cursor: str | None = None
        while True:
            page = worklist(session, node.settings, query.wanted, cursor, MAX_LIMIT)
            yield from page.rows
            session.expunge_all()
            if page.next is None:
                return
            cursor = page.next

    return Listed(
        "worklist",
        PageOf[WorklistRow],
        TypeAdapter(WorklistRow),
        lambda session, query: worklist(
            session, node.settings, query.wanted, query.cursor, query.rows
        ),
        every,
    )


def _add_readings(routes: APIRouter, node: Node) -> None:
    told: dict[str, Any] = {"response_model": WorklistRow, "responses": _ERRORS}

    @routes.post("/worklist/{uid}/claim", summary="Take a study to read", **told)
    def claim(who: Reader, uid: StudyUid) -> WorklistRow:
        """Answer 409 where another reader has it, or it is read."""
        return _changed(node, who, uid, readings.claim)

    @routes.post("/worklist/{uid}/release", summary="Give a claimed study back", **told)
    def release(who: Reader, uid: StudyUid) -> WorklistRow:
        """Let an operator do so for another reader, too."""
        return _changed(node, who, uid, readings.release)

    @routes.post("/worklist/{uid}/read", summary="Say that a study was read", **told)
    def read(who: Reader, uid: StudyUid, seen: ReadStudy | None = None) -> WorklistRow:
        """Answer 409 where a newer report came than was seen, or another reader has the study."""
        revision = seen.revision if seen else None
        return _changed(node, who, uid, readings.read, revision=revision)

    @routes.post("/worklist/{uid}/unread", summary="Open a reading again", **told)
    def unread(who: Reader, uid: StudyUid) -> WorklistRow:
        """Let the reader who ended it, or an operator, do so."""
        return _changed(node, who, uid, readings.unread)


def _changed(
    node: Node, who: Principal, uid: str, change: Callable[..., object], **values: object
) -> WorklistRow:
    """Return the row of the study after the change; the change is an event of the audit."""
    reader = readings.Reader(who.name, is_operator=who.may(Role.OPERATOR, Scope.WORKLIST))
    with node.database.write() as session:
        change(session, uid, reader, **values)
    with node.database.read() as session:
        return worklist_row(session, node.settings, uid)


def _add_opinions(routes: APIRouter, node: Node) -> None:
    @routes.get(
        "/studies/{uid}/priors",
        summary="Other results of the same patient",
        responses=_ERRORS,
    )
    def list_priors(request: Request, who: Viewer, uid: StudyUid) -> list[Prior]:
        """List the newest hundred, oldest first; with the difference where both are comparable."""
        with node.database.read() as session:
            found = priors(session, node.settings, uid)
        record_read(node.database, who, request, "priors", study_instance_uid=uid, rows=len(found))
        return found

    @routes.get(
        "/studies/{uid}/feedback",
        summary="What readers said of the figures",
        responses=_ERRORS,
    )
    def list_feedback(request: Request, who: Reader, uid: StudyUid) -> list[GivenFeedback]:
        """List it, newest first."""
        with node.database.read() as session:
            worklist_row(session, node.settings, uid)
            found = feedback_of(session, uid)
        record_read(
            node.database, who, request, "feedback", study_instance_uid=uid, rows=len(found)
        )
        return found

    @routes.post(
        "/studies/{uid}/feedback",
        summary="Accept, reject or correct a figure",
        status_code=status.HTTP_201_CREATED,
        responses=_ERRORS,
    )
    def add_feedback(who: Reader, uid: StudyUid, said: NewFeedback) -> GivenFeedback:
        """Store it for good; of several by one reader on one image the last one counts."""
        opinion = Opinion(said.verdict, said.percent, said.comment)
        with node.database.write() as session:
            give_feedback(session, uid, who.name, opinion, said.sop_instance_uid, said.analysis_id)
        with node.database.read() as session:
            return feedback_of(session, uid)[0]
