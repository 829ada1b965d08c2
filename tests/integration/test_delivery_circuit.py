"""Destinations that are away: paused as a whole, probed by one object, back by themselves."""

import logging
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from delivery_bench import Bench, storing_scp
from pynetdicom.events import Event
from rows import add_destination, open_database, outcomes
from servers import free_port
from sqlalchemy import update

from dicom_node import circuit
from dicom_node.backoff import backoff
from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.demo.pacs import StoragePacs
from dicom_node.errors import OperatorError
from dicom_node.retrying import retry
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.sections import DeliverySettings, DestinationSettings
from models.settings import load_settings
from models.states import CircuitState, DeliveryState

# pynetdicom leaves the socket of a refused connection to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FAILURE = circuit.Failure("away")
STUDIES = 4


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=database_url,
        delivery={"max_attempts": 2, "timeout_seconds": 2, "circuit_failures": 3},
    )
    with open_database(database_url) as database:
        yield Bench(database, settings, STUDIES)


def _away(bench: Bench, failures: int) -> tuple[Deliverer, int]:
    """Return a deliverer whose destination was not reached so often, and the port."""
    port = free_port()
    deliverer = bench.deliverer(port)
    for _ in range(failures):
        bench.make_due()
        assert deliverer.step()
    return deliverer, port


def test_the_circuit_opens_after_so_many_failures_and_nothing_is_claimed(bench: Bench) -> None:
    deliverer, _ = _away(bench, 2)
    assert bench.destination().state is CircuitState.CLOSED
    bench.make_due()
    assert deliverer.step()
    row = bench.destination()
    assert (row.state, row.failures) == (CircuitState.OPEN, 3)
    assert row.retry_at is not None
    assert row.opened_at is not None
    assert 0 < (row.retry_at - utc_now()).total_seconds() <= 12
    assert "cannot be reached" in (row.problem or "")
    for _ in range(3):
        assert not deliverer.step()
    assert outcomes(bench.database, AuditAction.DESTINATION_CIRCUIT) == ["open"]
    assert outcomes(bench.database, AuditAction.ARTIFACT_SENT) == []


def test_an_outage_uses_up_no_attempt_however_long_it_lasts(bench: Bench, tmp_path: Path) -> None:
    deliverer, port = _away(bench, 3 * bench.settings.delivery.max_attempts)
    assert bench.states() == {DeliveryState.DUE}
    assert {row.attempts for row in bench.all_rows()} == {0}
    pacs = StoragePacs(tmp_path / "back", "PACS", port)
    try:
        bench.deliver(deliverer)
        assert pacs.received == len(pacs.objects()) == 2 * STUDIES
    finally:
        pacs.close()
    row = bench.destination()
    assert (row.state, row.failures, row.retry_at, row.problem) == (
        CircuitState.CLOSED,
        0,
        None,
        None,
    )
    assert outcomes(bench.database, AuditAction.DESTINATION_CIRCUIT) == ["open", "closed"]


def test_after_the_pause_one_object_alone_is_the_probe(bench: Bench, tmp_path: Path) -> None:
    deliverer, port = _away(bench, 3)
    pacs = StoragePacs(tmp_path / "back", "PACS", port)
    try:
        bench.make_due()
        deliverer.step()
        assert pacs.received == 1
        assert bench.destination().state is CircuitState.CLOSED
        deliverer.step()  # the rest of the segmentations, at once
        assert pacs.received == STUDIES + 1  # and the report of the one that is there
    finally:
        pacs.close()


def test_the_pauses_grow_under_their_cap_and_are_never_in_step(bench: Bench) -> None:
    destination = add_destination(bench.database, "PACS", 104)
    settings = DeliverySettings(backoff_seconds=2, circuit_cap_seconds=60, circuit_failures=3)
    pauses = []
    for _ in range(12):
        with bench.database.write() as session:
            standing = circuit.note_failure(session, destination, settings, FAILURE)
            assert standing.retry_at is not None
            pauses.append((standing.retry_at - utc_now()).total_seconds())
        bench.make_due()
        with bench.database.write() as session:
            circuit.enter(session, destination, settings)
    for failures, pause in enumerate(pauses, start=1):
        middle = min(60, 2 * 2 ** (failures - 1))
        assert 0.45 * middle <= pause <= 1.5 * middle
    assert len({round(pause, 3) for pause in pauses[-6:]}) == 6


