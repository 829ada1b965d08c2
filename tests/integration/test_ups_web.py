"""UPS-RS: workitems are found, claimed, described and completed over HTTP, events over WebSocket.

The state is that of the web and of DIMSE (test_ups_pull.py, test_ups_watch.py).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from readings import study_row
from rows import outcomes
from sqlalchemy import select
from steps import add_workitem, workitem_uid, workitems
from ups_web import JSON, Node, Station, progress, ups_node

from dicom_node.errors import AlreadyInProgressError
from dicom_node.worklist.readings import Reader
from dicom_node.worklist.ups import acts
from dicom_node.worklist.ups.names import GLOBAL_SUBSCRIPTION
from models.audit import AuditAction, AuditEvent
from models.states import ReadingState, WorkitemState
from models.workitem import WorkitemMessage

ALL = str(GLOBAL_SUBSCRIPTION)
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[Node]:
    with ups_node(tmp_path, database_url) as made:
        yield made


def test_a_program_reads_a_study_from_search_to_completion(node: Node) -> None:
    uid = add_workitem(node.database, 62.5, accession_number="A7")
    mild = add_workitem(node.database, 3.0)
    station = node.station("anna")
    first, second = station.found(ProcedureStepState="SCHEDULED")  # the most urgent first
    assert (first.ScheduledProcedureStepPriority, first.PatientID) == ("HIGH", "P1")
    assert second.ScheduledProcedureStepPriority == "MEDIUM"
    step = str(first.SOPInstanceUID)
    assert step == workitem_uid(node.database, uid) != workitem_uid(node.database, mild)
    claimed = station.change(step, "IN PROGRESS")
    assert claimed.status_code == 200
    assert claimed.headers["content-location"] == f"{node.url}/ups-rs/workitems/{step}"
    assert study_row(node.database, uid).reading_state is ReadingState.CLAIMED
    assert station.update(step, progress("50")).status_code == 200
    ds = station.get(step)
    assert (ds.ProcedureStepState, ds.InputReadinessState) == ("IN PROGRESS", "READY")
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "A7"
    assert ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 50
    assert "TransactionUID" not in ds
    assert station.change(step, "COMPLETED").status_code == 200
    assert study_row(node.database, uid).reading_state is ReadingState.READ
    (performed,) = station.get(step).UnifiedProcedureStepPerformedProcedureSequence
    assert performed.ActualHumanPerformersSequence[0].HumanPerformerName == "anna"
    assert len(station.found(ProcedureStepState="SCHEDULED")) == 1
    assert outcomes(node.database, AuditAction.STUDY_READ) == ["read"]
    assert outcomes(node.database, AuditAction.QUERY) == ["success", "success"]
    with node.database.read() as session:
        read = select(AuditEvent).where(AuditEvent.action == AuditAction.PATIENT_DATA_READ)
        event = session.scalars(read.limit(1)).one()
        assert (event.actor, event.outcome, event.study_instance_uid) == ("anna", "workitem", uid)


@on_one_database
def test_searches(node: Node) -> None:
    for number, percent in enumerate((80.0, 30.0, 2.0)):
        add_workitem(node.database, percent, accession_number=f"A{number}", patient_id=f"P{number}")
    station = node.station()

    def ids(**keys: Any) -> list[str]:
        return [str(ds.PatientID) for ds in station.found(**keys)]

    assert ids() == ["P0", "P1", "P2"]
    assert ids(PatientID="P1") == ["P1"]
    assert ids(**{"00100020": "P?"}) == ["P0", "P1", "P2"]
    assert ids(ScheduledProcedureStepPriority="HIGH") == ["P0", "P1"]
    assert ids(**{"ReferencedRequestSequence.AccessionNumber": "A2"}) == ["P2"]
    assert ids(**{"0040A370.00080050": "A2"}) == ["P2"]
    assert ids(**{"ScheduledWorkitemCodeSequence.CodeValue": "110005"}) == ["P0", "P1", "P2"]
    uids = [str(ds.SOPInstanceUID) for ds in station.found()]
    assert ids(SOPInstanceUID=",".join(uids[:2])) == ["P0", "P1"]
    assert ids(PatientID="'; DROP TABLE study") == []
    assert (ids(limit=1), ids(limit=1, offset=1), ids(offset=9)) == (["P0"], ["P1"], [])
    page = station.ask("GET", "/workitems", limit=2, fuzzymatching="true", PatientName="*")
    assert "additional results" in page.headers["warning"]
    assert "fuzzymatching" in page.headers["warning"]
    other = station.ask("GET", "/workitems", Rows="7", **{"PatientID.CodeValue": "1"})
    assert other.headers["warning"].endswith('Rows and 1 more"')
    assert len(other.json()) == 3
    assert station.ask("GET", "/workitems", requester="WS1", includefield="all").status_code == 200
    wrong: tuple[dict[str, Any], ...] = (
        {"limit": "-1"},
        {"PatientID": ["P1", "P2"]},
        {"ScheduledProcedureStepStartDateTime": "yesterday"},
        {"PatientID": "x" * 300},
        {"ProcedureStepProgressInformationSequence.ProcedureStepProgress": "abc"},
    )
    assert [station.ask("GET", "/workitems", **each).status_code for each in wrong] == [400] * 5
    assert station.ask("GET", "/workitems", limit=0).status_code == 204
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.QUERY)
        counted = [each.details["matches"] for each in session.scalars(query)]
        assert max(counted) == 3
        assert counted[-1] == 0
    picture = httpx.get(
        f"{node.url}/ups-rs/workitems", headers=station.headers | {"Accept": "image/png"}
    )
    assert picture.status_code == 406


@on_one_database
def test_every_refusal_has_the_status_of_the_standard(node: Node) -> None:
    """Tables 11.6.3-1, 11.7.3-1 and 11.8.3-1."""
    station, other = node.station("anna"), node.station("bert")
    states = ("IN PROGRESS", "COMPLETED", "CANCELED", "SCHEDULED")

    def answers(step: str, who: Station, lock: str | None = "") -> list[int]:
        return [who.change(step, state, lock).status_code for state in states]

    assert answers("1.2.3", station) == [404] * 4
    assert station.ask("GET", "/workitems/1.2.3").status_code == 404
    assert station.update("1.2.3", progress("1")).status_code == 404
    step = workitem_uid(node.database, add_workitem(node.database))
    assert answers(step, station, None) == [400] * 4
    assert [station.change(step, each).status_code for each in states[1:3]] == [409, 409]
    assert station.change(step, "DONE").status_code == 400
    assert station.update(step, progress("1")).status_code == 409  # claim it first
    assert station.change(step, "IN PROGRESS").status_code == 200
    assert station.change(step, "IN PROGRESS").status_code == 409
    assert answers(step, other) == [400] * 4
    assert station.update(step, progress("1"), None).status_code == 400
    assert station.update(step, progress("1"), "1.2.3").status_code == 400
    label = progress("2")
    label.WorklistLabel = "mine"
    partly = station.update(step, label)
    assert (partly.status_code, "optional" in partly.headers["warning"]) == (200, True)
    assert answers(step, other, station.lock) == [409, 409, 409, 400]  # an account is itself alone
    assert station.change(step, "COMPLETED").status_code == 200
    again = station.change(step, "COMPLETED")
    assert again.status_code == 200
    assert "already in the requested state of COMPLETED" in again.headers["warning"]
    assert station.change(step, "CANCELED").status_code == 409
    assert station.update(step, progress("1")).status_code == 400
    assert station.ask("POST", f"/workitems/{step}/cancelrequest").status_code == 409
    assert station.ask("POST", "/workitems", progress("1")).status_code == 405  # the node's alone


@on_one_database
def test_bodies_that_are_none(node: Node) -> None:
    station = node.station()
    step = workitem_uid(node.database, add_workitem(node.database))
    address = f"{node.url}/ups-rs/workitems/{step}/state"

    def put(body: bytes, kind: str = JSON) -> int:
        headers = station.headers | {"Content-Type": kind}
        return httpx.put(address, content=body, headers=headers, timeout=20).status_code

    assert put(b"<NativeDicomModel/>", "application/dicom+xml") == 415
    broken = (b"{", b"[]", b"[{}, {}]", b"7", b'{"00741000": 7}', b'{"PatientID": {"vr": "LO"}}')
    assert [put(each) for each in broken] == [400] * len(broken)
    assert put(b"[" * 5000 + b"]" * 5000) == 400
    assert put(b'{"00741000": {"vr": "CS", "Value": ["' + b"X" * 300_000 + b'"]}}') == 400
    assert put(b"x" * 2_000_000) == 413
    assert workitems(node.database, study_of(node, step))[0].state is WorkitemState.SCHEDULED


def study_of(node: Node, step: str) -> str:
    station = node.station()
    return str(station.get(step).ReferencedRequestSequence[0].StudyInstanceUID)


@on_one_database
def test_a_cancel_request_ends_what_nobody_has_begun(node: Node) -> None:
    station = node.station("doctor-with-a-long-name")
    uid = add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    why = Dataset()
    why.ReasonForCancellation = "wrong patient"
    assert station.ask("POST", f"/workitems/{step}/cancelrequest", why).status_code == 202
    (workitem,) = workitems(node.database, uid)
    assert (workitem.state, workitem.reason) == (WorkitemState.CANCELED, "wrong patient")
    assert workitem.canceled_by == "doctor-with-a-lo"
    again = station.ask("POST", f"/workitems/{step}/cancelrequest")
    assert (again.status_code, "CANCELED" in again.headers["warning"]) == (202, True)
    assert study_row(node.database, uid).reading_state is ReadingState.UNREAD
    taken = workitem_uid(node.database, add_workitem(node.database))
    assert station.change(taken, "IN PROGRESS").status_code == 200
    assert station.ask("POST", f"/workitems/{taken}/cancelrequest").status_code == 409
    assert outcomes(node.database, AuditAction.WORKITEM_CANCEL_REQUESTED) == ["canceled"]


@on_one_database
def test_values_that_dicom_cannot_have_are_kept_nowhere(node: Node) -> None:
    """Stored, they would break every search, and hold up what a receiver by DIMSE is told."""
    station = node.station()
    step = workitem_uid(node.database, add_workitem(node.database))
    claimed = workitem_uid(node.database, add_workitem(node.database))
    assert station.change(claimed, "IN PROGRESS").status_code == 200
    made = station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER1")
    assert made.status_code == 201

    def send(path: str, body: str) -> int:
        headers = station.headers | {"Content-Type": JSON}
        address = f"{node.url}/ups-rs/workitems/{path}?transaction-uid={station.lock}"
        return httpx.post(address, content=body, headers=headers, timeout=20).status_code

    for value in ('"LO", "Value": ["x"]', '"US", "Value": [7]'):
        for tag in ("00741002", "00741216"):
            assert send(claimed, f'{{"{tag}": {{"vr": {value}}}}}') == 400
    for item in ('"LO", "Value": [7]', '"US", "Value": [70000]', '"FD", "Value": [NaN]'):
        body = f'{{"00741002": {{"vr": "SQ", "Value": [{{"00741004": {{"vr": {item}}}}}]}}}}'
        assert send(claimed, body) == 400
    for why in ('"0074100C": {"vr": "LO", "Value": [7]}', '"00741007": {"vr": "LO"}'):
        assert send(f"{step}/cancelrequest", f"{{{why}}}") in {202, 400}
    assert len(station.found()) == 2
    with node.database.read() as session:
        for message in session.scalars(select(WorkitemMessage)):
            ds = Dataset.from_json(message.information or {})
            assert encode(ds, is_implicit_vr=False, is_little_endian=True) is not None


@on_one_database
def test_a_locking_uid_that_leaked_is_of_no_use(node: Node) -> None:
    anna, bert = node.station("anna"), node.station("bert")
    uid = add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    assert anna.change(step, "IN PROGRESS").status_code == 200
    assert bert.update(step, progress("50"), anna.lock).status_code == 409
    wanted = Dataset()
    wanted.ProcedureStepState, wanted.TransactionUID = "COMPLETED", anna.lock
    with pytest.raises(AlreadyInProgressError), node.database.write() as session:
        acts.change_state(session, step, Reader.of_ae("WS1"), wanted)
    assert study_row(node.database, uid).reading_state is ReadingState.CLAIMED
    assert anna.update(step, progress("50")).status_code == 200
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.WORKITEM_UPDATED)
        (event,) = session.scalars(query).all()
        assert (event.actor, event.outcome, event.study_instance_uid) == ("anna", "progress", uid)
