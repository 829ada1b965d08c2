"""Delivery to real storage SCPs: good ones, refusing ones, absent ones, hanging ones."""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from delivery_bench import Bench, storing_scp
from pynetdicom.events import Event
from rows import SR, open_database
from servers import free_port
from sqlalchemy import select, update

from dicom_node.delivery import Deliverer, backoff, synchronise_destinations
from dicom_node.demo.pacs import StoragePacs
from dicom_node.retrying import retry
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import Study
from models.result import Artifact
from models.sections import DeliverySettings, DestinationSettings
from models.settings import Settings, load_settings
from models.states import DeliveryState


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Bench]:
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=database_url,
        delivery={"max_attempts": 3, "timeout_seconds": 2},
    )
    with open_database(database_url) as database:
        yield Bench(database, settings)


def test_segmentation_first_then_report_each_once(bench: Bench, storage_scp: StoragePacs) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    assert deliverer.step()
    rows = bench.rows()
    assert (rows["seg"].state, rows["sr"].state) == (DeliveryState.SENT, DeliveryState.DUE)
    assert deliverer.step()
    assert bench.rows()["sr"].state is DeliveryState.SENT
    assert not deliverer.step()
    assert storage_scp.received == len(storage_scp.objects()) == 2


def test_bytes_arrive_as_they_were_stored(bench: Bench, storage_scp: StoragePacs) -> None:
    bench.deliverer(storage_scp.port).step()
    (arrived,) = storage_scp.objects()
    with bench.database.read() as session:
        artifact = session.get_one(Artifact, bench.seg_id)
    sent = (bench.settings.artifact_dir / artifact.storage_key).read_bytes()
    received = next(path.read_bytes() for path in storage_scp._folder.glob("*/*.dcm"))
    assert arrived.sop_instance_uid == artifact.sop_instance_uid
    assert received[-100_000:] == sent[-100_000:]


@pytest.mark.parametrize("status", [0x0000, 0x0111, 0xB000, 0xB006, 0xB007])
def test_success_duplicate_and_warnings_count_as_stored(bench: Bench, status: int) -> None:
    with storing_scp(lambda _: status) as port:
        bench.deliverer(port).step()
    row = bench.rows()["seg"]
    assert (row.state, row.status) == (DeliveryState.SENT, status)


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110])
def test_out_of_resources_is_tried_again_later_and_in_the_end_dead(
    bench: Bench, status: int
) -> None:
    with storing_scp(lambda _: status) as port:
        deliverer = bench.deliverer(port)
        deliverer.step()
        row = bench.rows()["seg"]
        assert (row.state, row.status, row.attempts) == (DeliveryState.DUE, status, 1)
        assert row.next_attempt_at > utc_now()
        assert not deliverer.step()  # not before its time
        for _ in range(2):
            bench.make_due()
            deliverer.step()
    row = bench.rows()["seg"]
    assert (row.state, row.attempts) == (DeliveryState.DEAD, 3)
    assert row.error == f"C-STORE was answered 0x{status:04X}"


def test_a_pacs_that_learns_our_ae_title_gets_everything(
    bench: Bench, storage_scp: StoragePacs
) -> None:
    """A permanent rejection of the association waits like an outage, and says what to correct."""
    deliverer = bench.deliverer(storage_scp.port)
    storage_scp._ae.require_calling_aet = ["SOMEBODY"]
    for _ in range(bench.settings.delivery.max_attempts + 2):
        bench.make_due()
        deliverer.step()
    row = bench.rows()["seg"]
    assert (row.state, row.attempts) == (DeliveryState.DUE, 0)
    assert "Rejected Permanent: Calling AE title not recognised" in (row.error or "")
    assert bench.destination().problem == row.error
    storage_scp._ae.require_calling_aet = ["NODE"]  # the administrator of the PACS corrects it
    bench.deliver(deliverer)
    assert bench.states() == {DeliveryState.SENT}


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122, 0x0124])
def test_what_will_never_be_taken_is_not_tried_again(bench: Bench, status: int) -> None:
    with storing_scp(lambda _: status) as port:
        deliverer = bench.deliverer(port)
        deliverer.step()
        bench.make_due()
        assert bench.rows()["seg"].state is DeliveryState.REJECTED
        deliverer.step()  # the report goes though its segmentation was refused
    assert bench.rows()["sr"].state is DeliveryState.REJECTED


