"""Messages about a study whose issuer is told late, whose patient or whose figure changes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from message_nodes import MessageBench, message_node
from message_peers import FhirPeer, MllpPeer, names_of, status_of, totals_of
from rejection_bench import image
from rejection_notes import rejection_note

from dicom_node.merge import PatientIdentity, merge
from dicom_node.quarantine import Operator
from dicom_node.replay import replay
from models.imaging import WITHOUT_FIGURE
from models.reasons import Reason
from models.states import InstanceState, JobKind, StudyState
from worker.leases import claim
from worker.sandbox import Sandbox

Make = Callable[..., MessageBench]
ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
_BY = Operator("nurse", "why")


@pytest.fixture
def node(
    listen: Any, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    """Give a node that sends messages to these receivers."""
    with ExitStack() as stack:

        def start(*peers: MllpPeer | FhirPeer) -> MessageBench:
            to = [{"name": f"receiver{n}", "url": peer.url} for n, peer in enumerate(peers)]
            return stack.enter_context(
                message_node(listen, redis_server, sandbox, monkeypatch, *to)
            )

        yield start


def _patients(peer: MllpPeer) -> list[str]:
    return [str(each.segment("PID")[3]) for each in peer.messages]


@ONE_DATABASE
def test_images_without_an_issuer_and_the_loss_of_the_one_with_it_change_no_patient(
    node: Make, ris: MllpPeer, ehr: FhirPeer
) -> None:
    it = node(ris, ehr)
    # The first one has the greatest UID, so the header of a message is another one's later.
    first = image(1, SOPInstanceUID="1.2.840.9.9", IssuerOfPatientID="NORTH")
    for each in (first, image(2, SOPInstanceUID="1.2.840.9.1"), rejection_note([first])):
        it.send(each)
        it.run()
    assert _patients(ris) == ["P1^^^NORTH^PI"] * 3
    assert list(map(status_of, ris.messages)) == ["R", "C", "C"]
    (report,) = ehr.of_kind("DiagnosticReport")
    assert report["subject"]["identifier"]["assigner"]["display"] == "NORTH"
    assert it.unbalanced == []


@ONE_DATABASE
def test_who_named_the_issuer_first_is_heard_also_when_it_was_withdrawn(
    node: Make, ris: MllpPeer
) -> None:
    it = node(ris)
    named = image(2, IssuerOfPatientID="NORTH")
    it.send(image(1), named)
    it.run()
    it.send(rejection_note([named]))
    it.run()
    assert _patients(ris) == ["P1^^^NORTH^PI"] * 2


@ONE_DATABASE
def test_an_issuer_that_an_operator_took_away_does_not_come_back(node: Make, ris: MllpPeer) -> None:
    it = node(ris)
    it.send(image(1, IssuerOfPatientID="NORTH"))
    it.run()
    old = PatientIdentity("P1", None)
    correction = {"PatientID": "P2", "IssuerOfPatientID": ""}
    assert merge(it.database, it.settings, old, correction, _BY)
    it.run()
    it.send(image(2, PatientID="P2", IssuerOfPatientID="NORTH"))
    it.run()
    before, now = "P1^^^NORTH^PI", "P2^^^^PI"  # the recall stands in front of each later message
    assert _patients(ris) == [before, before, now, before, now]


def _replayed_in_vain(it: MessageBench) -> None:
    """Have every image analysed again; each analysis fails."""
    uid = it.study.study_instance_uid
    replay(it.database, it.settings, uid, None, _BY)
    it.dispatch()
    for job in it.jobs(JobKind.ANALYSE):
        assert claim(it.database, job.id, 60.0) is not None
        it.store.store_no_result(job.id, InstanceState.FAILED, Reason.TIME_LIMIT, "")
    it.run()


def test_a_figure_that_a_replay_lost_is_taken_back_once_and_comes_back(
    node: Make, ris: MllpPeer, ehr: FhirPeer
) -> None:
    it = node(ris, ehr)
    it.send(image())
    it.run()
    before = it.study
    assert before.opacity_percent is not None
    for _ in range(2):  # the second time there is nothing more to take back
        _replayed_in_vain(it)
        assert it.study.state is StudyState.CLOSED
        assert (it.study.opacity_percent, it.study.severity) == (None, None)
        assert it.study.reading_order == WITHOUT_FIGURE
        assert list(map(status_of, ris.messages)) == ["R", "C"]
    assert "OPACITY_AREA_PCT_TOTAL" in names_of(ris.messages[1], "D")
    assert [each["status"] for each in ehr.of_kind("DiagnosticReport")] == ["entered-in-error"]
    replay(it.database, it.settings, before.study_instance_uid, None, _BY)
    it.run()
    assert it.study.opacity_percent == before.opacity_percent
    assert list(map(status_of, ris.messages)) == ["R", "C", "C"]
    assert totals_of(ris.messages[2]) == totals_of(ris.messages[0])
    assert it.unbalanced == []


@ONE_DATABASE
def test_a_figure_that_a_replay_lost_is_gone_also_where_nobody_gets_messages(node: Make) -> None:
    it = node()
    it.send(image())
    it.run()
    before = it.study
    _replayed_in_vain(it)
    assert it.study.state is StudyState.CLOSED
    assert (it.study.revision, it.study.opacity_percent) == (1, None)
    replay(it.database, it.settings, before.study_instance_uid, None, _BY)
    it.run()
    after = it.study
    assert after.state is StudyState.DELIVERED
    assert (after.revision, after.opacity_percent) == (1, before.opacity_percent)
    assert after.reading_order == before.reading_order
