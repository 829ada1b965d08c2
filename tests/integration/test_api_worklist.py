"""The worklist over REST: who reads what, what they think of it, and what there was before."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_node import ApiNode, api_node, report_again
from rows import outcomes

from models.account import Role
from models.audit import AuditAction

_ORDER = ["severe", "other", "mild", "none", "lateral", "waits"]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ApiNode]:
    with api_node(tmp_path) as made:
        yield made


def test_the_highest_percentage_comes_first_in_pages(node: ApiNode) -> None:
    found: list[str] = []
    cursor: dict[str, str] = {}
    for _ in range(3):
        page = node.get("worklist", limit=2, **cursor)
        found += node.names(page["items"])
        cursor = {"cursor": page["next"]} if page["next"] else {}
    assert (found, cursor) == (_ORDER, {})
    assert node.names(node.get("worklist", late="true")["items"]) == ["waits"]
    assert node.names(node.get("worklist", severity="severe")["items"]) == ["severe"]
    assert node.names(node.get("worklist", priority="HIGH")["items"]) == ["severe", "other"]
    assert node.names(node.get("worklist", calling_aet="MOBILE")["items"]) == ["mild"]


def test_a_study_is_claimed_given_back_and_read(node: ApiNode) -> None:
    uid = node.uids["severe"]
    claimed = node.post(f"worklist/{uid}/claim")
    assert (claimed["reading_state"], claimed["reader"]) == ("claimed", "admin")
    with node.as_role(Role.VIEWER) as other:
        refused = other.post(f"worklist/{uid}/claim")
        assert (refused.status_code, refused.headers["content-type"]) == (
            409,
            "application/problem+json",
        )
        assert refused.json()["detail"] == "admin has claimed the study: choose another one"
        assert other.post(f"worklist/{uid}/release").status_code == 409
    assert node.names(node.get("worklist")["items"]) == _ORDER[1:]
    assert node.names(node.get("worklist", reading_state="claimed")["items"]) == ["severe"]
    assert node.post(f"worklist/{uid}/release")["reading_state"] == "unread"
    assert node.post(f"worklist/{uid}/read", {"revision": 1})["reading_state"] == "read"
    assert node.get(f"studies/{uid}")["reading"]["read_by"] == "admin"
    assert node.post(f"worklist/{uid}/unread")["reading_state"] == "unread"
    node.post(f"worklist/{node.uids['mild']}/read")
    for what in ("claim", "release", "read", "unread"):
        node.post(f"worklist/1.2.3/{what}", status=404)
    assert outcomes(node.database, AuditAction.STUDY_CLAIMED) == ["claimed"]


def test_an_operator_gives_back_for_another_reader(node: ApiNode) -> None:
    uid = node.uids["severe"]
    with node.as_role(Role.VIEWER) as reader:
        assert reader.post(f"worklist/{uid}/claim").json()["reader"] == "viewer-too"
    assert node.post(f"worklist/{uid}/release")["reading_state"] == "unread"
    assert outcomes(node.database, AuditAction.STUDY_RELEASED) == ["forced"]


def test_a_newer_report_must_be_seen_before_a_study_is_read(node: ApiNode) -> None:
    uid = node.uids["severe"]
    report_again(node, "severe", 90.0)
    refused = node.post(f"worklist/{uid}/read", {"revision": 1}, status=409)
    assert refused["detail"] == "a newer report of this study has come: look at it first"
    node.post(f"worklist/{uid}/read", {"revision": 2})
    assert node.client.post(f"worklist/{uid}/read", json={"revison": 2}).status_code == 422


def test_feedback_is_given_listed_and_refused_where_it_contradicts_itself(node: ApiNode) -> None:
    uid, image = node.uids["severe"], node.image("severe")
    path = f"studies/{uid}/feedback"
    given = node.post(path, {"verdict": "accept"}, status=201)
    assert (given["account"], given["percent"], given["counts"]) == ("admin", 80.0, True)
    said = {"verdict": "correct", "percent": 70.5, "sop_instance_uid": image, "comment": "less"}
    assert node.post(path, said, status=201)["corrected_percent"] == 70.5
    assert [each["verdict"] for each in node.get(path)] == ["correct", "accept"]
    for wrong in ({"verdict": "correct"}, {"verdict": "accept", "percent": 1}):
        node.post(path, wrong, status=409)
    node.post(f"studies/{node.uids['lateral']}/feedback", {"verdict": "accept"}, status=409)
    (seen,) = (each["id"] for each in node.get(f"studies/{uid}")["images"][0]["analyses"])
    refused = node.post(path, {"verdict": "accept", "analysis_id": seen + 1}, status=409)
    assert "the study has another figure by now" in refused["detail"]
    node.post(path, {"verdict": "reject", "analysis_id": seen}, status=201)
    for invalid in ({"verdict": "maybe"}, {"verdict": "correct", "percent": 101}, {"verdict": 1}):
        node.post(path, invalid, status=422)
    assert outcomes(node.database, AuditAction.FEEDBACK_GIVEN) == ["accept", "correct", "reject"]


def test_priors_of_the_patient_come_with_the_difference(node: ApiNode) -> None:
    found = node.get(f"studies/{node.uids['severe']}/priors")
    assert {name: row["delta"] for name, row in zip(node.names(found), found, strict=True)} == {
        "none": 80.0
    }
    assert outcomes(node.database, AuditAction.PATIENT_DATA_READ) == ["priors"]
