"""What an operator does about objects in quarantine, and about two identities of one person."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from builders import DX_FOR_PROCESSING, chest_dataset
from click.testing import CliRunner, Result
from flow import Flow, phantom, predecessor_of, running_flow
from rows import add_analysis, add_instance, count, instances, outcomes
from senders import store
from sqlalchemy import select, update

from dicom_node.cli import cli
from dicom_node.errors import OperatorError
from dicom_node.ledger import compute
from dicom_node.merge import PatientIdentity, merge
from dicom_node.quarantine import Operator, correct, reject, release
from models.audit import AuditAction, AuditEvent
from models.imaging import Instance, Study
from models.job import Job
from models.states import ArtifactKind, InstanceState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
MakeFlow = Callable[..., Flow]

OPERATOR = Operator("night-shift", "seen on the film")
P2 = {"PatientID": "P2", "IssuerOfPatientID": ""}

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def flow_of(redis_server: str) -> Iterator[MakeFlow]:
    """Give the loops behind a listener."""
    with ExitStack() as stack:
        yield lambda node: stack.enter_context(
            running_flow(node.database, node.settings, redis_server)
        )


def _run(node: Any, *words: str) -> Result:
    environment = {"DICOM_NODE_DATABASE_URL": node.database.url.render_as_string(False)}
    options = ["--data-dir", str(node.settings.data_dir)]
    return CliRunner(env=environment).invoke(cli, [*words, *options])


def _rows(node: Any, *words: str) -> list[dict[str, Any]]:
    answer = _run(node, *words, "--json")
    assert answer.exit_code == 0, answer.output
    return [json.loads(line) for line in answer.output.splitlines()]


def _balanced(node: Any) -> bool:
    return all(line.balanced for line in compute(node.database, node.settings))


def _events(node: Any, action: AuditAction) -> list[AuditEvent]:
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == action).order_by(AuditEvent.id)
        return list(session.scalars(query))


def test_what_is_set_aside_is_listed_and_shown_with_the_reason(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1")
    other = chest_dataset(PatientID="P1", pixels=first.pixel_array[::-1])
    for ds in (first, other, chest_dataset(PatientID=None, seed=2)):
        assert store(node.port, ds) == 0x0000
    conflict, nameless = _rows(node, "quarantine", "list")
    assert (conflict["reason"], nameless["reason"]) == ("uid_conflict", "no_patient_id")
    assert conflict["sop_instance_uid"] == str(first.SOPInstanceUID)
    [shown] = _rows(node, "quarantine", "show", str(conflict["id"]))
    assert shown["same_sop_instance_uid"] == [f"{conflict['id'] - 1} queued"]
    assert "uid_conflict" in _run(node, "quarantine", "list").output
    assert "same_sop_instance_uid" in _run(node, "quarantine", "show", "2").output
    assert _rows(node, "quarantine", "list", "--patient-id", "nobody") == []
    study = str(first.StudyInstanceUID)
    assert len(_rows(node, "quarantine", "list", "--study-uid", study)) == 1
    assert isinstance(_run(node, "quarantine", "show", "99").exception, OperatorError)


def test_a_released_object_is_queued_and_the_audit_says_by_whom_and_why(listen: Listen) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID=None)) == 0x0000
    answer = _run(node, "quarantine", "release", "1", "--reason", "John Doe, trauma")
    assert answer.exit_code == 0, answer.output
    [row] = instances(node.database)
    assert (row.state, row.reason, row.detail) == (InstanceState.QUEUED, None, None)
    assert count(node.database, Job) == 1
    [event] = _events(node, AuditAction.QUARANTINE_ENDED)
    assert event.outcome == "released"
    assert event.details["by"]
    assert event.details["reason"] == "no_patient_id"
    assert event.patient["why"] == "John Doe, trauma"
    assert "Doe" not in json.dumps(event.details)
    assert _balanced(node)
    for again in (release, correct):
        extra = (P2,) if again is correct else ()
        with pytest.raises(OperatorError, match="object 1 is not in quarantine but queued"):
            again(node.database, node.settings, 1, OPERATOR, *extra)


def test_a_released_raw_image_waits_as_every_raw_image_does(listen: Listen) -> None:
    node = listen()
    raw = chest_dataset(
        PatientID=None, SOPClassUID=DX_FOR_PROCESSING, PresentationIntentType="FOR PROCESSING"
    )
    assert store(node.port, raw) == 0x0000
    release(node.database, node.settings, 1, OPERATOR)
    assert [row.state for row in instances(node.database)] == [InstanceState.RECEIVED]
    assert count(node.database, Job) == 0


def test_a_taken_uid_is_refused_until_the_operator_says_replace(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1")
    other = chest_dataset(PatientID="P1", pixels=first.pixel_array[::-1])
    assert store(node.port, first) == store(node.port, other) == 0x0000
    with pytest.raises(OperatorError, match=r"object 1 \(queued\) already counts.*--replace"):
        release(node.database, node.settings, 2, OPERATOR)
    with pytest.raises(OperatorError, match="object 1 is queued and cannot be replaced now"):
        release(node.database, node.settings, 2, OPERATOR, replace=True)
    with node.database.write() as session:
        session.execute(update(Instance).where(Instance.id == 1).values(state="failed"))
        session.execute(update(Job).values(state="failed"))
    release(node.database, node.settings, 2, OPERATOR, replace=True)
    old, new = instances(node.database)
    assert (old.state, old.reason) == (InstanceState.SUPERSEDED, "updated")
    assert (new.state, new.supersedes_id) == (InstanceState.QUEUED, old.id)
    assert _balanced(node)


def test_a_second_patient_of_a_study_is_corrected_or_rejected_not_released(
    listen: Listen,
) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1")
    study = str(first.StudyInstanceUID)
    other = chest_dataset(PatientID="P2", StudyInstanceUID=study, SOPInstanceUID="1.2.9")
    assert store(node.port, first) == store(node.port, other) == 0x0000
    with pytest.raises(OperatorError, match="the study of object 2 has another patient"):
        release(node.database, node.settings, 2, OPERATOR)
    with pytest.raises(OperatorError, match="has another patient"):
        correct(node.database, node.settings, 2, OPERATOR, P2 | {"PatientID": "P3"})
    correct(node.database, node.settings, 2, OPERATOR, P2 | {"PatientID": "P1"})
    row = instances(node.database)[1]
    assert (row.state, row.patient_id, row.identity_revision) == (InstanceState.QUEUED, "P1", 1)
    [event] = _events(node, AuditAction.QUARANTINE_ENDED)
    assert event.patient["patient_id_before"] == "P2"
    assert _balanced(node)


def test_an_object_without_an_id_takes_no_place_of_one_that_has_one(listen: Listen) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    assert store(node.port, chest_dataset(PatientID=None)) == 0x0000
    with node.database.write() as session:
        session.execute(update(Instance).where(Instance.id == 1).values(state="failed"))
        session.execute(update(Job).values(state="failed"))
    with pytest.raises(OperatorError, match="has another patient"):
        release(node.database, node.settings, 2, OPERATOR, replace=True)
    correct(node.database, node.settings, 2, OPERATOR, P2, replace=True)
    old, new = instances(node.database)
    assert (old.state, new.state) == (InstanceState.SUPERSEDED, InstanceState.QUEUED)
    with node.database.read() as session:
        assert session.scalars(select(Study.patient_id)).all() == ["P2"]
    assert _balanced(node)


def test_a_rejected_object_is_listed_no_more_and_keeps_its_bytes(listen: Listen) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID=None)) == 0x0000
    answer = _run(node, "quarantine", "reject", "1", "--reason", "test picture")
    assert answer.exit_code == 0, answer.output
    [row] = instances(node.database)
    assert (row.state, row.reason) == (InstanceState.QUARANTINED, "rejected_by_operator")
    assert len(node.spooled) == 1
    assert _rows(node, "quarantine", "list") == []
    assert len(_rows(node, "quarantine", "list", "--with-rejected")) == 1
    assert outcomes(node.database, AuditAction.QUARANTINE_ENDED) == ["rejected"]
    assert _balanced(node)
    release(node.database, node.settings, 1, OPERATOR)  # a mistake can be undone
    with pytest.raises(OperatorError, match="not in quarantine but queued"):
        reject(node.database, 1, OPERATOR)


@pytest.mark.parametrize(
    "words",
    [
        ("--patient-id", "", "--reason", "x"),
        ("--patient-id", "A\\B", "--reason", "x"),
        ("--patient-id", "A" * 65, "--reason", "x"),
        ("--patient-id", "A", "--reason", "x", "--birth-date", "1970-01-01"),
        ("--patient-id", "A", "--reason", "x", "--sex", "female"),
        ("--patient-id", "A"),
    ],
)
@on_one_database
def test_what_cannot_stand_in_an_object_is_refused(listen: Listen, words: tuple[str, ...]) -> None:
    node = listen()
    answer = _run(node, "quarantine", "correct", "1", *words)
    assert answer.exit_code == 2
    assert "Usage" in answer.output


@on_one_database
def test_results_carry_the_identity_that_the_operator_gave(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    assert store(node.port, phantom(PatientID=None, IssuerOfPatientID="OLD")) == 0x0000
    before = node.spooled[0].read_bytes()
    words = ("--patient-id", "P9", "--issuer", "HOSPITAL", "--patient-name", "Doe^Jane")
    more = ("--birth-date", "19800229", "--sex", "F", "--reason", "found on the request")
    answer = _run(node, "quarantine", "correct", "1", *words, *more)
    assert answer.exit_code == 0, answer.output
    flow.run()
    for kind in (ArtifactKind.SEG, ArtifactKind.SR):
        [made] = flow.artifacts(kind)
        assert (made.PatientID, made.IssuerOfPatientID) == ("P9", "HOSPITAL")
        assert (made.PatientName, made.PatientBirthDate) == ("Doe^Jane", "19800229")
        assert made.PatientSex == "F"
    assert node.spooled[0].read_bytes() == before
    assert flow.unbalanced() == []
    [row] = _rows(node, "results")
    assert (row["patient_id"], row["status"]) == ("P9", "analysed")


@on_one_database
def test_a_merge_issues_the_results_again_under_the_identity_that_is_left(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    lateral = phantom(8, PatientID="P1", StudyInstanceUID="1.2.840.7", ViewPosition="LL")
    for ds in (phantom(PatientID="P1", StudyInstanceUID="1.2.840.7"), lateral):
        assert store(node.port, ds) == 0x0000
    flow.run()
    words = ("patient", "merge", "--from", "P1", "--into", "P2", "--reason", "one person")
    [found] = _rows(node, *words, "--dry-run")
    assert found == {
        "study_instance_uid": "1.2.840.7",
        "outcome": "found",
        "images_reissued": None,
    }
    assert [row.identity_revision for row in instances(node.database)] == [0, 0]
    [merged] = _rows(node, *words)
    assert (merged["outcome"], merged["images_reissued"]) == ("merged", 1)
    assert flow.unbalanced() == []
    flow.run()
    before, after = flow.artifacts(ArtifactKind.SR)
    masks_before, masks_after = flow.artifacts(ArtifactKind.SEG)
    assert (after.PatientID, masks_after.PatientID) == ("P2", "P2")
    assert predecessor_of(after) == before.SOPInstanceUID
    assert masks_after.SOPInstanceUID != masks_before.SOPInstanceUID
    assert masks_after.PixelData == masks_before.PixelData
    assert str(lateral.SOPInstanceUID) in str(after)  # the rest of the study came along
    assert flow.unbalanced() == []
    assert [row["patient_id"] for row in _rows(node, "results")] == ["P2", "P2"]
    assert _rows(node, *words) == []  # done is done
    flow.run()
    assert len(flow.artifacts(ArtifactKind.SR)) == 2
    assert outcomes(node.database, AuditAction.PATIENT_MERGED) == ["merged"]

    # And back: a third result, not the first one again.
    back = ("patient", "merge", "--from", "P2", "--into", "P1", "--reason", "two people after all")
    assert [row["outcome"] for row in _rows(node, *back)] == ["merged"]
    flow.run()
    assert [ds.PatientID for ds in flow.artifacts(ArtifactKind.SR)] == ["P1", "P2", "P1"]
    assert len({ds.SOPInstanceUID for ds in flow.artifacts(ArtifactKind.SEG)}) == 3
    assert flow.unbalanced() == []


def test_a_study_that_is_being_analysed_is_left_for_the_next_run(listen: Listen) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    words = ("patient", "merge", "--from", "P1", "--into", "P2", "--reason", "x")
    answer = _run(node, *words)
    assert answer.exit_code == 1
    assert "run it again" in answer.output
    assert [row.patient_id for row in instances(node.database)] == ["P1"]
    with node.database.write() as session:
        session.execute(update(Instance).values(state="analysed"))
        session.execute(update(Job).values(state="done"))
    add_analysis(node.database, 1)
    assert [row["outcome"] for row in _rows(node, *words)] == ["merged"]
    with node.database.read() as session:
        jobs = session.scalars(select(Job).order_by(Job.id)).all()
    assert [(job.instance_id, job.identity_revision) for job in jobs] == [(1, 0), (1, 1)]
    assert _balanced(node)


def test_one_id_of_two_issuers_may_be_two_people(listen: Listen) -> None:
    node = listen()
    for number, issuer in enumerate(["NORTH", "SOUTH"]):
        add_instance(
            node.database, study_instance_uid=f"1.2.{number}", state=InstanceState.NOT_ANALYSED
        )
        with node.database.write() as session:
            session.execute(
                update(Study)
                .where(Study.study_instance_uid == f"1.2.{number}")
                .values(issuer_of_patient_id=issuer)
            )
    arguments = (P2, OPERATOR)
    with pytest.raises(OperatorError, match="--from-issuer"):
        merge(node.database, node.settings, PatientIdentity("P1"), *arguments)
    with pytest.raises(OperatorError, match="the same"):
        merge(node.database, node.settings, PatientIdentity("P2"), *arguments)
    north = PatientIdentity("P1", "NORTH")
    [row] = merge(node.database, node.settings, north, *arguments)
    assert row == {"study_instance_uid": "1.2.0", "outcome": "merged", "images_reissued": 0}
    with node.database.read() as session:
        ids = session.scalars(select(Study.patient_id).order_by(Study.id)).all()
    assert ids == ["P2", "P1"]
