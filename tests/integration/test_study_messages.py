"""HL7 and FHIR from image to receiver, through every role: in order, once, and taken back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from message_nodes import MessageBench, message_node
from message_peers import (
    CLOSE,
    HANG,
    FhirPeer,
    MllpPeer,
    acknowledged,
    names_of,
    status_of,
    totals_of,
)
from rejection_bench import image
from rejection_notes import WORKLIST, rejection_note
from servers import free_port

from dicom_node.doctor import check_destination
from dicom_node.results import ResultFilter, results
from dicom_node.retrying import retry
from models.audit import AuditAction, AuditEvent
from models.delivery import Destination
from models.result import Analysis, Artifact
from models.states import (
    ArtifactKind,
    CircuitState,
    DeliveryState,
    StudyState,
)
from worker import study_messages
from worker.sandbox import Sandbox

HL7, FHIR = ArtifactKind.HL7, ArtifactKind.FHIR
SENT, WITHDRAWN = DeliveryState.SENT, DeliveryState.WITHDRAWN
Make = Callable[..., MessageBench]
# What is about senders and messages alone is the same over both; the SQL of orders is not.
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def node(
    listen: Any, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Give a node with these destinations; keyword arguments are sections of the settings."""
    with ExitStack() as stack:

        def start(*destinations: dict[str, Any], **sections: Any) -> MessageBench:
            return stack.enter_context(
                message_node(listen, redis_server, sandbox, monkeypatch, *destinations, **sections)
            )

        yield start


def _hl7(peer: MllpPeer, **more: object) -> dict[str, Any]:
    return {"name": "ris", "url": peer.url, **more}


def _fhir(peer: FhirPeer, **more: object) -> dict[str, Any]:
    return {"name": "ehr", "url": peer.url, **more}


@ONE_DATABASE
def test_a_study_is_told_as_hl7_and_as_fhir(node: Make, ris: MllpPeer, ehr: FhirPeer) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    it.send(image(1), image(2, ViewPosition="LL"))
    it.run()
    assert it.study.state is StudyState.DELIVERED
    assert it.of_kind(HL7) == it.of_kind(FHIR) == [(1, SENT)]
    assert [kind for kind, _ in it.deliveries()] == ["hl7", "fhir"]
    (message,) = ris.messages
    assert status_of(message) == "R"
    assert str(message.segment("PID")[3]) == "P1^^^^PI"
    (analysis,) = it.all(Analysis)
    assert totals_of(message) == [round(analysis.opacity_percent_total, 2)]
    assert names_of(message, "X") == {"NOT_ANALYSED"}
    (report,) = ehr.of_kind("DiagnosticReport")
    assert report["status"] == "preliminary"
    assert len(report["result"]) == 2
    assert it.unbalanced == []
    _assert_listed(it)
    for destination in it.settings.destinations:
        assert check_destination(it.settings, it.database, destination)


def _assert_listed(it: MessageBench) -> None:
    """The listing of results names the messages with their deliveries."""
    with it.database.read() as session:
        rows = list(results(session, it.settings, ResultFilter(state="analysed")))
    files = {each["kind"]: each for each in rows[0]["files"]}
    assert {"seg", "sr", "hl7", "fhir"} <= set(files)
    assert [each["destination"] for each in files["hl7"]["deliveries"]] == ["ris"]


@ONE_DATABASE
def test_errors_are_retried_refusals_wait_for_an_operator_and_silence_is_given_up(
    node: Make, ris: MllpPeer
) -> None:
    it = node(_hl7(ris), delivery={"max_attempts": 2, "timeout_seconds": 0.3})
    codes = iter(("AE", "AR"))
    ris.answer = lambda message: str(message.create_ack(next(codes)))
    it.send(image())
    it.run()
    it.make_due()
    it.deliver()
    assert it.of_kind(HL7) == [(1, DeliveryState.REJECTED)]
    assert it.study.state is StudyState.REPORTED
    ris.answer = lambda _: HANG
    assert retry(it.database, destination="ris") == 1
    for _ in range(2):
        it.deliver()
        it.make_due()
    assert it.of_kind(HL7) == [(1, DeliveryState.DEAD)]
    (destination,) = it.all(Destination)
    assert destination.failures == 2
    ris.answer = acknowledged("AA")
    assert retry(it.database, destination="ris") == 1
    it.run()
    assert it.of_kind(HL7) == [(1, SENT)]
    assert it.study.state is StudyState.DELIVERED
    # Five times the same message: a receiver that had it already knows it by its control id.
    assert len(ris.messages) == 5
    assert len(set(map(str, ris.messages))) == 1
    assert it.unbalanced == []
    sent = [
        row.outcome for row in it.all(AuditEvent, AuditEvent.action == AuditAction.ARTIFACT_SENT)
    ]
    assert sent == ["retry", "rejected", "retry", "retry", "sent"]


