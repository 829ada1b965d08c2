"""C-STORE against a real listener: what is answered, what is on disk, what is in the rows."""

import hashlib
import os
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from builders import chest_dataset
from rows import count, instances, outcomes
from senders import CR, associate, encoded, send_half, store, store_bytes
from servers import wait_until
from sqlalchemy import text

from dicom_node.contexts import ACCEPTED
from dicom_node.ledger import compute
from dicom_node.recovery import recover_orphans
from dicom_node.spool import Spool
from models.audit import AuditAction
from models.job import Job
from models.states import InstanceState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


def test_success_means_bytes_rows_and_job(listen: Listen) -> None:
    node = listen()
    ds = chest_dataset(PatientID="P1")
    assert store(node.port, ds) == 0x0000
    (instance,) = instances(node.database)
    assert instance.state is InstanceState.QUEUED
    assert instance.data_set_sha256 == hashlib.sha256(encoded(ds)).hexdigest()
    assert [str(path.relative_to(node.settings.spool_dir)) for path in node.spooled] == [
        instance.storage_key
    ]
    assert node.spooled[0].read_bytes().endswith(encoded(ds))
    assert count(node.database, Job) == 1
    assert node.incoming == []


def test_the_same_object_again_adds_nothing(listen: Listen) -> None:
    node = listen()
    for _ in range(3):
        assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    assert len(instances(node.database)) == len(node.spooled) == count(node.database, Job) == 1
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == [
        "stored",
        "duplicate",
        "duplicate",
    ]
    assert all(line.balanced for line in compute(node.database, node.settings))


def test_eight_associations_with_the_same_object_make_one_row(listen: Listen) -> None:
    node = listen()
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: store(node.port, chest_dataset(PatientID="P1")), range(8))
        )
    assert answers == [0x0000] * 8
    assert len(instances(node.database)) == len(node.spooled) == count(node.database, Job) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"SOPInstanceUID": "1.2.3.4.5"}, 0xA900),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, 0xA900),
        ({"StudyInstanceUID": None}, 0xC000),
        ({"SeriesInstanceUID": ""}, 0xC000),
        ({"StudyInstanceUID": "../../etc/passwd"}, 0xC000),
        ({"StudyInstanceUID": "1." + "2" * 70}, 0xC000),
    ],
)
def test_a_data_set_that_is_not_what_the_command_said_is_refused(
    listen: Listen, change: dict[str, str | None], status: int
) -> None:
    node = listen()
    told = chest_dataset(PatientID="P1")
    sent = chest_dataset(PatientID="P1", **change)
    with associate(node.port) as assoc:
        answer = store_bytes(assoc, CR, str(told.SOPInstanceUID), encoded(sent))
        assert answer == status
        assert assoc.send_c_store(told).Status == 0x0000  # the association lives on
    assert len(instances(node.database)) == len(node.spooled) == 1
    assert node.incoming == []
    assert len(outcomes(node.database, AuditAction.INSTANCE_REFUSED)) == 1


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"GET / HTTP/1.1\r\n\r\n", b"\x08\x00\x05\x00CS\xff\xff", bytes(range(256)) * 500],
)
def test_garbage_is_not_understood(listen: Listen, garbage: bytes) -> None:
    node = listen()
    with associate(node.port) as assoc:
        assert store_bytes(assoc, CR, "1.2.3", garbage) == 0xC000
        assert assoc.is_established
    assert instances(node.database) == node.spooled == node.incoming == []


def test_a_database_that_cannot_be_written_asks_the_sender_to_try_again(listen: Listen) -> None:
    node = listen()
    with node.database.write() as session:
        session.execute(text("ALTER TABLE audit_event RENAME TO away"))
    ds = chest_dataset(PatientID="P1")
    assert store(node.port, ds) == 0xA700
    with node.database.write() as session:
        session.execute(text("ALTER TABLE away RENAME TO audit_event"))
    assert instances(node.database) == []
    assert store(node.port, ds) == 0x0000
    # The first try's file has no row: the sweep finds a duplicate and removes it.
    assert len(node.spooled) == 2
    spool = Spool(node.settings.image_store, 0)
    assert recover_orphans(node.database, node.settings, spool, 0.0) == 1
    assert len(instances(node.database)) == len(node.spooled) == 1
    assert all(line.balanced for line in compute(node.database, node.settings))


