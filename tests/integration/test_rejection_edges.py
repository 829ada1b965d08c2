"""Rejection notes where quarantine, corrected identities or broken jobs cross their way."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from rejection_bench import STUDY, Bench, image
from rejection_notes import QUALITY, RETENTION, SAFETY, WORKLIST, rejection_note
from sqlalchemy import delete

from dicom_node.errors import OperatorError
from dicom_node.merge import PatientIdentity, merge
from dicom_node.quarantine import Operator, correct, release
from dicom_node.queue import JobQueue
from dicom_node.retrying import retry
from models.audit import AuditAction
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import Job
from models.rejection import KeyObject, WithdrawnArtifact
from models.settings import load_settings
from models.states import (
    ArtifactKind,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)
from worker import tasks
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
OPERATOR = Operator("somebody", "a reason")
P1 = {"PatientID": "P1", "IssuerOfPatientID": ""}
P2 = {"PatientID": "P2", "IssuerOfPatientID": ""}
OTHER_STUDY = "1.2.840.78"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def it(
    listen: Listen, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A node whose PACS is away: a test says what it has."""
    to = [{"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": 9}]
    monkeypatch.setenv("DICOM_NODE_DESTINATIONS", json.dumps(to))
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    with ExitStack() as stack:
        running = listen()
        queue = JobQueue(redis_server)
        stack.callback(queue.close)
        yield Bench(running.port, running.database, running.settings, queue, sandbox)


def _settle(it: Bench) -> None:
    """Let dispatcher and workers work until all is planned."""
    for _ in range(6):
        it.dispatch()
        if not it.all(Job, Job.state == JobState.PENDING):
            return
        it.compare()
        it.analyse()
        it.report()


def _all_sent(it: Bench) -> None:
    with it.database.write() as session:
        for row in it.all(Delivery, Delivery.state == DeliveryState.DUE):
            delivery = session.merge(row)
            delivery.state, delivery.attempts = DeliveryState.SENT, 1


def _named(note: Dataset) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in note.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def _of_patient(it: Bench, patient_id: str) -> set[str]:
    """Return the UIDs of the SEGs and reports of a patient."""
    made = [*it.artifacts(ArtifactKind.SEG), *it.artifacts(ArtifactKind.SR)]
    return {str(ds.SOPInstanceUID) for ds in made if ds.PatientID == patient_id}


def _study(it: Bench, uid: str) -> Study:
    (study,) = it.all(Study, Study.study_instance_uid == uid)
    return study


@pytest.mark.parametrize("is_corrected", [True, False])
def test_a_note_that_leaves_quarantine_is_obeyed(it: Bench, *, is_corrected: bool) -> None:
    bad = image()
    it.send(bad)
    _settle(it)
    note = rejection_note([bad], SAFETY, PatientID=None)
    it.send(note)
    row = it.instance(note)
    assert (row.state, row.reason) == (InstanceState.QUARANTINED, "no_patient_id")
    assert it.all(KeyObject) == []
    if is_corrected:
        correct(it.database, it.settings, row.id, OPERATOR, P1)
    else:
        with pytest.raises(OperatorError, match="has another patient"):
            release(it.database, it.settings, row.id, OPERATOR)
        with it.database.write() as session:
            session.get_one(Study, it.study.id).patient_id = None
        release(it.database, it.settings, row.id, OPERATOR)
    row = it.instance(note)
    assert (row.state, row.reason) == (InstanceState.NOT_ANALYSED, "sop_class")
    _settle(it)
    assert it.instance(bad).state is InstanceState.WITHDRAWN
    assert len(it.all(KeyObject)) == 1
    assert it.study.state is StudyState.CLOSED
    assert it.unbalanced == []


