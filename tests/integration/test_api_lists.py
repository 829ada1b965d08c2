"""Lists over REST: filters narrow, orders are walked once, no patient stands in an address."""

from collections.abc import Iterator
from typing import Any

import pytest
from api_node import NOON, ApiNode, api_node_on
from sqlalchemy import select

from dicom_node.paging import encode
from models.audit import AuditAction, AuditEvent

_ALL = ["waits", "lateral", "other", "severe", "mild", "none"]  # newest first
_LISTS = ("studies", "results")
_AT = NOON.isoformat()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def node(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiNode]:
    with api_node_on(request, tmp_path_factory.mktemp("api")) as made:
        yield made


def _walk(node: ApiNode, path: str, **query: Any) -> list[str]:
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = node.get(path, limit=2, **query, **cursor)
        assert len(page["items"]) <= 2
        found += node.names(page["items"])
        if page["next"] is None:
            return found
        cursor = {"cursor": page["next"]}


@pytest.mark.parametrize("path", _LISTS)
@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({}, _ALL),
        ({"since": _AT}, ["waits"]),
        ({"since": "2026-03-01T10:00:00+01:00", "until": "2026-03-01T10:00:00Z"}, ["severe"]),
        ({"calling_aet": "MOBILE"}, ["mild"]),
        ({"severity": "severe"}, ["severe"]),
        ({"min_percent": 10}, ["other", "severe", "mild"]),
        ({"max_percent": 10}, ["mild", "none"]),
        ({"min_percent": 5, "max_percent": 40}, ["other", "mild"]),
        ({"model": "other"}, ["other"]),
        ({"model": "unet", "model_version": "1"}, ["severe", "mild", "none"]),
        ({"model": "unet", "model_version": "9"}, []),
        ({"model_version": "1"}, ["other", "severe", "mild", "none"]),
        ({"modality": "MG"}, ["lateral"]),
        ({"modality": "CR"}, [name for name in _ALL if name != "lateral"]),
        ({"modality": "XA"}, []),
        ({"reason": "lateral_view"}, ["lateral"]),
        ({"caveat": "mirrored"}, ["severe"]),
        ({"caveat": "mirrored", "calling_aet": "MOBILE"}, []),
    ],
)
def test_every_filter_narrows_both_lists(
    node: ApiNode, path: str, query: dict[str, Any], names: list[str]
) -> None:
    assert node.names(node.get(path, **query)["items"]) == names


@pytest.mark.parametrize(("few", "some"), [(0, 100_000), (0, 0)])
@pytest.mark.parametrize("sort", ["received", "percent", "study_date"])
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ({"modality": "MG"}, "lateral"),
        ({"reason": "lateral_view"}, "lateral"),
        ({"caveat": "mirrored"}, "severe"),
    ],
)
def test_what_many_images_have_finds_the_same_studies(
    node: ApiNode,
    monkeypatch: pytest.MonkeyPatch,
    query: dict[str, Any],
    name: str,
    sort: str,
    few: int,
    some: int,
) -> None:
    """As with a million images: the condition is another one then."""
    monkeypatch.setattr("dicom_node.studies._FEW", few)
    monkeypatch.setattr("dicom_node.studies._SOME", some)
    assert _walk(node, "studies", sort=sort, **query) == [name]


@pytest.mark.parametrize(
    ("path", "query", "names"),
    [
        ("studies", {"state": "closed"}, ["lateral"]),
        ("studies", {"state": "reported"}, ["other", "severe", "mild"]),
        ("studies", {"reading_state": "read"}, []),
        ("studies", {"reading_state": "unread", "severity": "none"}, ["none"]),
        ("results", {"state": "queued"}, ["waits"]),
        ("results", {"state": "not_analysed"}, ["lateral"]),
        ("results", {"state": "quarantined"}, []),
        ("results", {"state": "analysed", "min_percent": 50}, ["severe"]),
    ],
)
def test_states_narrow_the_list_that_has_them(
    node: ApiNode, path: str, query: dict[str, Any], names: list[str]
) -> None:
    assert node.names(node.get(path, **query)["items"]) == names


def test_one_study_and_one_image_are_found_by_uid(node: ApiNode) -> None:
    for path in _LISTS:
        found = node.get(path, study_instance_uid=node.uids["mild"])["items"]
        assert node.names(found) == ["mild"]
    image = node.image("severe")
    assert node.names(node.get("results", sop_instance_uid=image)["items"]) == ["severe"]


@pytest.mark.parametrize(
    ("path", "query", "names"),
    [
        ("studies", {}, _ALL),
        ("studies", {"sort": "percent"}, ["severe", "other", "mild", "none", "lateral", "waits"]),
        (
            "studies",
            {"sort": "study_date"},
            ["none", "severe", "waits", "lateral", "other", "mild"],
        ),
        ("results", {}, _ALL),
        ("results", {"sort": "percent"}, ["severe", "other", "mild", "none"]),
        ("results", {"sort": "percent", "until": _AT}, ["severe", "other", "mild", "none"]),
        ("results", {"until": _AT}, _ALL[1:]),
    ],
)
def test_every_order_is_walked_in_both_directions(
    node: ApiNode, path: str, query: dict[str, Any], names: list[str]
) -> None:
    assert _walk(node, path, **query) == names
    ends = {"percent": 4, "study_date": 2}.get(query.get("sort", ""), len(names))
    backwards = _walk(node, path, order="asc", **query)
    assert backwards == [*names[:ends][::-1], *names[ends:][::-1]]


