"""One study over REST: everything that became of it, on both kinds of database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_node import ApiNode, api_node, report_again
from rows import add_instance, add_job, outcomes
from sqlalchemy import select, update

from dicom_node import study_detail
from models.audit import AuditAction, AuditEvent
from models.imaging import Instance, Study
from models.job import Job
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact
from models.states import ArtifactKind, InstanceState, JobKind, JobState


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[ApiNode]:
    with api_node(tmp_path, database_url) as made:
        yield made


def _study_id(node: ApiNode, name: str) -> int:
    with node.database.read() as session:
        query = select(Study.id).where(Study.study_instance_uid == node.uids[name])
        return session.scalars(query).one()


def test_a_study_is_shown_with_all_that_became_of_it(node: ApiNode) -> None:
    uid, image = node.uids["mild"], node.image("mild")
    with node.database.write() as session:
        key = session.scalar(select(Instance.id).where(Instance.sop_instance_uid == image))
        assert key is not None
        session.execute(update(Analysis).values(spacing_row_mm=0.2, spacing_basis="calibrated"))
        session.execute(update(Analysis).values(zone_grade_left_lower=2, zone_score_left=2))
        session.add(
            Job(
                kind=JobKind.REPORT,
                study_id=_study_id(node, "mild"),
                revision=1,
                state=JobState.DEAD,
                error="OSError",
                attempts=3,
            )
        )
    add_job(node.database, key, JobState.DONE)
    said = {"verdict": "correct", "percent": 12.5, "comment": "<script>"}
    node.post(f"studies/{uid}/feedback", said, status=201)
    node.post(f"worklist/{uid}/claim")

    found = node.get(f"studies/{uid}")
    assert (found["study"]["patient_id"], found["study"]["opacity_percent"]) == ("P1", 10.0)
    assert found["reading"]["claimed_by"] == "admin"
    (feedback,) = found["feedback"]
    assert feedback["sop_instance_uid"] == image
    assert (feedback["account"], feedback["comment"]) == ("admin", "<script>")
    (shown,) = found["images"]
    assert (shown["state"], shown["is_of_patient"], shown["modality"]) == ("analysed", True, "CR")
    (analysis,) = shown["analyses"]
    assert (analysis["counts"], analysis["configuration_hash"]) == (True, "c" * 64)
    assert analysis["model"] == {"name": "unet", "version": "1", "sha256": "f" * 64}
    assert analysis["left"]["opacity_percent"] == analysis["total"]["opacity_percent"] == 10.0
    assert (analysis["spacing_row_mm"], analysis["spacing_basis"]) == (0.2, "calibrated")
    assert (analysis["zones"]["left_lower"]["grade"], analysis["zone_score"]["left"]) == (2, 2)
    kinds = {each["kind"]: each for each in shown["artifacts"]}
    assert set(kinds) == {"seg", "display", "overlay", "layer"}
    assert len(kinds["display"]["sha256"]) == 64
    sent = kinds["seg"]["deliveries"]
    assert [(each["destination"], each["state"], each["error"]) for each in sent] == [
        *(("PACS", "due", "why"), ("ARCHIVE", "dead", "why"))
    ]
    assert [(job["kind"], job["state"]) for job in shown["jobs"]] == [("analyse", "done")]
    (revision,) = found["revisions"]
    assert (revision["revision"], revision["sop_instance_uids"]) == (1, [image])
    assert [job["error"] for job in revision["jobs"]] == ["OSError"]
    assert [each["kind"] for each in revision["artifacts"]] == ["sr"]
    assert outcomes(node.database, AuditAction.PATIENT_DATA_READ) == ["study"]


def test_revisions_replaced_analyses_and_what_was_withdrawn(node: ApiNode) -> None:
    report_again(node, "severe", 90.0)
    uid = node.uids["severe"]
    with node.database.write() as session:
        first = session.scalars(select(Analysis).order_by(Analysis.id)).all()[2]
        first.is_replaced = True
        segmentation = session.scalar(
            select(Artifact).where(
                Artifact.analysis_id == first.id, Artifact.kind == ArtifactKind.SEG
            )
        )
        assert segmentation is not None
        row = WithdrawnArtifact(artifact_id=segmentation.id, reason="updated")
        row.study_id = _study_id(node, "severe")
        session.add(row)
    found = node.get(f"studies/{uid}")
    assert [each["revision"] for each in found["revisions"]] == [2, 1]
    assert [len(each["sop_instance_uids"]) for each in found["revisions"]] == [2, 1]
    before, after = found["images"]
    assert [each["counts"] for each in before["analyses"]] == [False]
    assert [each["counts"] for each in after["analyses"]] == [True]
    assert {each["withdrawn"] for each in before["artifacts"]} == {None, "updated"}


def test_an_image_of_another_patient_says_so(node: ApiNode) -> None:
    uid = node.uids["mild"]
    key = add_instance(node.database, study_instance_uid=uid, state=InstanceState.QUARANTINED)
    with node.database.write() as session:
        session.get_one(Instance, key).patient_id = "P2"
    own, foreign = node.get(f"studies/{uid}")["images"]
    assert (own["is_of_patient"], foreign["is_of_patient"]) == (True, False)
    assert foreign["patient_id"] == "P2"
    with node.database.read() as session:
        read = AuditEvent.action == AuditAction.PATIENT_DATA_READ
        query = select(AuditEvent.study_instance_uid, AuditEvent.patient_id).where(read)
        told = [tuple(row) for row in session.execute(query.order_by(AuditEvent.id))]
    assert told == [(uid, "P1"), (uid, "P2")]


def test_of_a_huge_study_the_newest_images_are_shown(
    node: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_detail, "MAX_IMAGES", 2)
    uid = node.uids["mild"]
    newest = [
        add_instance(node.database, study_instance_uid=uid, state=InstanceState.QUEUED)
        for _ in range(3)
    ][1:]
    found = node.get(f"studies/{uid}")
    assert [each["id"] for each in found["images"]] == newest
    assert found["images_left_out"] == 2
    assert len(node.get("results", study_instance_uid=uid)["items"]) == 4


def test_a_study_is_read_under_the_odd_uid_that_intake_took(node: ApiNode) -> None:
    for uid in ("1.2..3", "1.2.3.", ".01.2"):
        add_instance(node.database, study_instance_uid=uid, sop_instance_uid=f"{uid}.9.")
        assert node.get(f"studies/{uid}")["images"][0]["sop_instance_uid"] == f"{uid}.9."
        (row,) = node.get("results", study_instance_uid=uid, sop_instance_uid=f"{uid}.9.")["items"]
        assert row["study_instance_uid"] == uid
        answer = node.client.get(f"instances/{uid}.9./image.png")
        assert answer.json()["detail"] == "the image is received"
    for wrong in ("1.2.a", "1.2 ", "1" * 65):
        assert node.client.get(f"studies/{wrong}").status_code == 422


def test_a_study_that_is_not_here_is_a_problem(node: ApiNode) -> None:
    for path in ("studies/1.2.3", "studies/1.2.3/priors", "studies/1.2.3/feedback"):
        answer = node.client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
    assert outcomes(node.database, AuditAction.PATIENT_DATA_READ) == []
