"""A sender takes images back: over the network, through every role, and out again to the PACS."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from rejection_bench import STUDY, Archive, Bench, archive, image
from rejection_notes import KO, OF_INTEREST, QUALITY, RETENTION, SAFETY, rejection_note
from rows import SEG, SR, count, instances, outcomes

from dicom_node.queue import JobQueue
from dicom_node.results import ResultFilter, results
from models.audit import AuditAction
from models.job import Job
from models.rejection import RejectedReference
from models.settings import load_settings
from models.states import ArtifactKind, InstanceState, JobKind, JobState, StudyState
from worker.leases import LeaseLostError, claim
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
Make = Callable[..., Bench]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def pacs(tmp_path: Path, dcmtk: Callable[[str], Path]) -> Iterator[Archive]:
    """A PACS that accepts everything."""
    with archive(dcmtk("storescp"), tmp_path / "pacs") as made:
        yield made


@pytest.fixture
def node(
    listen: Listen,
    pacs: Archive,
    redis_server: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Make]:
    """Give a node that delivers to the PACS; keyword arguments are the destination's."""
    with ExitStack() as stack:

        def start(**destination: object) -> Bench:
            to = {"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1"}
            to |= {"port": pacs.port} | destination
            monkeypatch.setenv("DICOM_NODE_DESTINATIONS", json.dumps([to]))
            monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
            running = listen()
            queue = JobQueue(redis_server)
            stack.callback(queue.close)
            return Bench(running.port, running.database, running.settings, queue, sandbox)

        yield start


def _named(ds: Dataset) -> set[str]:
    """Return the SOP Instance UIDs that a key object or an SR names as evidence."""
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in ds.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }


def test_one_of_two_images_is_rejected(node: Make, pacs: Archive) -> None:
    it, kept, bad = node(), image(1), image(2)
    it.send(kept, bad)
    it.run()
    assert it.study.state is StudyState.DELIVERED
    before = it.study.opacity_percent
    it.send(rejection_note([bad]))
    it.run()
    row = it.instance(bad)
    assert (row.state, row.reason) == (InstanceState.WITHDRAWN, "rejected_quality")
    assert it.instance(kept).state is InstanceState.ANALYSED

    first, second = it.artifacts(ArtifactKind.SR)
    replaced = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert replaced.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert {kept.SOPInstanceUID, bad.SOPInstanceUID} < _named(first)
    assert bad.SOPInstanceUID not in _named(second)
    assert "'REJECTED_QUALITY'" in str(second)
    assert bad.SOPInstanceUID in str(second)
    assert it.study.opacity_percent < before

    (note,) = it.artifacts(ArtifactKind.KO)
    _, segmentation = it.artifacts(ArtifactKind.SEG)
    assert _named(note) == {segmentation.SOPInstanceUID}
    assert note.ConceptNameCodeSequence[0].CodeValue == QUALITY
    assert pacs.classes() == sorted([SEG, SEG, SR, SR, KO])
    assert (it.study.state, it.study.revision) == (StudyState.DELIVERED, 2)
    assert it.unbalanced == []


def test_the_only_image_is_rejected(node: Make, pacs: Archive) -> None:
    it, bad = node(), image()
    it.send(bad)
    it.run()
    it.send(rejection_note([bad], SAFETY))
    it.run()
    assert (it.study.state, it.study.opacity_percent) == (StudyState.CLOSED, None)
    assert it.study.severity is None
    (note,), (segmentation,), (report,) = (
        it.artifacts(kind) for kind in (ArtifactKind.KO, ArtifactKind.SEG, ArtifactKind.SR)
    )
    assert _named(note) == {segmentation.SOPInstanceUID, report.SOPInstanceUID}
    assert note.ConceptNameCodeSequence[0].CodeValue == SAFETY
    assert (str(note.PatientID), str(note.StudyInstanceUID)) == ("P1", STUDY)
    assert pacs.classes() == sorted([SEG, SR, KO])
    assert it.deliveries() == [("seg", "sent"), ("sr", "sent"), ("ko", "sent")]
    assert it.events(AuditAction.REJECTION_NOTE) == [
        (
            "obeyed",
            {"reason": "rejected_safety", "references": 1, "elsewhere": 0, "withdrawn": 1},
        )
    ]
    ((outcome, details),) = it.events(AuditAction.INSTANCE_WITHDRAWN)
    assert (outcome, details["was"]) == ("rejected_safety", "analysed")
    assert it.events(AuditAction.REJECTION_NOTE_STORED) == [
        ("rejected_safety", {"number": 1, "objects": 2})
    ]
    assert it.unbalanced == []

    later = image(5)
    it.send(later)  # a new exposure: the study is reported again
    it.run()
    assert (it.study.state, len(it.artifacts(ArtifactKind.SR))) == (StudyState.DELIVERED, 2)
    assert len(it.artifacts(ArtifactKind.KO)) == 1
    assert it.study.opacity_percent is not None
    assert it.unbalanced == []


