"""What comes over an association, in every cut that PS3.8 allows and in some that it does not.

These tests also notice when a new pynetdicom no longer uses what `dicom_node.reader` replaces.
"""

import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from builders import chest_dataset
from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE
from pynetdicom.association import MODE_REQUESTOR, Association
from pynetdicom.dimse_messages import C_ECHO_RQ, C_STORE_RQ
from pynetdicom.dimse_primitives import C_ECHO
from rows import instances
from senders import CR, associate, encoded, store, store_request
from servers import wait_until

from dicom_node.pdu import StoreCommand, parse_store_command, store_response
from dicom_node.reader import _Checkpoint

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
Pdv = tuple[int, int, bytes]  # context ID, message control header, fragment

VERIFICATION = "1.2.840.10008.1.1"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough: nothing here depends on it."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _pdu(pdvs: Iterable[Pdv]) -> bytes:
    items = b"".join(
        struct.pack(">LBB", len(fragment) + 2, context, control) + fragment
        for context, control, fragment in pdvs
    )
    return b"\x04\x00" + struct.pack(">L", len(items)) + items


def _parts(assoc: Association, ds: Dataset) -> tuple[bytes, bytes, int]:
    """Return command set, data set and context ID of a C-STORE-RQ."""
    data = encoded(ds)
    message = C_STORE_RQ()
    message.primitive_to_message(store_request(CR, str(ds.SOPInstanceUID), data))
    context = assoc.accepted_contexts[0].context_id or 1
    pdus = list(message.encode_msg(context, 0))
    return pdus[0].presentation_data_value_list[0][1][1:], data, context


def _cut(data: bytes, length: int) -> list[bytes]:
    return [data[start : start + length] for start in range(0, len(data), length)]


def _fragments(data: bytes, context: int, kind: int, length: int) -> list[Pdv]:
    pieces = _cut(data, length)
    last = len(pieces) - 1
    return [(context, kind | (2 if n == last else 0), piece) for n, piece in enumerate(pieces)]


@contextmanager
def _paused(assoc: Association) -> Iterator[None]:
    """Keep pynetdicom's own thread from taking the answer."""
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    yield
    assoc._reactor_checkpoint.set()


def _exchange(assoc: Association, raw: bytes) -> int | None:
    """Send bytes as they are and return the status that is answered; None: no answer."""
    with _paused(assoc):
        assoc.dul.socket.socket.sendall(raw)
        _, answer = assoc.dimse.get_msg(block=True)
    return None if answer is None else int(answer.Status)


@pytest.mark.parametrize("length", [1 << 20, 4000, 250])
@pytest.mark.parametrize("how", ["one PDU", "one PDU each", "two a PDU"])
def test_a_message_is_stored_however_it_is_cut(listen: Listen, how: str, length: int) -> None:
    node = listen()
    ds = chest_dataset(PatientID="P1")
    with associate(node.port) as assoc:
        command, data, context = _parts(assoc, ds)
        pdvs = [
            *_fragments(command, context, 1, min(length, 50)),
            *_fragments(data, context, 0, length),
        ]
        groups = {
            "one PDU": [pdvs],
            "one PDU each": [[pdv] for pdv in pdvs],
            "two a PDU": [pdvs[n : n + 2] for n in range(0, len(pdvs), 2)],
        }[how]
        assert _exchange(assoc, b"".join(map(_pdu, groups))) == 0x0000
        assert assoc.send_c_store(chest_dataset(PatientID="P1", SOPInstanceUID="1.2.9")).Status == 0
    assert len(instances(node.database)) == 2
    assert any(path.read_bytes().endswith(data) for path in node.spooled)


def test_fragments_may_be_empty(listen: Listen) -> None:
    node = listen()
    with associate(node.port) as assoc:
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        pdvs = [(context, 1, b""), (context, 3, command), (context, 0, b""), (context, 0, data)]
        assert _exchange(assoc, _pdu([*pdvs, (context, 2, b"")])) == 0x0000
    assert len(instances(node.database)) == 1


def test_bytes_that_trickle_in_are_put_together(listen: Listen) -> None:
    node = listen()
    with associate(node.port) as assoc, _paused(assoc):
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        raw = _pdu([(context, 3, command)]) + _pdu([(context, 2, data)])
        for piece in [*_cut(raw[:300], 1), raw[300:]]:
            assoc.dul.socket.socket.sendall(piece)
        _, answer = assoc.dimse.get_msg(block=True)
        assert answer.Status == 0x0000