def test_a_file_whose_listener_died_before_the_commit_is_recovered(listen: Listen) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    with node.database.write() as session:
        for table in ("job", "instance", "series", "study", "audit_event"):
            session.execute(text(f"DELETE FROM {table}"))  # noqa: S608  names from this line
    lines = {line.name: line for line in compute(node.database, node.settings)}
    assert lines["spool files"].parts["arriving"] == 1
    os.utime(node.spooled[0], (0, 0))
    lines = {line.name: line for line in compute(node.database, node.settings)}
    assert not lines["spool files"].balanced
    spool = Spool(node.settings.image_store, 0)
    os.utime(node.spooled[0])
    assert recover_orphans(node.database, node.settings, spool, 3600.0) == 0  # may be in flight
    assert recover_orphans(node.database, node.settings, spool, 0.0) == 1
    assert [row.state for row in instances(node.database)] == [InstanceState.QUEUED]
    assert outcomes(node.database, AuditAction.INSTANCE_RECOVERED) == ["stored"]
    assert all(line.balanced for line in compute(node.database, node.settings))


def test_below_the_floor_associations_are_rejected_as_congested(listen: Listen) -> None:
    node = listen(min_free_bytes=1 << 60)
    with associate(node.port) as assoc:
        assert assoc.is_rejected
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    wait_until(
        lambda: outcomes(node.database, AuditAction.ASSOCIATION_REJECTED) == ["congested"],
        10,
        "the audit event",
    )


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"require_called_aet": True, "ae_title": "OTHER"}, (1, 1, 7)),
        ({"allowed_calling_aets": ["FRIEND"]}, (1, 1, 3)),
    ],
)
def test_unknown_ae_titles_are_rejected_and_audited(
    listen: Listen, settings: dict[str, object], reason: tuple[int, int, int]
) -> None:
    node = listen(**settings)
    with associate(node.port) as assoc:
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == reason
    wait_until(
        lambda: outcomes(node.database, AuditAction.ASSOCIATION_REJECTED) == ["refused"],
        10,
        "the audit event",
    )


def test_an_ae_that_may_not_store_is_told_so(listen: Listen) -> None:
    node = listen(store_calling_aets=["FRIEND"])
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0124
    assert store(node.port, chest_dataset(PatientID="P1"), calling="FRIEND") == 0x0000
    assert len(instances(node.database)) == len(node.spooled) == 1


def test_an_abort_in_the_middle_of_a_data_set_leaves_nothing(listen: Listen) -> None:
    node = listen()
    with associate(node.port) as assoc:
        send_half(assoc, encoded(chest_dataset(PatientID="P1")))
        wait_until(lambda: len(node.incoming) == 1, 10, "the first half to arrive")
        assoc.abort()
    wait_until(lambda: node.incoming == [], 10, "the half file to go")
    assert len(node.listener.reception) == 0
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000


def test_stopping_lets_a_running_association_finish_and_takes_no_new_one(listen: Listen) -> None:
    node = listen()
    with associate(node.port) as assoc:
        stopping = threading.Thread(target=node.listener.stop)
        stopping.start()
        wait_until(lambda: not _accepts(node.port), 10, "the port to close")
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
        assoc.release()
        stopping.join(10)
        assert not stopping.is_alive()
    assert len(node.spooled) == 1


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_sender_that_falls_silent_in_a_data_set_is_dropped(listen: Listen) -> None:
    node = listen(network_timeout_seconds=1)
    with associate(node.port) as assoc:
        send_half(assoc, encoded(chest_dataset(PatientID="P1")))
        wait_until(lambda: assoc.is_aborted, 20, "the listener to abort")
    wait_until(lambda: node.incoming == [], 10, "the half file to go")
    assert instances(node.database) == []


def test_probes_that_connect_and_say_nothing_block_nobody(listen: Listen) -> None:
    node = listen()
    probes = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(20)]
    try:
        started = time.monotonic()
        assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
        assert time.monotonic() - started < 40
    finally:
        for probe in probes:
            probe.close()


def test_every_transfer_syntax_of_the_table_is_accepted(listen: Listen) -> None:
    node = listen()
    for sop_class, syntaxes in ACCEPTED.items():
        pairs = [(str(sop_class), str(syntax)) for syntax in syntaxes]
        with associate(node.port, *pairs) as assoc:
            accepted = {
                (cx.abstract_syntax, cx.transfer_syntax[0]) for cx in assoc.accepted_contexts
            }
            assert accepted == set(pairs)


def test_a_disk_that_fills_while_receiving_is_answered_out_of_resources(
    listen: Listen, small_disk: Path
) -> None:
    node = listen(data_dir=small_disk)
    big = chest_dataset(PatientID="P1", pixels=chest_dataset().pixel_array.repeat(40, axis=0))
    assert len(encoded(big)) > 4_000_000
    with associate(node.port) as assoc:
        assert assoc.send_c_store(big).Status == 0xA700
        small = chest_dataset(PatientID="P1", SOPInstanceUID="1.2.77")
        assert assoc.send_c_store(small).Status == 0x0000
    assert node.incoming == []
    assert len(node.spooled) == 1
