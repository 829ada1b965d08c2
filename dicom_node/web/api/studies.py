"""`studies` and `results`: lists by a filter, and everything about one study."""

from typing import Annotated, Final

from fastapi import APIRouter, HTTPException, Query, Request, Response, status
from pydantic import TypeAdapter

from dicom_node.results import every_result, result_page
from dicom_node.studies import StudyRow, every_study, studies
from dicom_node.study_detail import study_detail
from dicom_node.study_values import StudyDetail
from dicom_node.web.api.filters import ResultQuery, ResultSearch, StudyQuery, StudySearch
from dicom_node.web.api.listings import Listed
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import Known, StudyUid, Viewer
from dicom_node.web.api.schemas import PageOf, Result, problems
from dicom_node.web.reads import record_read

Studies = PageOf[StudyRow] | Response
Results = PageOf[Result] | Response

_STUDIES: Final = Listed[StudyQuery, StudyRow](
    "studies",
    PageOf[StudyRow],
    TypeAdapter(StudyRow),
    lambda session, query: studies(
        session,
        query.wanted,
        query.sort,
        descends=query.descends,
        cursor=query.cursor,
        limit=query.rows,
    ),
    lambda session, query: every_study(session, query.wanted, query.sort, descends=query.descends),
)


def _results(node: Node) -> Listed[ResultQuery, Result]:
    settings = node.settings
    return Listed(
        "results",
        PageOf[Result],
        TypeAdapter(Result),
        lambda session, query: result_page(
            session,
            settings,
            query.wanted,
            query.sort,
            descends=query.descends,
            cursor=query.cursor,
            limit=query.rows,
        ),
        lambda session, query: every_result(
            session, settings, query.wanted, query.sort, descends=query.descends
        ),
    )


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])
    _add_studies(routes, node)
    _add_results(routes, node)
    return routes


def _add_studies(routes: APIRouter, node: Node) -> None:
    @routes.get("/studies", summary="Studies by a filter without patient data", **_STUDIES.told)
    def list_studies(
        request: Request, who: Viewer, query: Annotated[StudyQuery, Query()]
    ) -> Studies:
        """Newest first, in pages; or all that match, as CSV or JSON lines."""
        return _STUDIES.answer(node, request, who, query)

    @routes.post("/studies/search", summary="Studies, also by patient", **_STUDIES.told)
    def search_studies(request: Request, who: Viewer, query: StudySearch) -> Studies:
        """Filter in a body: an address ends in the logs of proxies."""
        return _STUDIES.answer(node, request, who, query)

    @routes.get(
        "/studies/{uid}",
        summary="One study with all that became of it",
        responses=problems(404),
    )
    def get_study(request: Request, who: Viewer, uid: StudyUid) -> StudyDetail:
        """Images, figures, objects with their hashes, jobs, deliveries, revisions, feedback."""
        with node.database.read() as session:
            found = study_detail(session, uid)
        if found is None:
            raise HTTPException(
                status.HTTP_404_NOT_FOUND, "there is no study with this Study Instance UID"
            )
        for patient in _patients_in(found):
            record_read(
                node.database,
                who,
                request,
                "study",
                study_instance_uid=uid,
                patient={"patient_id": patient},
            )
        return found


def _patients_in(found: StudyDetail) -> list[str | None]:
    """Return whose data it is: the study's patient, and those of images that are another's."""
    others = (each.patient_id for each in found.images if not each.is_of_patient)
    return list(dict.fromkeys([found.study.patient_id, *others]))


def _add_results(routes: APIRouter, node: Node) -> None:
    listed = _results(node)

    @routes.get("/results", summary="Images by a filter without patient data", **listed.told)
    def list_results(
        request: Request, who: Viewer, query: Annotated[ResultQuery, Query()]
    ) -> Results:
        """Newest first, in pages; or all that match. By percentage: those that have one."""
        return listed.answer(node, request, who, query)

    @routes.post("/results/search", summary="Images, also by patient", **listed.told)
    def search_results(request: Request, who: Viewer, query: ResultSearch) -> Results:
        """Filter in a body: an address ends in the logs of proxies."""
        return listed.answer(node, request, who, query)
