"""QIDO-RS over HTTP: what C-FIND finds, by query strings; who may ask, and the events of it."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from conftest import RunningListener
from dicomweb_client import Web, web_of
from querying import add_results, send, small_image, two_images
from sqlalchemy import update
from web_accounts import bearer
from web_served import app_of, serving

from dicom_node.web import serve
from models.account import Role, Scope
from models.audit import AuditAction
from models.imaging import Instance
from models.states import InstanceState

Listen = Callable[..., RunningListener]
NAMES = ("Adams^Ann", "Baker^Bob", "Adamson^Cy")


@pytest.fixture
def node(listen: Listen) -> RunningListener:
    """Three studies of one image each, the newest last."""
    started = listen()
    images = [
        small_image(str(number), PatientName=name, StudyDate=f"2026010{number + 1}")
        for number, name in enumerate(NAMES)
    ]
    send(started.port, *images)
    return started


@pytest.fixture
def web(node: RunningListener) -> Iterator[Web]:
    """Its web side, asked by a viewer."""
    with web_of(node.settings, node.database, Role.VIEWER, Scope.RESULTS) as opened:
        yield opened


def test_studies_by_every_kind_of_key(web: Web) -> None:
    def ids(**keys: Any) -> list[str]:
        return [str(ds.PatientID) for ds in web.found("studies", **keys)]

    assert ids() == ["P-2", "P-1", "P-0"]
    assert ids(PatientName="adam*") == ["P-2", "P-0"]
    assert ids(**{"00100010": "Adams^*"}) == ["P-0"]
    assert ids(StudyDate="20260102-") == ["P-2", "P-1"]
    assert ids(StudyDate="20260101-20260102", PatientName="*a*") == ["P-1", "P-0"]
    assert ids(AccessionNumber="A-?", ModalitiesInStudy="CR", StudyTime="1100-1300") == ids()
    assert ids(ModalitiesInStudy="MR") == []
    uids = [str(small_image(seed).StudyInstanceUID) for seed in ("0", "2")]
    assert ids(StudyInstanceUID=",".join(uids)) == ["P-2", "P-0"]
    assert ids(StudyInstanceUID="\\".join(uids)) == ["P-2", "P-0"]
    assert ids(StudyInstanceUID=uids) == ["P-2", "P-0"]  # the parameter twice
    assert ids(PatientID="%") == ids(PatientID="'; DROP TABLE study") == []
    assert [str(ds.PatientID) for ds in web.found("series", PatientID="P-1")] == ["P-1"]
    assert [str(ds.PatientID) for ds in web.found("instances", StudyDate="20260103")] == ["P-2"]


def test_a_match_has_the_attributes_of_its_level_and_its_address(web: Web) -> None:
    image = small_image("1")
    (study,) = web.found("studies", PatientID="P-1", includefield="StudyDescription,00080005")
    assert study.RetrieveURL.endswith(f"/dicom-web/studies/{image.StudyInstanceUID}")
    assert (study.InstanceAvailability, study.NumberOfStudyRelatedInstances) == ("ONLINE", 1)
    assert "StudyDescription" in study
    assert "QueryRetrieveLevel" not in study
    (series,) = web.found(f"studies/{image.StudyInstanceUID}/series")
    assert (series.Modality, series.SeriesInstanceUID) == ("CR", image.SeriesInstanceUID)
    assert "PatientName" not in series  # the path names the study
    (found,) = web.found(
        f"studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}/instances",
        includefield="all",
    )
    assert (found.Rows, found.BitsAllocated, found.SOPClassUID) == (16, 16, image.SOPClassUID)
    assert found.RetrieveURL.endswith(f"/instances/{image.SOPInstanceUID}")
    assert found.PatientName == "Baker^Bob"
    answer = httpx.get(found.RetrieveURL, headers=dict(web.client.headers))
    assert answer.status_code == httpx.codes.OK


def test_pages_and_what_says_that_there_are_more(web: Web) -> None:
    def page(**parameters: Any) -> tuple[list[str], str | None]:
        answer = web.get("studies", **parameters)
        found = answer.json() if answer.content else []
        ids = [each["00100020"]["Value"][0] for each in found]
        return ids, answer.headers.get("warning")

    more = '299 dicom-node "There are additional results that can be requested"'
    assert page(limit=2) == (["P-2", "P-1"], more)
    assert page(limit=2, offset=2) == (["P-0"], None)
    assert page(limit=3) == (["P-2", "P-1", "P-0"], None)
    assert page(offset=3) == ([], None)
    assert web.get("studies", offset=3).status_code == httpx.codes.NO_CONTENT
    assert page(limit=99_999_999, fuzzymatching="true")[1] is not None
    _, warning = page(Rows="16", PatientComments="secret", Nonsense="secret")
    assert warning is not None
    assert "PatientComments, Rows" in warning
    assert "secret" not in warning
    assert "Nonsense" not in warning


NOT_UNDERSTOOD: list[tuple[str, dict[str, Any], int]] = [
    ("studies", {"limit": "x"}, 400),
    ("studies", {"offset": "-1"}, 400),
    ("studies", {"StudyDate": "yesterday"}, 400),
    ("studies", {"StudyInstanceUID": "1.2'"}, 400),
    ("studies", {"PatientID": ["a", "b"]}, 400),
    ("series", {"SeriesNumber": "one"}, 400),
    ("studies", {"accept": "text/html"}, 406),
    ("studies/1.2x/series", {}, 422),
    (f"studies/{'1' * 65}/series", {}, 422),
]


def test_what_cannot_be_asked_is_a_problem_that_quotes_nothing(web: Web) -> None:
    for path, parameters, status in NOT_UNDERSTOOD:
        answer = web.get(path, **parameters)
        assert (answer.status_code, path, parameters) == (status, path, parameters)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == status
        for value in parameters.values():
            assert str(value) not in answer.json()["detail"] or len(value) < 3


def test_limits_are_those_of_c_find(listen: Listen) -> None:
    node = listen(sections={"query_retrieve": {"max_results": 2, "max_files": 3}})
    send(node.port, *(small_image(str(number)) for number in range(4)))
    with web_of(node.settings, node.database, Role.VIEWER, Scope.RESULTS) as web:
        assert len(web.get("studies", limit=10).json()) == 2
        answer = web.get("studies", PatientName="Nobody")
        assert answer.status_code == 413
        assert "3 files" in answer.json()["detail"]
        assert web.get("studies", PatientID="P-3").status_code == 200  # rows know that
        events = web.events(AuditAction.QUERY)
        assert [event.outcome for event in events] == ["success", "TooManyMatchesError", "success"]


def test_results_are_found_and_what_is_set_aside_is_not(listen: Listen) -> None:
    node = listen()
    first, second = two_images()
    send(node.port, first, second)
    seg, report = add_results(node.settings, node.database, first)
    with web_of(node.settings, node.database, Role.VIEWER, Scope.RESULTS) as web:
        study = f"studies/{first.StudyInstanceUID}"
        found = {str(ds.SOPInstanceUID) for ds in web.found(f"{study}/instances")}
        assert found == {first.SOPInstanceUID, second.SOPInstanceUID, seg, report}
        assert {str(ds.SOPInstanceUID) for ds in web.found("instances", Modality="SEG")} == {seg}
        modalities = sorted(str(ds.Modality) for ds in web.found(f"{study}/series"))
        assert modalities == ["CR", "CR", "SEG", "SR"]
        for state in (
            InstanceState.QUARANTINED,
            InstanceState.SUPERSEDED,
            InstanceState.WITHDRAWN,
        ):
            with node.database.write() as session:
                uid = str(second.SOPInstanceUID)
                hidden = update(Instance).where(Instance.sop_instance_uid == uid)
                session.execute(hidden.values(state=state))
            assert web.found("instances", SOPInstanceUID=uid) == []
            assert web.get(f"{study}/series/{second.SeriesInstanceUID}").status_code == 404


def test_a_search_is_an_event_with_who_asked_what(web: Web) -> None:
    web.found("studies", PatientName="Bak*", includefield="all")
    web.found(f"studies/{small_image('1').StudyInstanceUID}/series")
    web.get("studies", StudyDate="never")
    first, second, third = web.events(AuditAction.QUERY)
    assert (first.actor, first.outcome, first.calling_aet) == ("viewer", "success", None)
    assert first.details["service"] == "QIDO-RS"
    assert (first.details["level"], first.details["keys"]) == ("STUDY", ["PatientName"])
    assert (first.details["matches"], first.patient) == (1, {"PatientName": "Bak*"})
    assert second.study_instance_uid == small_image("1").StudyInstanceUID
    assert (third.outcome, third.patient) == ("IdentifierError", None)


def test_nothing_of_a_search_stands_in_a_log(web: Web, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for keys in (
        {"PatientName": "SECRET*"},
        {"PatientID": "SECRET", "limit": "SECRET"},
        {"PatientBirthDate": "SECRET"},
        {"PatientComments": "SECRET", "SECRET": "SECRET"},
    ):
        answer = web.get("studies", **keys)
        assert "SECRET" not in answer.text + str(answer.headers)
    # Beside the client's own. uvicorn's access log has no handler but the one that pytest gives it.
    assert serve.options(web.settings.web, None)["access_log"] is False
    told = [it for it in caplog.records if not it.name.startswith(("http", "uvicorn.access"))]
    assert "SECRET" not in " ".join(f"{it.getMessage()} {it.exc_text}" for it in told)


def test_it_is_for_whoever_may_see_results(node: RunningListener) -> None:
    image = small_image("0")
    instance = (
        f"studies/{image.StudyInstanceUID}/series/{image.SeriesInstanceUID}"
        f"/instances/{image.SOPInstanceUID}"
    )
    paths = ("studies", instance, f"{instance}/frames/1", f"{instance}/metadata")
    with (
        serving(node.settings, node.database, app_of(node.settings, node.database)) as url,
        httpx.Client(base_url=f"{url}/dicom-web/") as client,
    ):
        wrong = bearer(node.database, Role.ADMIN, Scope.WORKLIST, Scope.STORE)
        right = bearer(node.database, Role.VIEWER, Scope.RESULTS)
        for path in paths:
            assert client.get(path).status_code == 401
            assert client.get(path, headers=wrong).status_code == 403
            assert client.get(path, headers=right).status_code == 200


def test_it_can_be_switched_off(node: RunningListener) -> None:
    web = node.settings.web.model_copy(update={"dicomweb": False})
    settings = node.settings.model_copy(update={"web": web})
    with web_of(settings, node.database) as opened:
        assert opened.get("studies").status_code == 404
        assert opened.store(b"x").status_code in {404, 405}


def test_another_origin_only_where_it_is_named(node: RunningListener) -> None:
    viewer = "https://viewer.example"
    asked = {"Origin": viewer, "Access-Control-Request-Method": "GET"}
    with web_of(node.settings, node.database) as web:
        answer = web.client.get("/dicom-web/studies", headers={"Origin": viewer})
        assert "access-control-allow-origin" not in answer.headers
    named = node.settings.web.model_copy(update={"dicomweb_origins": (viewer,)})
    with web_of(node.settings.model_copy(update={"web": named}), node.database) as web:
        answer = web.client.get("/dicom-web/studies", headers={"Origin": viewer})
        assert answer.headers["access-control-allow-origin"] == viewer
        assert "access-control-allow-credentials" not in answer.headers
        other = {"Origin": "https://viewer.example.evil"}
        answer = web.client.get("/dicom-web/studies", headers=other)
        assert "access-control-allow-origin" not in answer.headers
        answer = httpx.options(f"{web.client.base_url}/dicom-web/studies", headers=asked)
        assert answer.headers["access-control-allow-origin"] == viewer
        answer = httpx.options(f"{web.client.base_url}/api/v1/studies", headers=asked)
        assert "access-control-allow-origin" not in answer.headers