def test_what_no_receiver_has_needs_no_note_and_is_not_sent_any_more(
    node: Make, pacs: Archive
) -> None:
    it, kept, bad = node(), image(1), image(2)
    it.send(kept, bad)
    it.dispatch()
    it.analyse()
    it.dispatch()
    it.report()
    it.dispatch()
    assert it.deliveries() == [("seg", "due"), ("seg", "due"), ("sr", "due")]
    it.send(rejection_note([bad]))
    it.run()
    assert it.artifacts(ArtifactKind.KO) == []
    states = sorted(it.deliveries())
    assert states == [
        ("seg", "sent"),
        ("seg", "withdrawn"),
        ("sr", "sent"),
        ("sr", "withdrawn"),
    ]
    assert bad.SOPInstanceUID not in set().union(*map(_named, it.artifacts(ArtifactKind.SR)[1:]))
    assert pacs.classes() == sorted([SEG, SR])
    assert it.study.state is StudyState.DELIVERED
    assert it.unbalanced == []


def test_an_image_that_comes_after_its_note_is_withdrawn_at_once(
    node: Make,
) -> None:
    it, bad = node(), image()
    it.send(rejection_note([bad]))
    it.dispatch()
    it.send(bad, bad)
    row = it.instance(bad)
    assert (row.state, row.reason) == (InstanceState.WITHDRAWN, "rejected_quality")
    assert it.jobs(JobKind.ANALYSE) == []
    ((_, details),) = it.events(AuditAction.INSTANCE_WITHDRAWN)
    assert details == {"was": None}
    it.run()
    assert it.study.state is StudyState.CLOSED
    assert it.unbalanced == []


def test_a_note_about_expired_retention_leaves_results_and_lets_images_return(
    node: Make,
) -> None:
    it, done, waiting, later = node(), image(1), image(2), image(3)
    it.send(done)
    it.run()
    it.send(waiting, rejection_note([done, waiting, later], RETENTION))
    it.dispatch()
    it.send(later)
    it.run()
    assert it.instance(done).state is InstanceState.ANALYSED
    row = it.instance(waiting)
    assert (row.state, row.reason) == (InstanceState.WITHDRAWN, "rejected_retention")
    assert it.instance(later).state is InstanceState.ANALYSED
    assert it.artifacts(ArtifactKind.KO) == []
    assert it.study.state is StudyState.DELIVERED
    assert it.unbalanced == []


def test_a_note_that_comes_again_changes_nothing(node: Make, pacs: Archive) -> None:
    it, bad = node(), image()
    it.send(bad)
    it.run()
    for number in (1, 1, 2):  # the same bytes, then the same words under another UID
        it.send(rejection_note([bad], seed=number))
        it.run()
    assert [details["withdrawn"] for _, details in it.events(AuditAction.REJECTION_NOTE)] == [1, 0]
    assert len(it.events(AuditAction.INSTANCE_WITHDRAWN)) == 1
    assert len(it.artifacts(ArtifactKind.KO)) == 1
    assert pacs.classes() == sorted([SEG, SR, KO])
    assert it.unbalanced == []


def test_two_notes_for_two_reasons_get_two_answers(node: Make) -> None:
    it, first, second = node(), image(1), image(2)
    it.send(first, second)
    it.run()
    it.send(rejection_note([first], QUALITY), rejection_note([second], SAFETY))
    it.run()
    titles = {note.ConceptNameCodeSequence[0].CodeValue for note in it.artifacts(ArtifactKind.KO)}
    assert titles == {QUALITY, SAFETY}
    named = set().union(*map(_named, it.artifacts(ArtifactKind.KO)))
    made = [*it.artifacts(ArtifactKind.SEG), *it.artifacts(ArtifactKind.SR)]
    assert named == {str(ds.SOPInstanceUID) for ds in made}
    assert it.study.state is StudyState.CLOSED
    assert it.unbalanced == []


def test_a_note_about_images_of_nobody_changes_nothing(node: Make) -> None:
    it, held, unknown = node(), image(1), image(2)
    it.send(held)
    it.run()
    it.send(rejection_note([unknown]))
    it.run()
    assert it.instance(held).state is InstanceState.ANALYSED
    assert (it.study.state, it.study.revision) == (StudyState.DELIVERED, 1)
    assert count(it.database, RejectedReference) == 1
    assert it.unbalanced == []


@pytest.mark.parametrize("title", [OF_INTEREST, QUALITY])
def test_what_is_not_to_reject_an_image_leaves_it(node: Make, title: str) -> None:
    """Neither a key object of another title, nor a note of another study or another patient."""
    it, held = node(), image()
    it.send(held)
    it.run()
    about = held if title == OF_INTEREST else image(StudyInstanceUID="1.2.840.78")
    foreign = {"PatientID": "P2", "seed": 2}
    it.send(rejection_note([about], title), rejection_note([held], title, **foreign))
    it.run()
    assert it.instance(held).state is InstanceState.ANALYSED
    reasons = [row.reason for row in instances(it.database)]
    assert reasons == [None, "sop_class", "patient_mismatch"]
    assert it.events(AuditAction.INSTANCE_WITHDRAWN) == []
    assert it.unbalanced == []