def test_a_pacs_that_takes_reports_but_no_segmentations_gets_the_report(bench: Bench) -> None:
    with storing_scp(lambda _: 0x0000, (SR,)) as port:
        deliverer = bench.deliverer(port)
        deliverer.step()
        deliverer.step()
    rows = bench.rows()
    assert (rows["seg"].state, rows["sr"].state) == (DeliveryState.REJECTED, DeliveryState.SENT)
    assert "does not accept this SOP Class" in (rows["seg"].error or "")


# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_absent_pacs_is_tried_again_and_gets_everything_when_it_is_back(
    bench: Bench, tmp_path: Path
) -> None:
    port = free_port()
    deliverer = bench.deliverer(port)
    deliverer.step()
    row = bench.rows()["seg"]
    assert (row.state, row.status) == (DeliveryState.DUE, None)
    assert "cannot be reached" in (row.error or "")
    pacs = StoragePacs(tmp_path / "back", "PACS", port)
    try:
        bench.make_due()
        deliverer.step()
        deliverer.step()
        assert len(pacs.objects()) == 2
    finally:
        pacs.close()


def test_a_pacs_that_hangs_ends_in_a_timeout(bench: Bench) -> None:
    release = threading.Event()

    def hang(_event: Event) -> int:
        release.wait(60)
        return 0x0000

    with storing_scp(hang) as port:
        started = time.monotonic()
        bench.deliverer(port, seconds=2.0).step()
        assert time.monotonic() - started < 40
        release.set()
    assert bench.rows()["seg"].state is DeliveryState.DUE


def test_a_sender_that_died_in_the_middle_is_followed_by_another(
    bench: Bench, storage_scp: StoragePacs
) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    with bench.database.write() as session:
        past = utc_now() - timedelta(seconds=1)
        values = {"state": DeliveryState.SENDING, "lease_owner": "gone", "lease_until": past}
        session.execute(update(Delivery).values(**values))
    assert deliverer.step()
    assert {row.state for row in bench.rows().values()} == {DeliveryState.DUE}
    deliverer.step()
    deliverer.step()
    assert {row.state for row in bench.rows().values()} == {DeliveryState.SENT}


def test_a_result_that_comes_after_the_lease_was_lost_changes_nothing(bench: Bench) -> None:
    def steal(_event: Event) -> int:
        with bench.database.write() as session:
            session.execute(update(Delivery).values(lease_owner="somebody else"))
        return 0x0000

    with storing_scp(steal) as port:
        bench.deliverer(port).step()
    assert bench.rows()["seg"].state is DeliveryState.SENDING


@pytest.mark.parametrize("name", ["no.such.host.invalid", "256.256.256.256"])
def test_a_host_that_does_not_resolve_is_no_attempt_and_has_a_reason(
    bench: Bench, name: str
) -> None:
    deliverer = bench.deliverer(104)
    with bench.database.write() as session:
        session.execute(update(Destination).values(host=name))
    deliverer.step()
    row = bench.rows()["seg"]
    assert (row.state, row.attempts) == (DeliveryState.DUE, 0)
    assert "cannot be reached" in (row.error or "")


def test_one_damaged_object_keeps_no_other_back(bench: Bench, storage_scp: StoragePacs) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    with bench.database.read() as session:
        key = session.get_one(Artifact, bench.seg_id).storage_key
    (bench.settings.artifact_dir / key).write_bytes(b"")
    deliverer.step()
    deliverer.step()
    rows = bench.rows()
    assert (rows["seg"].state, rows["sr"].state) == (DeliveryState.REJECTED, DeliveryState.SENT)
    assert "damaged" in (rows["seg"].error or "")


