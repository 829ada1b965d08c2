"""Storage Commitment as SCP: senders ask, the node answers by N-EVENT-REPORT."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset
from commitments import Modality, calling_back, orders
from pydicom.dataset import Dataset
from rows import SEG, add_analysis, add_instance, instances, open_database, outcomes
from senders import associate, store
from sqlalchemy import select, update

from dicom_node.commitment import handlers
from dicom_node.commitment.messages import Question, Reference, encode_question
from dicom_node.commitment.orders import MAX_REFERENCES, accept_order
from dicom_node.commitment.reporting import Reporter
from dicom_node.commitment.statuses import commitment_status
from dicom_node.errors import TooManyReferencesError
from dicom_node.listener import Listener
from models.audit import AuditAction
from models.base import utc_now
from models.commitment import CommitmentOrder
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import EventReportState, InstanceState

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"


@dataclass
class Provider:
    """A node that gives commitment to one modality."""

    settings: Settings
    database: Database
    listener: Listener
    modality: Modality

    def ask(self, *pairs: tuple[str, str], uid: str = "2.25.7", **changed: Any) -> int | None:
        """Let the modality ask about (SOP Class UID, SOP Instance UID)."""
        question = Question(uid, tuple(Reference(*pair) for pair in pairs))
        return self.modality.ask(self.listener.port, encode_question(question), **changed)

    def answer(self) -> bool:
        """Let the node answer what is due."""
        (peer,) = self.settings.commitment_provider.peers
        return Reporter(self.settings, self.database, peer).step()

    def make_due(self) -> None:
        """Let the pause be over."""
        with self.database.write() as session:
            session.execute(update(CommitmentOrder).values(next_attempt_at=utc_now()))


@pytest.fixture
def modality() -> Iterator[Modality]:
    with Modality().running() as running:
        yield running


@pytest.fixture
def start(
    modality: Modality, database_url: str, tmp_path: Path
) -> Iterator[Callable[..., Provider]]:
    with open_database(database_url) as database:
        started: list[Listener] = []

        def run(**provider: Any) -> Provider:
            peer = {"ae_title": "CR1", "host": "127.0.0.1", "port": modality.port}
            settings = load_settings(
                None,
                data_dir=tmp_path / "data",
                database_url=database_url,
                dicom={"host": "127.0.0.1", "port": 0, "min_free_bytes": 0},
                delivery={"timeout_seconds": 10, "backoff_seconds": 60, "max_attempts": 3},
                commitment_provider={"enabled": True, "peers": [peer]} | provider,
            )
            started.append(Listener(settings, database))
            return Provider(settings, database, started[-1], modality)

        yield run
        for listener in started:
            listener.stop()


@pytest.fixture
def node(start: Callable[..., Provider]) -> Provider:
    return start()


def _spool_file(node: Provider, sop_instance_uid: str) -> Path:
    with node.database.read() as session:
        query = select(Instance.storage_key).where(Instance.sop_instance_uid == sop_instance_uid)
        return node.settings.spool_dir / session.scalars(query).one()


def test_what_was_stored_is_committed(node: Provider) -> None:
    ds = chest_dataset()
    assert store(node.listener.port, ds) == 0x0000
    assert node.ask((CR, ds.SOPInstanceUID)) == 0x0000
    assert [order.state for order in orders(node.database)] == [EventReportState.DUE]
    assert node.answer()
    assert not node.answer()
    (report,) = node.modality.reports
    assert report.transaction_uid == "2.25.7"
    assert report.committed == (Reference(CR, ds.SOPInstanceUID),)
    assert (report.failed, report.event_type) == ((), 1)
    assert [order.state for order in orders(node.database)] == [EventReportState.ACCEPTED]
    assert outcomes(node.database, AuditAction.COMMITMENT_ASKED) == ["accepted"]
    assert outcomes(node.database, AuditAction.COMMITMENT_REPORTED) == ["accepted"]


def test_each_failure_has_its_reason(node: Provider) -> None:
    port = node.listener.port
    whole, gone, short, twice, other = (chest_dataset(seed=str(number)) for number in range(5))
    nobody = chest_dataset(seed="nobody", PatientID=None)
    for ds in (whole, gone, short, twice, other, nobody):
        assert store(port, ds) == 0x0000
    assert store(port, chest_dataset(seed="3", StudyDescription="other bytes")) == 0x0000
    _spool_file(node, gone.SOPInstanceUID).unlink()
    damaged = _spool_file(node, short.SOPInstanceUID)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    asked = {
        (CR, whole.SOPInstanceUID): None,
        (CR, gone.SOPInstanceUID): 0x0112,
        (CR, short.SOPInstanceUID): 0x0112,
        (CR, twice.SOPInstanceUID): 0x0110,  # which of the two is meant?
        (CR, nobody.SOPInstanceUID): 0x0110,  # in quarantine
        (DX, other.SOPInstanceUID): 0x0119,
        (CR, "1.2.3.4.5"): 0x0112,
    }
    assert node.ask(*asked) == 0x0000
    node.answer()
    (report,) = node.modality.reports
    found: dict[tuple[str, str], int | None] = {
        (it.reference.sop_class_uid, it.reference.sop_instance_uid): it.reason
        for it in report.failed
    }
    found |= {(it.sop_class_uid, it.sop_instance_uid): None for it in report.committed}
    assert (found, report.event_type) == (asked, 2)


@pytest.mark.parametrize("state", [InstanceState.SUPERSEDED, InstanceState.QUARANTINED])
def test_what_a_newer_object_replaced_is_no_hindrance(node: Provider, state: InstanceState) -> None:
    ds = chest_dataset()
    add_instance(node.database, sop_instance_uid=ds.SOPInstanceUID, state=state)  # without a file
    assert store(node.listener.port, ds) == 0x0000
    node.ask((CR, ds.SOPInstanceUID))
    node.answer()
    assert len(node.modality.reports[0].committed) == 1


def test_our_own_results_are_stored_too(node: Provider) -> None:
    _, seg_id = add_analysis(node.database, add_instance(node.database))
    with node.database.read() as session:
        seg = session.get_one(Artifact, seg_id)
    path = node.settings.artifact_dir / seg.storage_key
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    assert node.ask((SEG, seg.sop_instance_uid or "")) == 0x0000
    node.answer()
    assert [it.sop_instance_uid for it in node.modality.reports[0].committed] == [
        seg.sop_instance_uid
    ]


def test_an_answer_waits_for_a_peer_that_is_away(
    start: Callable[..., Provider], modality: Modality
) -> None:
    node = start()
    node.ask((CR, "1.2.3"))
    modality.status = 0x0110
    assert node.answer()
    (order,) = orders(node.database)
    assert (order.state, order.attempts) == (EventReportState.DUE, 1)
    assert order.error == "the N-EVENT-REPORT was answered 0x0110"
    assert order.next_attempt_at > utc_now()
    assert not node.answer()  # not before its time
    node.make_due()
    modality.status = 0x0000
    assert node.answer()  # as after a restart: all that is known stands in the row
    assert [order.state for order in orders(node.database)] == [EventReportState.ACCEPTED]
    assert len(modality.reports) == 2


@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_answer_that_nobody_takes_is_given_up(database_url: str, tmp_path: Path) -> None:
    with Modality().running() as modality:
        pass  # its port is closed again
    peer = {"ae_title": "CR1", "host": "127.0.0.1", "port": modality.port}
    settings = load_settings(
        None,
        data_dir=tmp_path,
        delivery={"timeout_seconds": 10, "max_attempts": 2},
        commitment_provider={"enabled": True, "peers": [peer]},
    )
    with open_database(database_url) as database:
        with database.write() as session:
            session.add(
                CommitmentOrder(
                    transaction_uid="2.25.7", calling_aet="CR1", instances=[[CR, "1.2"]]
                )
            )
        reporter = Reporter(settings, database, settings.commitment_provider.peers[0])
        for _ in range(2):
            with database.write() as session:
                session.execute(update(CommitmentOrder).values(next_attempt_at=utc_now()))
            assert reporter.step()
        (order,) = orders(database)
        assert (order.state, order.attempts) == (EventReportState.DEAD, 2)
        assert "cannot be reached" in (order.error or "")


def test_the_same_question_again_is_answered_again(node: Provider) -> None:
    for _ in range(2):
        assert node.ask((CR, "1.2"), (CR, "1.3")) == 0x0000
        assert node.answer()
    assert len(orders(node.database)) == 1
    assert len(node.modality.reports) == 2
    assert outcomes(node.database, AuditAction.COMMITMENT_ASKED) == ["accepted", "repeated"]


def test_another_question_under_the_same_transaction_uid_fails(node: Provider) -> None:
    ds = chest_dataset()
    store(node.listener.port, ds)
    node.ask((CR, "1.2"))
    assert node.ask((CR, ds.SOPInstanceUID)) == 0x0000
    while node.answer():
        pass
    reasons = [[it.reason for it in report.failed] for report in node.modality.reports]
    assert reasons == [[0x0112], [0x0131]]


def test_what_is_no_proper_question_is_refused(node: Provider) -> None:
    assert node.ask((CR, "1.2"), action_type=2) == 0x0123
    assert node.ask((CR, "1.2"), instance_uid="1.2.3") == 0x0112
    assert node.ask(uid="2.25.7") == 0x0115  # about nothing
    assert node.ask((CR, "1.2"), uid="") == 0x0115
    assert node.ask((CR, "no uid")) == 0x0115
    assert orders(node.database) == []
    assert outcomes(node.database, AuditAction.COMMITMENT_ASKED) == ["refused"] * 5


def test_a_question_about_too_many_is_refused(node: Provider) -> None:
    many = tuple(Reference(CR, f"1.2.{number}") for number in range(MAX_REFERENCES + 1))
    with pytest.raises(TooManyReferencesError) as refused:
        accept_order(node.database, node.settings, "CR1", Question("2.25.7", many))
    assert commitment_status(refused.value) == 0x0213
    accept_order(node.database, node.settings, "CR1", Question("2.25.7", many[1:]))
    assert [len(order.instances) for order in orders(node.database)] == [MAX_REFERENCES]


def test_who_may_ask(start: Callable[..., Provider]) -> None:
    assert start(calling_aets=["CR1"]).ask((CR, "1.2")) == 0x0000
    assert start(calling_aets=["OTHER"]).ask((CR, "1.2")) == 0x0124
    assert start(peers=[]).ask((CR, "1.2")) == 0x0124  # no address to answer to
    assert start(enabled=False).ask((CR, "1.2")) is None  # the context is refused


def test_an_answer_to_a_node_that_asks_nobody_has_no_role(
    start: Callable[..., Provider],
) -> None:
    """PS3.7 D.3.3.4: a requestor that would be the SCP finds no SCU."""
    with pytest.raises(AssertionError), calling_back(start().listener.port):
        pass


def test_storing_goes_on_beside_it(node: Provider) -> None:
    assert store(node.listener.port, chest_dataset()) == 0x0000
    with associate(node.listener.port) as assoc:
        assert assoc.is_established
    assert len(instances(node.database)) == 1


def test_a_question_with_a_broken_data_set_is_refused(node: Provider) -> None:
    broken = Dataset()
    broken.TransactionUID = "2.25.7"
    assert node.modality.ask(node.listener.port, broken) == 0x0115


def test_a_refusal_that_cannot_be_written_is_still_the_answer(
    node: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        msg = "the disk is full"
        raise OSError(msg)

    monkeypatch.setattr(handlers, "record_refusal", fail)
    assert node.ask((CR, "1.2"), uid="no UID") == 0x0115