@ONE_DATABASE
def test_a_receiver_that_breaks_off_is_paused_as_a_whole(node: Make, ris: MllpPeer) -> None:
    it = node(_hl7(ris), delivery={"circuit_failures": 2})
    ris.answer = lambda _: CLOSE
    it.send(image(1), image(2, StudyInstanceUID="1.2.840.78"))
    it.run()
    for _ in range(3):
        it.make_due()
        it.deliver()
    (destination,) = it.all(Destination)
    assert destination.state is CircuitState.OPEN
    ris.answer = acknowledged("AA")
    for _ in range(3):
        it.make_due()
        it.deliver()
    assert it.of_kind(HL7) == [(1, SENT), (1, SENT)]
    (destination,) = it.all(Destination)
    assert destination.state is CircuitState.CLOSED


@ONE_DATABASE
def test_a_late_image_corrects_the_report(node: Make, ris: MllpPeer, ehr: FhirPeer) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    it.send(image(1))
    it.run()
    it.send(image(2))
    it.run()
    assert it.of_kind(HL7) == it.of_kind(FHIR) == [(1, SENT), (2, SENT)]
    assert list(map(status_of, ris.messages)) == ["R", "C"]
    assert len(totals_of(ris.messages[1])) == 2
    (report,) = ehr.of_kind("DiagnosticReport")
    assert report["status"] == "corrected"
    assert len(ehr.of_kind("Observation")) == 2
    assert it.unbalanced == []


def test_a_message_that_waited_too_long_is_replaced_and_not_sent(node: Make) -> None:
    peer = MllpPeer(port=free_port())
    it = node(_hl7(peer))
    it.send(image(1))
    it.run()
    it.send(image(2))
    it.run()
    assert it.of_kind(HL7)[1] == (2, DeliveryState.DUE)
    with peer.running():
        for _ in range(3):
            it.make_due()
            it.deliver()
    it.run()
    assert it.of_kind(HL7) == [(1, WITHDRAWN), (2, SENT)]
    assert list(map(status_of, peer.messages)) == ["C"]
    assert it.study.state is StudyState.DELIVERED
    assert it.unbalanced == []


def test_rejected_images_are_taken_back(node: Make, ris: MllpPeer, ehr: FhirPeer) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    first, second = image(1), image(2)
    it.send(first, second)
    it.run()
    it.send(rejection_note([first]))
    it.run()
    assert status_of(ris.messages[1]) == "C"
    assert "OPACITY_AREA_PCT_TOTAL" in names_of(ris.messages[1], "D")
    assert len(totals_of(ris.messages[1])) == 1
    it.send(rejection_note([second], WORKLIST))
    it.run()
    assert it.study.state is StudyState.CLOSED
    assert it.of_kind(HL7) == it.of_kind(FHIR) == [(1, SENT), (2, SENT), (3, SENT)]
    last = ris.messages[2]
    assert status_of(last) == "C"
    assert totals_of(last) == []
    assert "OPACITY_AREA_PCT_TOTAL" in names_of(last, "W")
    (report,) = ehr.of_kind("DiagnosticReport")
    assert report["status"] == "entered-in-error"
    assert {each["status"] for each in ehr.of_kind("Observation")} == {"entered-in-error"}
    assert all("valueQuantity" not in each for each in ehr.of_kind("Observation"))
    assert it.unbalanced == []
    # What comes again without news makes no further message.
    it.send(rejection_note([second], WORKLIST, seed="2"))
    it.run()
    assert len(ris.messages) == 3


@ONE_DATABASE
def test_under_a_corrected_patient_the_first_message_is_taken_back(
    node: Make, ris: MllpPeer, ehr: FhirPeer
) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    it.send(image(1))
    it.run()
    it.send(image(1, PatientID="P2"))
    it.run()
    patients = [str(each.segment("PID")[3]).partition("^")[0] for each in ris.messages]
    assert patients == ["P1", "P1", "P2"]
    assert list(map(status_of, ris.messages)) == ["R", "C", "R"]
    assert "OPACITY_AREA_PCT_TOTAL" in names_of(ris.messages[1], "W")
    (report,) = ehr.of_kind("DiagnosticReport")
    assert report["subject"]["identifier"]["value"] == "P2"
    assert it.of_kind(HL7) == [(1, SENT), (2, SENT)]
    assert it.unbalanced == []