def test_a_cursor_belongs_to_its_order(node: ApiNode) -> None:
    cursor = node.get("studies", limit=1)["next"]
    for other in ({"sort": "percent"}, {"order": "asc"}, {"sort": "study_date"}):
        assert node.client.get("studies", params={"cursor": cursor, **other}).status_code == 400
    for key in (["received-desc", 0, "x", 1], ["received-desc", 0, _AT, 1 << 40], ["x"], [None]):
        answer = node.client.get("studies", params={"cursor": encode(key)})
        assert (answer.status_code, answer.json()["status"]) == (400, 400)
    kinds = [
        ("percent", ["percent-desc", 0, "x", 1]),
        ("percent", ["percent-desc", 0, 10**320, 1]),
        ("study_date", ["study_date-desc", 0, "\0", 1]),
        ("study_date", ["study_date-desc", 0, "\ud800", 1]),
    ]
    for sort, key in kinds:
        answer = node.client.get("studies", params={"sort": sort, "cursor": encode(key)})
        assert answer.status_code == 400
    assert node.client.get("results", params={"cursor": encode(["x" * 600])}).status_code == 422


def test_patients_are_searched_for_in_a_body(node: ApiNode) -> None:
    for path in ("studies/search", "results/search", "worklist/search"):
        assert len(node.post(path, {"patient_id": "P1", "limit": 2})["items"]) == 2
        found = node.post(path, {"accession_number": "A2"})["items"]
        assert node.names(found) == ["severe"]
        assert node.post(path, {"patient_id": "P1", "accession_number": "A9"})["items"] == []
        answer = node.client.post(path, json={"patient": "P1"})
        assert answer.status_code == 422
    assert node.post("studies/search", {"issuer_of_patient_id": "H"})["items"] == []
    for path in (*_LISTS, "worklist", "audit"):
        answer = node.client.get(path, params={"patient_id": "P1"})
        assert answer.status_code == 400
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "there is no parameter 'patient_id'"


def test_an_unknown_parameter_is_refused_and_cannot_forge_a_line(node: ApiNode) -> None:
    for path in ("studies", "deliveries", "ledger", "models", f"studies/{node.uids['mild']}"):
        answer = node.client.get(path, params={"sta\nte": "open"})
        assert (answer.status_code, answer.json()["detail"]) == (
            400,
            "there is no parameter 'sta?te'",
        )


@pytest.mark.parametrize(
    "query",
    [
        {"state": "lost"},
        {"limit": 0},
        {"limit": 1001},
        {"min_percent": "nan"},
        {"min_percent": 101},
        {"since": "2026-01-01T00:00:00"},
        {"since": "0001-01-01T00:00:00+14:00"},
        {"study_instance_uid": "1.2.x"},
        {"calling_aet": "X" * 17},
        {"caveat": "a\tb"},
        {"sort": "id; DROP TABLE study"},
        {"reason": "secret_patient"},
    ],
)
def test_a_wrong_value_is_refused_and_not_repeated(node: ApiNode, query: dict[str, Any]) -> None:
    answer = node.client.get("results", params=query)
    assert answer.status_code == 422
    (name,), problem = query, answer.json()
    assert [each["where"] for each in problem["errors"]] == [f"query.{name}"]
    assert str(query[name]) not in answer.text.replace('"status":422', "")


def test_only_analysed_images_have_figures(node: ApiNode) -> None:
    for query in (
        {"sort": "percent", "state": "failed"},
        {"severity": "mild", "reason": "lateral_view"},
        {"model": "unet", "state": "withdrawn"},
    ):
        answer = node.client.get("results", params=query)
        assert answer.status_code == 422
        assert "only analysed images have figures" in answer.text


def test_who_read_a_list_is_recorded_without_the_patient_in_the_details(node: ApiNode) -> None:
    filtered = {"severity": "mild", "limit": 7, "order": "desc", "sort": "received"}
    node.post("results/search", {"patient_id": "P1", **filtered})
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.PATIENT_DATA_READ)
        event = session.scalars(query.order_by(AuditEvent.id.desc())).first()
    assert event is not None
    assert (event.outcome, event.actor, event.patient) == ("results", "admin", {"patient_id": "P1"})
    assert event.details["rows"] == 1
    assert event.details["filter"] == filtered


def test_rows_say_what_became_of_the_images(node: ApiNode) -> None:
    severe = node.get("studies", severity="severe")["items"][0]
    assert severe["images"] == dict.fromkeys(severe["images"], 0) | {"analysed": 1}
    assert (severe["opacity_percent"], severe["model"]["name"]) == (80.0, "unet")
    assert (severe["caveats"], severe["modalities"]) == (["mirrored"], ["CR"])
    lateral = node.get("studies", state="closed")["items"][0]
    assert (lateral["reasons"], lateral["model"]) == (["lateral_view"], None)
    result = node.get("results", severity="severe")["items"][0]
    assert result["opacity_percent"] == {"total": 80.0, "left": 80.0, "right": 80.0}
    assert {each["kind"] for each in result["files"]} == {
        "seg",
        "display",
        "overlay",
        "layer",
        "sr",
    }
    assert "path" not in result["files"][0]
    deliveries = result["files"][0]["deliveries"]
    assert [(each["destination"], each["state"]) for each in deliveries] == [
        *(("PACS", "due"), ("ARCHIVE", "dead"))
    ]
