"""k. Twenty senders among probes, noise and aborts: who behaves is served, nothing leaks."""

import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import pytest
from accounts import CloseAccount, kept_once, received
from fault_nodes import Node, running
from fault_senders import SUCCESS, Notebook, new_image
from pydicom.dataset import Dataset
from senders import associate, encoded, send_half
from servers import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

_SENDERS = 20
_NUISANCES = 3  # threads of each kind
_MIB = 1024 * 1024
_MEMORY_MIB = 64  # what the listener may hold more after the storm, with its thread stacks
_DESCRIPTORS = 12  # connections of the database's pool
_ASSOCIATE_RQ = b"\x01\x00"
_RESET = struct.pack("ii", 1, 0)

Nuisance = Callable[[int, random.Random], None]


def _open_and_close(port: int, _random: random.Random) -> None:
    """Probe as a load balancer does."""
    socket.create_connection(("127.0.0.1", port), 5).close()


def _stay_silent(port: int, dice: random.Random) -> None:
    """Hold a connection without a word, or with half an A-ASSOCIATE-RQ, and reset it."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if dice.random() < 0.5:
            sock.sendall(_ASSOCIATE_RQ + struct.pack(">I", 200) + dice.randbytes(60))
        sock.settimeout(0.2)
        try:
            sock.recv(1)
        except OSError:
            return


def _make_noise(port: int, dice: random.Random) -> None:
    """Send bytes that are no PDU, or only look like one."""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        begin = dice.choice([b"", _ASSOCIATE_RQ, b"\x04\x00\xff\xff\xff\xff"])
        sock.sendall(begin + dice.randbytes(dice.randrange(1, 5000)))
        sock.settimeout(0.2)
        try:
            sock.recv(100)
        except OSError:
            return


def _abort_halfway(port: int, dice: random.Random) -> None:
    """Begin a data set and abort the association, or vanish."""
    with associate(port) as assoc:
        if not assoc.is_established:
            return
        wrapper = assoc.dul.socket
        sock = wrapper.socket if wrapper else None
        assert sock is not None
        send_half(assoc, encoded(new_image()))
        if dice.random() < 0.5:
            sock.shutdown(socket.SHUT_RDWR)
        assoc.abort()
        assoc.join(10)
        sock.close()  # pynetdicom leaves it open when the other side was faster


_NUISANCE_KINDS: tuple[Nuisance, ...] = (
    _open_and_close,
    _stay_silent,
    _make_noise,
    _abort_halfway,
)


@dataclass
class Storm:
    """Everybody who does not behave, until the block ends."""

    port: int

    def __post_init__(self) -> None:
        self.done = dict.fromkeys((each.__name__ for each in _NUISANCE_KINDS), 0)
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._threads = [
            threading.Thread(target=self._run, args=(kind, seed))
            for kind in _NUISANCE_KINDS
            for seed in range(_NUISANCES)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, kind: Nuisance, seed: int) -> None:
        dice = random.Random(seed)
        while not self._stop.is_set():
            try:
                kind(self.port, dice)
            except OSError:
                continue  # reset by the listener: so it should be
            with self._lock:
                self.done[kind.__name__] += 1


@pytest.fixture
def node(tmp_path: Path, new_database: Callable[[], str]) -> Iterator[Node]:
    """A listener alone."""
    # Nothing is analysed here: no broker is needed. Silent connections must end within the test.
    settings = {"DICOM_NODE_DICOM__NETWORK_TIMEOUT_SECONDS": "5"}
    with running(Node(tmp_path / "node", database_url=new_database(), **settings), "listen") as it:
        yield it


def _images(number: int) -> list[Dataset]:
    return [new_image() for _ in range(number)]


def _send_everything(node: Node, notebook: Notebook, per_sender: int) -> list[int | None]:
    """Send from every sender at once and return all answers."""
    loads = [_images(per_sender) for _ in range(_SENDERS)]
    with ThreadPoolExecutor(_SENDERS) as pool:
        answers = pool.map(lambda load: notebook.send(node.port, *load, seconds=60), loads)
        return [status for answer in answers for status in answer]


def _held(node: Node) -> tuple[int, int, int]:
    """Return memory in MiB, descriptors and threads of the listener and its processes."""
    family = node.role("listen").family()
    return (
        sum(each.memory_info().rss for each in family) // _MIB,
        sum(each.num_fds() for each in family),
        sum(each.num_threads() for each in family),
    )


def _connections(node: Node) -> int:
    return sum(
        each.status == psutil.CONN_ESTABLISHED and each.laddr.port == node.port
        for process in node.role("listen").family()
        for each in process.net_connections("tcp")
    )


@pytest.mark.parametrize(
    "per_sender", [3, pytest.param(25, marks=pytest.mark.slow_faults)], ids=["few", "many"]
)
def test_twenty_senders_are_served_among_probes_noise_and_aborts(
    per_sender: int, node: Node, notebook: Notebook, close_account: CloseAccount
) -> None:
    assert set(_send_everything(node, notebook, 1)) == {SUCCESS}
    before = _held(node)
    with Storm(node.port) as storm:
        wait_until(lambda: min(storm.done.values()) >= 3, 60, "every nuisance three times")
        answers = _send_everything(node, notebook, per_sender)
    print(storm.done)  # noqa: T201  the proof is to be seen
    assert answers == [SUCCESS] * (_SENDERS * per_sender), notebook.refused_associations
    wait_until(lambda: _connections(node) == 0, 60, "the end of every connection")
    wait_until(lambda: node.incoming == [], 60, "no half file")
    wait_until(lambda: _held(node)[2] <= before[2] + 4, 60, "the end of the storm's threads")
    after = _held(node)
    print(f"MiB, descriptors, threads: {before} before, {after} after")  # noqa: T201  the same
    assert after[0] <= before[0] + _MEMORY_MIB
    assert after[1] <= before[1] + _DESCRIPTORS
    assert len(node.spooled) == len(notebook.answered)
    close_account(node, received(node, notebook), kept_once(node))