@ONE_DATABASE
def test_what_was_rejected_before_it_was_sent_is_told_to_nobody(node: Make) -> None:
    peer = MllpPeer(port=free_port())
    it = node(_hl7(peer))
    only = image()
    it.send(only)
    it.run()
    it.send(rejection_note([only]))
    it.run()
    with peer.running():
        it.make_due()
        it.run()
    assert it.of_kind(HL7) == [(1, WITHDRAWN)]
    assert peer.messages == []
    assert it.study.state is StudyState.CLOSED


def test_why_there_is_no_figure_is_told_where_it_is_wanted(
    node: Make, ris: MllpPeer, ehr: FhirPeer
) -> None:
    it = node(_hl7(ris, not_analysed="always"), _fhir(ehr))
    it.send(image(1, ViewPosition="LL"))
    it.run()
    assert it.study.state is StudyState.CLOSED
    assert it.of_kind(HL7) == [(1, SENT)]
    assert it.of_kind(FHIR) == []
    (message,) = ris.messages
    assert status_of(message) == "X"
    assert str(message.segment("PID")[5]).startswith("Phantom^Chest")
    assert it.unbalanced == []
    # The same again is no news; a figure is, to both.
    it.send(image(1, ViewPosition="LL"))
    it.run()
    assert len(ris.messages) == 1
    it.send(image(2))
    it.run()
    assert list(map(status_of, ris.messages)) == ["X", "C"]
    assert [each["status"] for each in ehr.of_kind("DiagnosticReport")] == ["corrected"]
    assert it.study.state is StudyState.DELIVERED
    assert it.unbalanced == []


@ONE_DATABASE
def test_a_message_that_cannot_be_made_is_left_out_and_audited(
    node: Make, ris: MllpPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    _broken(monkeypatch, HL7)
    it = node(_hl7(ris))
    it.send(image())
    it.run()
    assert it.study.state is StudyState.DELIVERED
    assert {row.kind for row in it.all(Artifact)} >= {ArtifactKind.SEG, ArtifactKind.SR}
    assert [outcome for outcome, _ in it.events(AuditAction.ARTIFACT_LEFT_OUT)] == ["hl7"]
    assert ris.messages == []
    assert it.unbalanced == []


def _broken(monkeypatch: pytest.MonkeyPatch, kind: ArtifactKind) -> None:
    def broken(*_: object) -> bytes:
        raise ZeroDivisionError

    syntaxes = study_messages._SYNTAXES
    monkeypatch.setitem(syntaxes, kind, replace(syntaxes[kind], build=broken))


@ONE_DATABASE
def test_a_deletion_that_cannot_be_made_is_audited_too(
    node: Make, ris: MllpPeer, ehr: FhirPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    only = image()
    it.send(only)
    it.run()
    _broken(monkeypatch, HL7)
    it.send(rejection_note([only]))
    it.run()
    assert it.study.state is StudyState.CLOSED
    assert [outcome for outcome, _ in it.events(AuditAction.ARTIFACT_LEFT_OUT)] == ["hl7"]
    assert it.of_kind(HL7) == [(1, SENT)]
    assert it.of_kind(FHIR) == [(1, SENT), (2, SENT)]


@ONE_DATABASE
def test_a_lost_message_leaves_the_next_of_its_kind_out_and_no_report(
    node: Make, ris: MllpPeer, ehr: FhirPeer
) -> None:
    it = node(_hl7(ris), _fhir(ehr))
    first, second = image(1), image(2)
    it.send(first)
    it.run()
    (lost,) = it.all(Artifact, Artifact.kind == HL7)
    (it.settings.artifact_dir / lost.storage_key).unlink()
    it.send(second)
    it.run()
    assert it.study.state is StudyState.DELIVERED
    assert len(it.artifacts(ArtifactKind.SR)) == 2
    assert it.of_kind(HL7) == [(1, SENT)]
    assert it.of_kind(FHIR) == [(1, SENT), (2, SENT)]
    it.send(rejection_note([first, second]))
    it.run()
    assert it.study.state is StudyState.CLOSED
    assert it.of_kind(FHIR)[2:] == [(3, SENT)]
    left_out = [outcome for outcome, _ in it.events(AuditAction.ARTIFACT_LEFT_OUT)]
    assert left_out == ["hl7", "hl7"]


@ONE_DATABASE
def test_without_a_receiver_of_messages_nothing_is_made(node: Make) -> None:
    it = node()
    it.send(image(1), image(2, ViewPosition="LL", StudyInstanceUID="1.2.840.78"))
    it.run()
    kinds = {row.kind for row in it.all(Artifact)}
    assert not kinds & {HL7, FHIR}