def test_one_process_alone_gets_the_probe(bench: Bench) -> None:
    deliverer, _ = _away(bench, 3)
    destination = bench.destination().id
    bench.make_due()
    settings = bench.settings.delivery
    won: list[int] = []

    def probe() -> None:
        with bench.database.write() as session:
            won.append(circuit.enter(session, destination, settings))

    threads = [threading.Thread(target=probe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [0] * 7 + [1]
    assert bench.destination().state is CircuitState.HALF_OPEN
    assert not deliverer.step()  # somebody else is at it
    bench.make_due()  # who died of it
    assert deliverer.step()
    assert bench.destination().state is CircuitState.OPEN


def test_a_pause_survives_a_restart_and_holds_for_every_process(bench: Bench) -> None:
    _away(bench, 3)
    sender = CStoreSender("NODE", 20.0)
    again = Deliverer(bench.settings, bench.database, sender, bench.destination().id)
    assert not again.step()
    assert bench.destination().failures == 3


def test_a_clock_that_was_put_back_prolongs_no_pause(bench: Bench, tmp_path: Path) -> None:
    deliverer, port = _away(bench, 3)
    ahead = utc_now() + timedelta(hours=1)
    with bench.database.write() as session:
        session.execute(update(Destination).values(retry_at=ahead))
        session.execute(update(Delivery).values(next_attempt_at=ahead))
        lost = {"state": DeliveryState.SENDING, "lease_owner": "gone", "lease_until": ahead}
        session.execute(update(Delivery).where(Delivery.id == 1).values(**lost))
    pacs = StoragePacs(tmp_path / "back", "PACS", port)
    try:
        for _ in range(10):
            deliverer.step()
        assert len(pacs.objects()) == 2 * STUDIES
    finally:
        pacs.close()


def test_refusals_of_objects_open_no_circuit(bench: Bench) -> None:
    with storing_scp(lambda _: 0xA700) as port:
        deliverer = bench.deliverer(port)
        bench.deliver(deliverer)
    assert bench.states() == {DeliveryState.DEAD}  # both attempts, of each
    assert (bench.destination().state, bench.destination().failures) == (CircuitState.CLOSED, 0)


def test_an_object_that_breaks_the_receiver_keeps_no_other_back(bench: Bench) -> None:
    """It is not the probe again before everything else was tried."""
    poison = bench.uid(bench.seg_id)
    stored: list[str] = []

    def answer(event: Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid == poison:
            event.assoc.abort()
        else:
            stored.append(uid)
        return 0x0000

    with storing_scp(answer) as port:
        deliverer = bench.deliverer(port)
        for _ in range(2):  # whatever was before, it is first now
            with bench.database.write() as session:
                session.execute(update(Destination).values(failures=2))
            deliverer.step()
        bench.deliver(deliverer)
    assert len(stored) == len(set(stored)) == 2 * STUDIES - 1
    dead = [row for row in bench.all_rows() if row.state is DeliveryState.DEAD]
    assert [(row.artifact_id, row.attempts) for row in dead] == [(bench.seg_id, 2)]


def test_a_destination_that_is_away_is_one_line_in_the_log_not_one_per_object(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dicom_node"):
        deliverer, port = _away(bench, 20)
        pacs = StoragePacs(tmp_path / "back", "PACS", port)
        try:
            bench.deliver(deliverer)
        finally:
            pacs.close()
    lines = [it for it in caplog.records if it.name.startswith("dicom_node")]
    warnings = [it.getMessage() for it in lines if it.levelno >= logging.WARNING]
    (opened,) = warnings
    assert opened.startswith("destination PACS is paused after 3 failures, next try in ")
    assert lines[-1].getMessage().startswith("destination PACS answers again, after ")
    assert len(lines) == 4  # with the two failures before


def test_retry_ends_the_pause_of_one_destination(bench: Bench, tmp_path: Path) -> None:
    deliverer, port = _away(bench, 3)
    with pytest.raises(OperatorError, match="no destination is named 'NOBODY'"):
        retry(bench.database, destination="NOBODY")
    assert retry(bench.database, destination="PACS") == 0
    pacs = StoragePacs(tmp_path / "back", "PACS", port)
    try:
        assert deliverer.step()
        assert pacs.received == 1
    finally:
        pacs.close()


def test_another_address_in_the_settings_ends_the_pause(bench: Bench) -> None:
    _away(bench, 3)
    where = {"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1"}
    for port, is_paused in ((bench.destination().port, True), (free_port(), False)):
        told = [DestinationSettings.model_validate({**where, "port": port})]
        settings = bench.settings.model_copy(update={"destinations": tuple(told)})
        synchronise_destinations(bench.database, settings)
        allowed = circuit.allowance(bench.destination(), settings.delivery)
        assert allowed == (0 if is_paused else 1)


def test_what_waits_for_one_destination_slows_no_other(
    bench: Bench, storage_scp: StoragePacs
) -> None:
    deliverer, _ = _away(bench, 3)
    other = add_destination(bench.database, "OTHER", storage_scp.port)
    bench.plan(other)
    there = Deliverer(bench.settings, bench.database, CStoreSender("NODE", 20.0), other)
    while there.step():
        pass
    assert not deliverer.step()
    assert len(storage_scp.objects()) == 2 * STUDIES


def test_many_that_failed_together_do_not_come_back_together() -> None:
    settings = DeliverySettings(backoff_seconds=2, backoff_cap_seconds=900)
    waits = sorted(backoff(settings, 8) for _ in range(1000))
    in_tenths = [sum(1 for it in waits if low <= it < low + 25.6) for low in range(128, 384, 26)]
    assert max(in_tenths) < 200  # of 1000, over the whole of 128 s to 384 s