def test_a_data_set_that_comes_slowly_is_no_silence(listen: Listen) -> None:
    node = listen(network_timeout_seconds=1)
    with associate(node.port) as assoc:
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        raw = _pdu([(context, 3, command)]) + _pdu([(context, 2, data)])
        with _paused(assoc):
            for piece in _cut(raw, len(raw) // 5):
                assoc.dul.socket.socket.sendall(piece)
                time.sleep(0.5)
            _, answer = assoc.dimse.get_msg(block=True)
        assert answer.Status == 0x0000
        assert assoc.send_c_store(chest_dataset(PatientID="P1", seed=1)).Status == 0x0000


def test_a_peer_that_waits_for_its_answer_is_not_silent(listen: Listen) -> None:
    node = listen(network_timeout_seconds=1)
    with (
        associate(node.port) as assoc,
        closing(sqlite3.connect(node.database.url.database, isolation_level=None)) as other,
        ThreadPoolExecutor(1) as pool,
    ):
        other.execute("BEGIN IMMEDIATE")
        sending = pool.submit(assoc.send_c_store, chest_dataset(PatientID="P1"))
        time.sleep(2.5)
        other.execute("ROLLBACK")
        assert sending.result().Status == 0x0000
        assert assoc.send_c_store(chest_dataset(PatientID="P1", seed=1)).Status == 0x0000


def test_a_data_set_behind_another_command_leaves_nothing_either(listen: Listen) -> None:
    """One PDU with a C-ECHO and the beginning of a C-STORE; then nothing more."""
    node = listen(network_timeout_seconds=1)
    syntax = "1.2.840.10008.1.2.1"
    with associate(node.port, (CR, syntax), (VERIFICATION, syntax)) as assoc:
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        message = C_ECHO_RQ()
        echo = C_ECHO()
        echo.MessageID, echo.AffectedSOPClassUID = 7, UID(VERIFICATION)
        message.primitive_to_message(echo)
        other = assoc.accepted_contexts[1].context_id or 3
        pdus = list(message.encode_msg(other, 0))
        asked = pdus[0].presentation_data_value_list[0][1][1:]
        mixed = _pdu([(other, 3, asked), (context, 3, command), (context, 0, data[:1000])])
        assoc.dul.socket.socket.sendall(mixed)
        wait_until(lambda: len(node.incoming) == 1, 10, "the first half to arrive")
        wait_until(lambda: not node.listener.active_associations, 20, "the association to end")
    assert node.incoming == []
    assert len(node.listener.reception) == 0


def _begun(command: bytes, context: int) -> bytes:
    return _pdu([(context, 3, command)])


# What follows a context ID, a command set and a data set, by what is wrong with it.
_BROKEN: dict[str, Callable[[int, bytes, bytes], bytes]] = {
    "command in a data set": lambda cx, cmd, data: _pdu(
        [(cx, 3, cmd), (cx, 0, data), (cx, 3, cmd)]
    ),
    "other context": lambda cx, cmd, data: _pdu([(cx, 3, cmd), (cx + 2, 2, data)]),
    "half an item": lambda cx, cmd, _: _begun(cmd, cx) + b"\x04\x00\0\0\0\x03\0\0\0",
    "long item": lambda cx, cmd, _: _begun(cmd, cx) + b"\x04\x00\0\0\0\x06\0\0\xff\xff\x01\0",
    "short item": lambda cx, cmd, _: _begun(cmd, cx) + b"\x04\x00\0\0\0\x06\0\0\0\x01\x01\0",
    "unknown PDU": lambda cx, cmd, _: _begun(cmd, cx) + b"\x09\x00\0\0\0\0",
    "endless command": lambda cx, *_: _pdu([(cx, 1, bytes(1 << 20))] * 9),
    "endless PDU": lambda *_: b"\x01\x00\xff\xff\xff\xff",
}


@pytest.mark.parametrize("what", _BROKEN)
def test_what_breaks_the_protocol_is_aborted_and_leaves_nothing(listen: Listen, what: str) -> None:
    node = listen()
    with associate(node.port) as assoc:
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        with suppress(OSError):  # aborted while we still send
            assoc.dul.socket.socket.sendall(_BROKEN[what](context, command, data))
        wait_until(lambda: assoc.is_aborted, 10, "the listener to abort")
    wait_until(lambda: node.incoming == [], 10, "the half file to go")
    assert len(node.listener.reception) == 0
    assert instances(node.database) == []
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000


# pynetdicom leaves a socket that its peer has closed to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("ending", [b"\x05\0\0\0\0\x04\0\0\0\0", b"\x07\0\0\0\0\x04\0\0\0\0"])
def test_a_release_or_an_abort_in_a_data_set_leaves_nothing(listen: Listen, ending: bytes) -> None:
    node = listen()
    with associate(node.port) as assoc:
        command, data, context = _parts(assoc, chest_dataset(PatientID="P1"))
        half = _pdu([(context, 3, command), (context, 0, data[:1000])])
        assoc.dul.socket.socket.sendall(half)
        wait_until(lambda: len(node.incoming) == 1, 10, "the first half to arrive")
        assoc.dul.socket.socket.sendall(ending)
        wait_until(lambda: node.incoming == [], 10, "the half file to go")
    wait_until(lambda: not node.listener.active_associations, 10, "the association to end")
    assert instances(node.database) == []


def test_other_services_take_turns_with_storage(listen: Listen) -> None:
    node = listen()
    syntax = "1.2.840.10008.1.2.1"
    with associate(node.port, (CR, syntax), (VERIFICATION, syntax)) as assoc:
        for number in range(5):
            assert assoc.send_c_echo().Status == 0x0000
            ds = chest_dataset(PatientID="P1", SOPInstanceUID=f"1.2.{number}", seed=number)
            assert assoc.send_c_store(ds).Status == 0x0000
    assert len(instances(node.database)) == 5


def test_an_echo_after_a_long_rest_is_answered_at_once(listen: Listen) -> None:
    node = listen()
    with associate(node.port, (VERIFICATION, "1.2.840.10008.1.2.1")) as assoc:
        assert assoc.send_c_echo().Status == 0x0000
        time.sleep(1.5)  # longer than pynetdicom's threads are kept awake
        begun = time.monotonic()
        assert assoc.send_c_echo().Status == 0x0000
        assert time.monotonic() - begun < 10


def test_idle_associations_cost_next_to_nothing(listen: Listen) -> None:
    """pynetdicom alone looks two thousand times a second for each of them."""
    node = listen()
    process = psutil.Process()
    before = set(threading.enumerate())
    with associate(node.port) as assoc:
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
        ours = [t for t in threading.enumerate() if t not in before and _is_acceptor(t)]
        assert len(ours) == 2  # the reading one and the other one
        time.sleep(1.5)
        first = _switches(process, ours)
        time.sleep(2.0)
        assert _switches(process, ours) - first < 2 * 2 * 40  # threads, seconds, looks per second


def _is_acceptor(thread: threading.Thread) -> bool:
    assoc = getattr(thread, "assoc", thread)
    return isinstance(assoc, Association) and assoc.is_acceptor


def _switches(process: psutil.Process, threads: list[threading.Thread]) -> int:
    """Return how often the threads waited for something so far (proc_pid_status(5))."""
    total = 0
    for thread in threads:
        text = Path(f"/proc/{process.pid}/task/{thread.native_id}/status").read_text()
        total += int(text.split("voluntary_ctxt_switches:")[1].split()[0])
    return total


def test_a_thread_that_is_wanted_rests_no_longer() -> None:
    checkpoint = _Checkpoint(Association(AE(), MODE_REQUESTOR))
    begun = time.monotonic()
    assert checkpoint.wait()
    assert time.monotonic() - begun > 0.01  # nothing to do: it rests
    checkpoint.wake()
    begun = time.monotonic()
    for _ in range(100):
        assert checkpoint.wait()
    assert time.monotonic() - begun < 0.5


def test_a_thread_rests_while_another_one_uses_the_association() -> None:
    checkpoint = _Checkpoint(Association(AE(), MODE_REQUESTOR))
    checkpoint.clear()
    released = threading.Event()

    def look() -> None:
        checkpoint.wait()
        released.set()

    thread = threading.Thread(target=look)
    thread.start()
    checkpoint.wake()  # also then: what comes belongs to the other one
    assert not released.wait(0.2)
    checkpoint.set()
    assert released.wait(60)
    thread.join()


@pytest.mark.parametrize("max_pdu", [0, 7, 16, 200, 16384])
def test_a_response_fits_the_peers_pdus(max_pdu: int) -> None:
    command = StoreCommand(3, 65535, CR, "1.2.345", has_data_set=True)
    raw, fragments = store_response(command, 0xA700, max_pdu), []
    while raw:
        kind, length = struct.unpack_from(">BxL", raw)
        item_length, context, control = struct.unpack_from(">LBB", raw, 6)
        assert (kind, item_length + 4, context) == (4, length, 3)
        assert not max_pdu or length <= max_pdu
        fragments.append((control, raw[12 : 6 + length]))
        raw = raw[6 + length :]
    assert [control for control, _ in fragments] == [1] * (len(fragments) - 1) + [3]
    body = b"".join(fragment for _, fragment in fragments)
    assert struct.unpack_from("<HHLL", body) == (0, 0, 4, len(body) - 12)  # PS3.7 E.1
    assert struct.pack("<HHLH", 0, 0x0900, 2, 0xA700) in body
    assert struct.pack("<HHLH", 0, 0x0120, 2, 65535) in body


@pytest.mark.parametrize("raw", [b"", b"\0", b"\0" * 7, b"\0\0\0\0\xff\xff\xff\xff", b"\x08\0" * 9])
def test_a_command_that_is_none_of_storage_is_not_ours(raw: bytes) -> None:
    assert parse_store_command(raw, 1) is None
