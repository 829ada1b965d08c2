"""Deliveries whose sender was interrupted: nothing waits for the end of a long lease."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from delivery_bench import Bench
from rows import open_database
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.demo.pacs import StoragePacs
from dicom_node.senders.base import Contact, Parcel, Receiver, SendResult, Verdict
from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.delivery import Delivery
from models.sections import DestinationSettings
from models.settings import load_settings
from models.states import DeliveryState

STUDIES = 3


class Scripted:
    """A sender that does what it is told to with each object."""

    def __init__(self, send: Callable[[Parcel], SendResult]) -> None:
        self._send = send
        self.closed = False

    def send(self, _receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        try:
            for parcel in parcels:
                yield self._send(parcel)
        finally:
            self.closed = True

    def echo(self, _receiver: Receiver) -> str | None:
        return None


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    settings = load_settings(None, data_dir=tmp_path / "data", database_url=database_url)
    with open_database(database_url) as database:
        yield Bench(database, settings, STUDIES)


def test_after_an_outage_of_the_database_it_goes_on_at_once(
    bench: Bench, storage_scp: StoragePacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    with monkeypatch.context() as patch:

        def fail(*_: object) -> None:
            raise OperationalError(None, {}, ConnectionError("gone"))

        patch.setattr(Deliverer, "_record", fail)
        with pytest.raises(OperationalError):
            deliverer.step()
    assert DeliveryState.SENDING in bench.states()
    while deliverer.step():
        pass
    assert bench.states() == {DeliveryState.SENT}


def test_nobody_takes_back_what_another_one_is_sending(bench: Bench) -> None:
    """It was left behind when this one looked, and another one has claimed it since."""
    deliverer = bench.deliverer(104)
    soon = utc_now() + timedelta(seconds=60)
    with bench.database.write() as session:
        taken = {"state": DeliveryState.SENDING, "lease_owner": "other", "lease_until": soon}
        session.execute(update(Delivery).values(**taken))
    deliverer._take_back(bench.all_rows()[0].id)
    assert bench.states() == {DeliveryState.SENDING}


def test_told_to_stop_it_ends_after_the_object_on_its_way(bench: Bench) -> None:
    stop = threading.Event()

    def send(parcel: Parcel) -> SendResult:
        stop.set()
        return SendResult(parcel.delivery_id, Verdict.SENT, 0)

    sender = Scripted(send)
    destination = bench.deliverer(104)._destination_id
    deliverer = Deliverer(bench.settings, bench.database, sender, destination, stop)
    assert deliverer.step()
    rows = bench.all_rows()
    assert sorted(row.state for row in rows) == sorted(
        [DeliveryState.SENT, *[DeliveryState.DUE] * (2 * STUDIES - 1)]
    )
    assert {row.attempts for row in rows if row.state is DeliveryState.DUE} == {0}
    assert sender.closed
    assert bench.destination().failures == 0


def test_what_was_on_its_way_to_a_receiver_that_is_removed_is_given_up(bench: Bench) -> None:
    kept = DestinationSettings(name="PACS", ae_title="PACS", host="127.0.0.1", port=104)
    with_it = bench.settings.model_copy(update={"destinations": (kept,)})
    synchronise_destinations(bench.database, with_it)
    bench.plan(bench.destination().id)
    with bench.database.write() as session:
        session.execute(update(Delivery).values(state=DeliveryState.SENDING, lease_owner="killed"))
    synchronise_destinations(bench.database, bench.settings)
    assert {(row.state, row.error) for row in bench.all_rows()} == {
        (DeliveryState.DEAD, "the destination was removed")
    }


@pytest.mark.parametrize("contact", [Contact.UNREACHED, Contact.ANSWERED])
def test_a_long_reason_is_cut_and_keeps_nothing_back(bench: Bench, contact: Contact) -> None:
    def send(parcel: Parcel) -> SendResult:
        return SendResult(parcel.delivery_id, Verdict.RETRY, error="x" * 5000, contact=contact)

    deliverer = bench.deliverer(104)
    deliverer._sender = Scripted(send)
    deliverer.step()
    assert {row.state for row in bench.all_rows()} == {DeliveryState.DUE}
    assert {len(row.error or "") for row in bench.all_rows()} <= {0, 400}


def test_a_long_host_name_fits_into_the_audit(bench: Bench) -> None:
    with bench.database.write() as session:
        record(session, AuditAction.COMMITMENT_REPORTED, "accepted", peer=f"{'h' * 253}:104")
    with bench.database.read() as session:
        assert len(session.scalars(select(AuditEvent.peer)).one() or "") == 64