def test_an_image_that_a_note_names_is_withdrawn_when_it_leaves_quarantine(it: Bench) -> None:
    """Its place is in another study than that of the image that counted."""
    it.send(rejection_note([image(StudyInstanceUID=OTHER_STUDY)], SAFETY))
    it.send(image())
    _settle(it)
    it.send(image(StudyInstanceUID=OTHER_STUDY))
    _settle(it)
    old, new = it.all(Instance, Instance.sop_instance_uid == str(image().SOPInstanceUID))
    assert (old.state, new.state) == (InstanceState.SUPERSEDED, InstanceState.WITHDRAWN)
    assert new.reason == "rejected_safety"
    assert it.unbalanced == []


@pytest.mark.parametrize("is_sent", [True, False])
def test_an_image_that_moves_to_another_study_takes_its_results_back(
    it: Bench, *, is_sent: bool
) -> None:
    it.send(image())
    _settle(it)
    if is_sent:
        _all_sent(it)
    made = _of_patient(it, "P1")
    it.send(image(PatientID="P2", StudyInstanceUID=OTHER_STUDY))
    _settle(it)
    old = _study(it, STUDY)
    assert (old.state, old.opacity_percent, old.severity) == (StudyState.CLOSED, None, None)
    assert _study(it, OTHER_STUDY).state is StudyState.REPORTED
    if is_sent:
        (note,) = it.artifacts(ArtifactKind.KO)
        assert note.ConceptNameCodeSequence[0].CodeValue == WORKLIST
        assert (str(note.PatientID), str(note.StudyInstanceUID)) == ("P1", STUDY)
        assert _named(note) == made
    else:
        assert it.artifacts(ArtifactKind.KO) == []
        assert it.deliveries()[:2] == [("seg", "withdrawn"), ("sr", "withdrawn")]
    it.send(rejection_note([image()], WORKLIST))  # what was taken back is not taken back again
    _settle(it)
    assert len(it.artifacts(ArtifactKind.KO)) == int(is_sent)
    assert it.unbalanced == []


def test_an_image_that_moves_leaves_the_others_in_its_study(it: Bench) -> None:
    it.send(image(1), image(2))
    _settle(it)
    _all_sent(it)
    it.send(image(2, StudyInstanceUID=OTHER_STUDY))
    _settle(it)
    old = _study(it, STUDY)
    assert (old.state, old.revision) == (StudyState.REPORTED, 2)
    (note,) = it.artifacts(ArtifactKind.KO)
    _, segmentation, _ = it.artifacts(ArtifactKind.SEG)
    assert _named(note) == {str(segmentation.SOPInstanceUID)}
    assert it.unbalanced == []


def test_a_note_reaches_what_an_image_left_behind_before_it_moved(it: Bench) -> None:
    """As in a database in which nothing was taken back when the image moved."""
    it.send(image())
    _settle(it)
    _all_sent(it)
    it.send(image(PatientID="P2", StudyInstanceUID=OTHER_STUDY))
    it.dispatch()
    it.compare()
    it.dispatch()
    with it.database.write() as session:
        session.execute(delete(WithdrawnArtifact))
    _settle(it)
    assert it.artifacts(ArtifactKind.KO) == []
    it.send(rejection_note([image()], SAFETY))
    _settle(it)
    (note,) = it.artifacts(ArtifactKind.KO)
    assert _named(note) == _of_patient(it, "P1")
    assert it.unbalanced == []


def test_no_note_of_ours_speaks_of_two_patients(it: Bench) -> None:
    it.send(image())
    _settle(it)
    _all_sent(it)
    merge(it.database, it.settings, PatientIdentity("P1"), P2, OPERATOR)
    _settle(it)
    _all_sent(it)
    it.send(rejection_note([image()], SAFETY, PatientID="P2"))
    _settle(it)
    notes = {str(note.PatientID): _named(note) for note in it.artifacts(ArtifactKind.KO)}
    assert notes == {"P1": _of_patient(it, "P1"), "P2": _of_patient(it, "P2")}
    assert [kind for kind, state in it.deliveries() if state == "due"] == ["ko", "ko"]
    assert it.unbalanced == []