def test_a_hostile_note_is_stored_shown_and_does_nothing(node: Make) -> None:
    it, held = node(), image()
    it.send(held)
    it.run()
    bare = rejection_note(
        [held], CurrentRequestedProcedureEvidenceSequence=None, ContentSequence=[Dataset()]
    )
    it.send(bare)
    it.run()
    row = it.instance(bare)
    assert (row.state, row.reason) == (InstanceState.NOT_ANALYSED, "unreadable")
    assert row.detail == "the rejection note names no object of its own study"
    assert [outcome for outcome, _ in it.events(AuditAction.REJECTION_NOTE)] == ["unreadable"]
    assert it.instance(held).state is InstanceState.ANALYSED
    assert it.study.state is StudyState.DELIVERED
    assert it.unbalanced == []


def test_a_job_that_waits_or_runs_is_cancelled(node: Make) -> None:
    it, waiting, running = node(), image(1), image(2)
    it.send(waiting, running)
    _, leased = it.jobs(JobKind.ANALYSE)
    assert claim(it.database, leased.id, 60.0) is not None
    it.send(rejection_note([waiting, running]))
    it.dispatch()
    assert [job.state for job in it.all(Job)] == [JobState.CANCELLED] * 2
    with pytest.raises(LeaseLostError):
        it.finish_analysis(leased)
    assert it.artifacts(ArtifactKind.SEG) == []
    assert [row.state for row in instances(it.database)][:2] == [InstanceState.WITHDRAWN] * 2
    assert it.study.state is StudyState.CLOSED
    assert it.unbalanced == []


def test_an_image_that_is_rejected_while_its_report_is_made_is_not_in_it(
    node: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    it, kept, bad = node(), image(1), image(2)
    it.send(kept, bad)
    it.dispatch()
    it.analyse()
    it.dispatch()
    (job,) = it.jobs(JobKind.REPORT)
    real = it.store.store_report

    def late(*arguments: object) -> None:
        monkeypatch.setattr(it.store, "store_report", real)
        it.send(rejection_note([bad]))
        it.dispatcher.step()
        real(*arguments)

    monkeypatch.setattr(it.store, "store_report", late)
    it.report()
    assert it.artifacts(ArtifactKind.SR) == []
    assert it.all(Job, Job.id == job.id)[0].error == "ImageWithdrawnError"
    it.run()
    (report,) = it.artifacts(ArtifactKind.SR)
    assert bad.SOPInstanceUID not in _named(report)
    assert it.artifacts(ArtifactKind.KO) == []
    assert it.unbalanced == []


def test_a_note_that_the_receiver_does_not_want_is_not_sent(node: Make, pacs: Archive) -> None:
    it, bad = node(rejection_notes="never"), image()
    it.send(bad)
    it.run()
    it.send(rejection_note([bad]))
    it.run()
    assert pacs.classes() == sorted([SEG, SR])
    assert it.deliveries() == [("seg", "sent"), ("sr", "sent")]
    assert it.study.state is StudyState.CLOSED
    assert it.unbalanced == []


def test_our_own_note_that_comes_back_is_known(node: Make) -> None:
    it, bad = node(), image()
    it.send(bad)
    it.run()
    it.send(rejection_note([bad]))
    it.run()
    (note,) = it.artifacts(ArtifactKind.KO)
    it.send(note)
    note.SOPInstanceUID = note.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    it.send(note)  # of another node like this one
    assert outcomes(it.database, AuditAction.INSTANCE_STORED)[-2:] == ["own_result", "stored"]
    assert instances(it.database)[-1].reason == "own_result"
    it.run()
    assert len(it.events(AuditAction.REJECTION_NOTE)) == 1
    assert it.unbalanced == []


def test_results_show_a_withdrawn_image_and_our_note(node: Make) -> None:
    it, bad = node(), image()
    it.send(bad)
    it.run()
    it.send(rejection_note([bad]))
    it.run()
    with it.database.read() as session:
        (row,) = results(session, it.settings, ResultFilter(state="withdrawn"))
    assert (row["status"], row["reason"]) == ("withdrawn", "rejected_quality")
    states = {file["kind"]: [each["state"] for each in file["deliveries"]] for file in row["files"]}
    assert states["ko"] == ["sent"]


def test_a_receiver_without_key_objects_shows_a_rejected_delivery(
    node: Make,
) -> None:
    ae = AE(ae_title="PACS")
    for sop_class in (SEG, SR):
        ae.add_supported_context(sop_class)
    answer: Any = [(evt.EVT_C_STORE, lambda _event: 0x0000)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=answer)
    try:
        it, kept, bad = node(port=server.server_address[1]), image(1), image(2)
        it.send(kept, bad)
        it.run()
        it.send(rejection_note([bad]))
        it.run()
    finally:
        ae.shutdown()
    assert it.deliveries()[-1] == ("ko", "rejected")
    assert it.study.state is StudyState.REPORTED  # not delivered
    assert it.unbalanced == []
