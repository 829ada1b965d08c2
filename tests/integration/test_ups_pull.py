"""UPS Pull: workitems are found, claimed, described and completed by a real SCU."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from builders import chest_dataset, write_part10
from pydicom.dataset import Dataset
from pynetdicom import AE
from readings import add_figure, study_row
from rows import instances, outcomes
from sqlalchemy import update
from steps import UPS, Workstation, add_workitem, workitem_uid, workitems

from dicom_node.errors import ReadingError
from dicom_node.worklist.readings import Reader, claim, read, release, unread
from dicom_node.worklist.ups.names import PULL, PUSH, QUERY, WATCH
from models.audit import AuditAction
from models.imaging import Instance
from models.states import ReadingState, WorkitemState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
CLAIMED, READ, UNREAD = ReadingState.CLAIMED, ReadingState.READ, ReadingState.UNREAD

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def node(listen: Listen) -> Any:
    return listen(sections={"worklist": {"ups": UPS}})


def test_a_workstation_reads_a_study_from_query_to_completion(node: Any) -> None:
    uid = add_workitem(node.database, 62.5, accession_number="A7")
    mild = add_workitem(node.database, 3.0)
    ws = Workstation(node.port)
    statuses, matches = ws.find(
        ProcedureStepState="SCHEDULED",
        SOPInstanceUID="",
        SOPClassUID="",
        ScheduledProcedureStepPriority="",
        ProcedureStepLabel="",
        WorklistLabel="",
        PatientID="",
    )
    assert statuses == [0xFF00, 0xFF00, 0x0000]
    first, second = matches  # the most urgent first
    assert (first.ScheduledProcedureStepPriority, first.PatientID) == ("HIGH", "P1")
    assert second.ScheduledProcedureStepPriority == "MEDIUM"
    assert first.SOPInstanceUID.startswith("1.2.99.")
    assert first.SOPClassUID == PUSH
    assert first.ProcedureStepLabel == "Chest radiograph, opacity 62.5 %, severe"
    step = first.SOPInstanceUID
    assert step == workitem_uid(node.database, uid) != workitem_uid(node.database, mild)
    assert ws.change(step, "IN PROGRESS") == 0x0000
    assert study_row(node.database, uid).reading_state is CLAIMED
    status, ds = ws.get(step)
    assert status == 0x0000
    assert ds is not None
    assert (ds.ProcedureStepState, ds.InputReadinessState) == ("IN PROGRESS", "READY")
    assert ds.ScheduledWorkitemCodeSequence[0].CodeValue == "110005"
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "A7"
    assert ds.ReferencedRequestSequence[0].StudyInstanceUID == uid
    assert "TransactionUID" not in ds
    progress = Dataset()
    progress.ProcedureStepProgress = "50"
    assert ws.set(step, ProcedureStepProgressInformationSequence=[progress]) == 0x0000
    assert ws.change(step, "COMPLETED") == 0x0000
    assert study_row(node.database, uid).reading_state is READ
    _, ds = ws.get(step)
    assert ds is not None
    assert ds.ProcedureStepState == "COMPLETED"
    assert ds.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 50
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    assert performed.PerformedStationNameCodeSequence[0].CodeValue == "WS1"
    assert performed.PerformedWorkitemCodeSequence[0].CodeValue == "110005"
    assert performed.PerformedProcedureStepStartDateTime
    assert performed.PerformedProcedureStepEndDateTime
    assert list(performed.OutputInformationSequence) == []
    assert ws.find(ProcedureStepState="SCHEDULED", SOPInstanceUID="")[0] == [0xFF00, 0x0000]
    assert outcomes(node.database, AuditAction.STUDY_READ) == ["read"]
    assert outcomes(node.database, AuditAction.QUERY) == ["success", "success"]


@on_one_database
def test_every_refusal_has_the_status_of_the_standard(node: Any) -> None:
    """Table CC.1.1-2, row by row."""
    ws, other = Workstation(node.port), Workstation(node.port, "WS2")
    states = ("IN PROGRESS", "COMPLETED", "CANCELED", "SCHEDULED")

    def answers(step: str, who: Workstation, **values: object) -> list[str]:
        return [f"{who.change(step, state, **values):04X}" for state in states]

    step = workitem_uid(node.database, add_workitem(node.database))
    assert answers("1.2.3", ws) == ["C307"] * 4
    assert answers(step, ws, TransactionUID=None) == ["C301", "C301", "C301", "C303"]
    assert answers(step, ws, TransactionUID="a lock")[:3] == ["C301"] * 3
    assert answers(step, ws) == ["0000", "0000", "C300", "C303"]
    done = workitem_uid(node.database, add_workitem(node.database))
    assert [f"{ws.change(done, state):04X}" for state in states[1:]] == ["C310", "C310", "C303"]
    assert ws.change(done, "IN PROGRESS") == 0x0000
    assert answers(done, other) == ["C301", "C301", "C301", "C303"]
    assert ws.change(done, "IN PROGRESS") == 0xC302
    assert ws.change(done, "DONE") == 0x0106
    assert ws.change(done, "COMPLETED") == 0x0000
    assert answers(done, ws) == ["C300", "B306", "C300", "C303"]
    assert answers(done, other)[:3] == ["C301"] * 3
    gone = workitem_uid(node.database, add_workitem(node.database))
    assert (ws.change(gone, "IN PROGRESS"), ws.change(gone, "CANCELED")) == (0x0000, 0x0000)
    assert answers(gone, ws) == ["C300", "C300", "B304", "C303"]


def test_of_two_workstations_one_has_the_study(node: Any) -> None:
    step = workitem_uid(node.database, add_workitem(node.database))
    stations = [Workstation(node.port, title) for title in ("WS1", "WS2", "RIS", "WS1")]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda ws: ws.change(step, "IN PROGRESS"), stations))
    assert sorted(answers) == [0x0000, 0xC301, 0xC301, 0xC301]
    assert outcomes(node.database, AuditAction.STUDY_CLAIMED) == ["claimed"]
    (winner,) = (ws for ws, answer in zip(stations, answers, strict=True) if answer == 0)
    assert winner.change(step, "COMPLETED") == 0x0000


def test_the_web_and_a_workstation_share_one_state(node: Any) -> None:
    database, ws, anna = node.database, Workstation(node.port), Reader("anna")
    uid = add_workitem(database)
    step = workitem_uid(database, uid)
    assert ws.change(step, "IN PROGRESS") == 0x0000
    with pytest.raises(ReadingError, match="AE:WS1 has claimed"), database.write() as session:
        claim(session, uid, anna)
    with database.write() as session:
        release(session, uid, Reader("chief", is_operator=True))
    assert ws.change(step, "COMPLETED") == 0xC300  # the chief gave it back: canceled for good
    first, second = workitems(database, uid)
    assert (first.state, second.state) == (WorkitemState.CANCELED, WorkitemState.SCHEDULED)
    with database.write() as session:
        claim(session, uid, anna)
    assert ws.change(second.workitem_uid, "IN PROGRESS") == 0xC301
    with database.write() as session:
        read(session, uid, anna)
    _, ds = ws.get(second.workitem_uid)
    assert ds is not None
    assert ds.ProcedureStepState == "COMPLETED"
    (performed,) = ds.UnifiedProcedureStepPerformedProcedureSequence
    assert performed.ActualHumanPerformersSequence[0].HumanPerformerName == "anna"
    with database.write() as session:
        unread(session, uid, anna)
    third = workitems(database, uid)[-1]
    assert (third.state, third.number) == (WorkitemState.SCHEDULED, 2)
    assert len({each.workitem_uid for each in workitems(database, uid)}) == 3


def test_a_new_figure_ends_the_claim_and_makes_another_workitem(
    node: Any,
) -> None:
    ws, uid = Workstation(node.port), add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    assert ws.change(step, "IN PROGRESS") == 0x0000
    add_figure(node.database, uid, 80.0, revision=2)
    assert ws.change(step, "COMPLETED") == 0xC300
    assert study_row(node.database, uid).reading_state is UNREAD
    _, (match,) = ws.find(ProcedureStepState="SCHEDULED", SOPInstanceUID="")
    assert match.SOPInstanceUID != step
    _, ds = ws.get(step)
    assert ds is not None
    (progress,) = ds.ProcedureStepProgressInformationSequence
    assert "newer report" in progress.ReasonForCancellation
    assert progress.ProcedureStepDiscontinuationReasonCodeSequence[0].CodeValue == "110513"


@on_one_database
def test_only_what_it_has_is_set_and_only_by_its_performer(
    node: Any,
) -> None:
    ws = Workstation(node.port)
    step = workitem_uid(node.database, add_workitem(node.database))
    item = Dataset()
    item.ProcedureStepProgressDescription = "Lungs done"
    progress = {"ProcedureStepProgressInformationSequence": [item]}
    assert ws.set("1.2.3", **progress) == 0xC307
    assert ws.set(step, **progress) == 0xC310
    assert ws.change(step, "IN PROGRESS") == 0x0000
    assert ws.set(step, TransactionUID=None, **progress) == 0xC301
    assert Workstation(node.port).set(step, **progress) == 0xC301  # another Locking UID
    assert ws.set(step, WorklistLabel="mine", **progress) == 0x0001
    _, ds = ws.get(step)
    assert ds is not None
    assert ds.WorklistLabel == "Chest radiographs"
    (kept,) = ds.ProcedureStepProgressInformationSequence
    assert kept.ProcedureStepProgressDescription == "Lungs done"
    performed = Dataset()
    performed.PerformedProcedureStepDescription = "x" * 60
    too_long = {"UnifiedProcedureStepPerformedProcedureSequence": [performed] * 4000}
    assert ws.set(step, **too_long) == 0x0106
    assert ws.change(step, "CANCELED") == 0x0000
    assert ws.set(step, **progress) == 0xC300


@on_one_database
def test_a_claim_that_is_given_up_leaves_the_study_to_others(
    node: Any,
) -> None:
    ws, uid = Workstation(node.port), add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    assert ws.change(step, "IN PROGRESS") == 0x0000
    assert ws.change(step, "CANCELED") == 0x0000
    assert study_row(node.database, uid).reading_state is UNREAD
    assert outcomes(node.database, AuditAction.STUDY_RELEASED) == ["given_back"]
    new = workitem_uid(node.database, uid)
    assert new != step
    assert ws.change(new, "IN PROGRESS") == 0x0000


@on_one_database
def test_what_is_asked_for_is_returned_and_nothing_else(
    node: Any,
) -> None:
    ws = Workstation(node.port)
    step = workitem_uid(node.database, add_workitem(node.database))
    state, lock = 0x00741000, 0x00081195
    status, ds = ws.get(step, state)
    assert (status, [element.keyword for element in ds or ()]) == (0, ["ProcedureStepState"])
    status, ds = ws.get(step, state, lock)
    assert (status, "TransactionUID" in (ds or ())) == (0x0001, False)
    assert ws.get(step, state, model=WATCH)[0] == 0x0000
    assert ws.get("1.2.3")[0] == 0xC307
    assert outcomes(node.database, AuditAction.PATIENT_DATA_READ) == ["workitem"] * 3


@on_one_database
def test_the_patient_and_the_inputs_come_from_the_files(
    listen: Listen,
) -> None:
    sections = {
        "worklist": {"ups": UPS},
        "query_retrieve": {"enabled": True, "calling_aets": ["WS1"]},
    }
    node = listen(sections=sections)
    uid = add_workitem(node.database)
    ds = chest_dataset(PatientName="Müller^Eva", PatientSex="F", SpecificCharacterSet="ISO_IR 100")
    last = instances(node.database)[-1]
    write_part10(node.settings.spool_dir / last.storage_key, ds)
    ws = Workstation(node.port)
    _, found = ws.get(workitem_uid(node.database, uid))
    assert found is not None
    assert (str(found.PatientName), found.PatientSex) == ("Müller^Eva", "F")
    assert found.SpecificCharacterSet == "ISO_IR 192"
    references = [
        each.ReferencedSOPInstanceUID
        for series in found.InputInformationSequence
        for each in series.ReferencedSOPSequence
    ]
    assert last.sop_instance_uid in references
    series = found.InputInformationSequence[0]
    assert (series.StudyInstanceUID, series.TypeOfInstances) == (uid, "DICOM")
    assert series.DICOMRetrievalSequence[0].RetrieveAETitle == "NODE"
    for name, number in (("Müller*", 1), ("muller^eva", 0), ("MÜLLER^EVA", 1)):
        keys = {"PatientName": name, "SpecificCharacterSet": "ISO_IR 192", "SOPInstanceUID": ""}
        assert len(ws.find(**keys)[1]) == number
    with node.database.write() as session:
        session.execute(update(Instance).values(correction={"PatientName": "Meier^Eva"}))
    assert str(ws.find(PatientName="")[1][0].PatientName) == "Meier^Eva"


def _request(**values: str) -> list[Dataset]:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return [item]


def test_keys_are_matched_as_the_standard_says(node: Any) -> None:
    made = {
        "severe": add_workitem(node.database, 80.0, patient_id="P-80", accession_number="A1"),
        "mild": add_workitem(node.database, 3.0, patient_id="P-3", accession_number="B2"),
        "none": add_workitem(node.database, 0.0, patient_id="Q"),
    }
    names = {workitem_uid(node.database, uid): name for name, uid in made.items()}
    ws = Workstation(node.port)
    assert ws.change(workitem_uid(node.database, made["mild"]), "IN PROGRESS") == 0x0000
    uids = "\\".join(list(names)[:2])
    for keys, expected in (
        ({}, ["severe", "mild", "none"]),
        ({"ProcedureStepState": "SCHEDULED"}, ["severe", "none"]),
        ({"ProcedureStepState": "IN PROGRESS"}, ["mild"]),
        ({"ProcedureStepState": "SUSPENDED"}, []),
        ({"ScheduledProcedureStepPriority": "HIGH"}, ["severe"]),
        ({"ScheduledProcedureStepPriority": "LOW"}, ["none"]),
        ({"PatientID": "P-*"}, ["severe", "mild"]),
        ({"PatientID": "P-3"}, ["mild"]),
        ({"ReferencedRequestSequence": _request(AccessionNumber="B2")}, ["mild"]),
        ({"ReferencedRequestSequence": _request(AccessionNumber="?1")}, ["severe"]),
        ({"ReferencedRequestSequence": _request(AccessionNumber="")}, ["severe", "mild", "none"]),
        ({"ReferencedRequestSequence": _request(StudyInstanceUID=made["none"])}, ["none"]),
        ({"ScheduledWorkitemCodeSequence": _request(CodeValue="110005")}, list(made)),
        ({"ScheduledWorkitemCodeSequence": _request(CodeValue="110001")}, []),
        ({"WorklistLabel": "Chest*"}, list(made)),
        ({"WorklistLabel": "Knees"}, []),
        ({"ScheduledProcedureStepStartDateTime": "20200101-"}, list(made)),
        ({"ScheduledProcedureStepStartDateTime": "20200101-20200102"}, []),
        ({"ScheduledProcedureStepStartDateTime": "-20200102+0000"}, []),
    ):
        statuses, matches = ws.find(QUERY, **({"SOPInstanceUID": ""} | keys))
        assert [names[each.SOPInstanceUID] for each in matches] == expected, keys
        assert statuses[-1] == 0x0000
    assert len(ws.find(WATCH, SOPInstanceUID=uids.split("\\"))[1]) == 2


@on_one_database
def test_a_query_that_cannot_be_answered_is_refused(node: Any) -> None:
    ws = Workstation(node.port)
    add_workitem(node.database)
    two = [*_request(AccessionNumber="A"), *_request(AccessionNumber="B")]
    for keys in (
        {"ReferencedRequestSequence": two},
        {"ScheduledProcedureStepStartDateTime": "yesterday"},
        {"ScheduledProcedureStepStartDateTime": "20260101+0100"},
        {"ScheduledProcedureStepStartDateTime": "2026-", "TimezoneOffsetFromUTC": "+0100"},
    ):
        assert ws.find(**keys)[0] == [0xA900], keys
    statuses, matches = ws.find(SOPInstanceUID="", PatientComments="")
    assert statuses == [0xFF01, 0x0000]
    assert "PatientComments" in matches[0]
    assert Workstation(node.port, "STRANGER").find(SOPInstanceUID="")[0] == [0x0124]


def test_more_matches_than_allowed_are_said_to_be_too_many(listen: Listen) -> None:
    node = listen(sections={"worklist": {"ups": UPS | {"max_results": 1}}})
    for percent in (1.0, 2.0):
        add_workitem(node.database, percent)
    assert Workstation(node.port).find(SOPInstanceUID="")[0] == [0xFF00, 0xA700]


@on_one_database
def test_each_sop_class_has_its_own_operations(node: Any) -> None:
    ws = Workstation(node.port)
    step = workitem_uid(node.database, add_workitem(node.database))
    wanted = {"ProcedureStepState": "IN PROGRESS", "TransactionUID": ws.lock}
    assert ws.act(1, step, WATCH, **wanted) == 0x0123
    assert ws.act(3, step, PULL, ReceivingAE="RIS", DeletionLock="FALSE") == 0x0123
    assert ws.act(9, step, WATCH) == 0x0123
    assert ws.get(step, model=QUERY)[0] == 0x0211
    assert ws.set(step, WATCH) == 0x0211
    stranger = Workstation(node.port, "STRANGER")
    assert stranger.change(step, "IN PROGRESS") == 0x0124
    assert stranger.get(step)[0] == 0x0124


@on_one_database
def test_the_service_is_off_unless_a_setting_asks_for_it(listen: Listen) -> None:
    ae = AE(ae_title="WS1")
    for sop_class in (PULL, WATCH, QUERY):
        ae.add_requested_context(sop_class)
    assoc = ae.associate("127.0.0.1", listen().port, ae_title="NODE")
    assert not assoc.is_established
    assert len(assoc.rejected_contexts) == 3