def test_our_note_is_sent_when_the_report_is_given_up(
    it: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, bad = image(1), image(2)
    it.send(kept, bad)
    _settle(it)
    _all_sent(it)

    def broken(*_: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(tasks, "build_report", broken)
    it.send(rejection_note([bad], SAFETY))
    _settle(it)
    assert it.all(Job, Job.kind == JobKind.REPORT)[-1].state is JobState.DEAD
    assert it.study.state is StudyState.SETTLED
    assert it.deliveries()[-1] == ("ko", "due")
    outcome, details = it.events(AuditAction.DELIVERIES_PLANNED)[-1]
    assert (outcome, details["deliveries"]) == ("planned without report", 1)
    assert it.unbalanced == ["settled studies: {'dead': 1}"]


def test_an_image_of_expired_retention_may_come_back(it: Bench) -> None:
    bad = image()
    it.send(bad, rejection_note([bad], RETENTION))
    it.dispatch()
    assert it.instance(bad).state is InstanceState.WITHDRAWN
    it.send(bad)  # the same bytes
    _settle(it)
    row = it.instance(bad)
    assert (row.state, row.reason) == (InstanceState.ANALYSED, None)
    assert it.study.state is StudyState.REPORTED
    assert [job.state for job in it.all(Job, Job.kind == JobKind.ANALYSE)] == [JobState.DONE]
    assert it.unbalanced == []


@pytest.mark.parametrize("second", [QUALITY, None])
def test_other_bytes_of_expired_retention_wait_for_an_operator(
    it: Bench, second: str | None
) -> None:
    bad = image()
    it.send(bad, rejection_note([bad], RETENTION))
    it.dispatch()
    it.send(image(transfer_syntax=ImplicitVRLittleEndian))
    if second is not None:
        it.send(rejection_note([bad], second, seed=2))
    _settle(it)
    _, again = it.all(Instance, Instance.sop_instance_uid == str(bad.SOPInstanceUID))
    assert (again.state, again.reason) == (InstanceState.QUARANTINED, "uid_conflict")
    if second is not None:
        it.send(bad)
        assert it.all(Instance)[0].state is InstanceState.WITHDRAWN
        with pytest.raises(OperatorError, match="a rejection note of the sender"):
            release(it.database, it.settings, again.id, OPERATOR, replace=True)
        return
    release(it.database, it.settings, again.id, OPERATOR, replace=True)
    _settle(it)
    states = [row.state for row in it.all(Instance)]
    assert (states[0], states[-1]) == (InstanceState.SUPERSEDED, InstanceState.ANALYSED)
    assert it.unbalanced == []


def test_a_delivery_that_was_given_up_and_tried_again_may_have_arrived(it: Bench) -> None:
    bad = image()
    it.send(bad)
    _settle(it)
    with it.database.write() as session:
        for row in it.all(Delivery):
            delivery = session.merge(row)
            delivery.state, delivery.attempts = DeliveryState.DEAD, 8
    assert retry(it.database) == 2
    it.send(rejection_note([bad], SAFETY))
    _settle(it)
    assert it.deliveries() == [("seg", "withdrawn"), ("sr", "withdrawn"), ("ko", "due")]
    assert it.unbalanced == []


def test_a_note_without_its_file_holds_up_no_other_one(
    it: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bad = image()
    it.send(bad)
    lost = [rejection_note([bad], SAFETY, seed=number) for number in range(55)]
    it.send(*lost)
    for note in lost:
        (it.settings.spool_dir / it.instance(note).storage_key).unlink()
    it.send(rejection_note([bad], SAFETY, seed=99))
    it.dispatcher.step()
    assert it.instance(bad).state is InstanceState.WITHDRAWN
    lines = [line for line in caplog.messages if "cannot be opened" in line]
    assert lines == ["55 key objects cannot be opened, first 1 (FileNotFoundError)"]