def test_a_sender_that_breaks_leaves_nothing_in_sending(bench: Bench) -> None:
    class Broken:
        def send(self, *_: object) -> Iterator[object]:
            raise ZeroDivisionError
            yield  # makes it a generator

    deliverer = bench.deliverer(104)
    deliverer._sender = Broken()
    with pytest.raises(ZeroDivisionError):
        deliverer.step()
    assert {row.state for row in bench.rows().values()} == {DeliveryState.DUE}


def test_two_deliverers_at_once_send_each_object_once(
    bench: Bench, storage_scp: StoragePacs
) -> None:
    first = bench.deliverer(storage_scp.port)
    with bench.database.read() as session:
        destination = session.scalars(select(Destination.id)).one()
    second = Deliverer(bench.settings, bench.database, CStoreSender("NODE", 20.0), destination)
    for _ in range(3):
        threads = [threading.Thread(target=each.step) for each in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert storage_scp.received == 2


def test_every_attempt_is_audited(bench: Bench, storage_scp: StoragePacs) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    deliverer.step()
    deliverer.step()
    with bench.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.ARTIFACT_SENT)
        events = session.scalars(query).all()
    assert [(event.outcome, event.status) for event in events] == [("sent", 0), ("sent", 0)]
    with bench.database.read() as session:
        study = session.scalars(select(Study)).one()
    told = {(each.called_aet, each.study_instance_uid, each.patient_id) for each in events}
    assert told == {(bench.destination().ae_title, study.study_instance_uid, "P1")}


def test_back_off_doubles_under_its_cap() -> None:
    settings = DeliverySettings(backoff_seconds=2, backoff_cap_seconds=60)
    for attempts, middle in ((1, 2), (2, 4), (3, 8), (10, 60), (500, 60)):
        waits = [backoff(settings, attempts) for _ in range(200)]
        assert 0.5 * middle <= min(waits) < max(waits) <= 1.5 * middle


def test_destinations_follow_the_settings(database_url: str, tmp_path: Path) -> None:
    def told(*names: str) -> Settings:
        where: list[Any] = [
            {"name": name, "ae_title": name, "host": "h", "port": 104} for name in names
        ]
        return load_settings(None, data_dir=tmp_path, destinations=where)

    with ExitStack() as stack:
        database = stack.enter_context(open_database(database_url))
        synchronise_destinations(database, told("A", "B"))
        synchronise_destinations(database, told("B", "C"))
        with database.read() as session:
            rows = {row.name: row.enabled for row in session.scalars(select(Destination))}
    assert rows == {"A": False, "B": True, "C": True}


def test_what_was_refused_is_sent_again_on_demand(bench: Bench, storage_scp: StoragePacs) -> None:
    deliverer = bench.deliverer(storage_scp.port)
    refused = bench.rows()["seg"].id
    with bench.database.write() as session:
        values = {"state": DeliveryState.REJECTED, "attempts": 1}
        session.execute(update(Delivery).values(**values))
    assert retry(bench.database, refused + 1000) == 0
    assert retry(bench.database, refused) == 1
    assert retry(bench.database) == 1  # the report
    deliverer.step()
    deliverer.step()
    assert {row.state for row in bench.rows().values()} == {DeliveryState.SENT}


def test_what_was_due_to_a_removed_destination_ends(bench: Bench) -> None:
    bench.deliverer(104)
    synchronise_destinations(bench.database, bench.settings)
    assert {row.state for row in bench.rows().values()} == {DeliveryState.DEAD}


def test_two_receivers_may_share_an_ae_title_but_not_a_name(tmp_path: Path) -> None:
    parsed = [DestinationSettings.parse(f"PACS@10.0.0.{end}:104") for end in (1, 2)]
    settings = load_settings(None, data_dir=tmp_path, destinations=parsed)
    assert len({each.name for each in settings.destinations}) == 2
    with pytest.raises(ValueError, match="must differ in their names"):
        load_settings(None, data_dir=tmp_path, destinations=[parsed[0], parsed[0]])
