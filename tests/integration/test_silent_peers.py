"""Peers that say nothing, little, or nonsense on the plain port: they block nobody and end."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from builders import chest_dataset
from rows import outcomes
from senders import store
from servers import wait_until

from models.audit import AuditAction

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

HALF_REQUEST = b"\x01\x00\x00\x00\x01\x00\x00\x01"  # an A-ASSOCIATE-RQ of 256 bytes that stops


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: no row is in question."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Opens connections that say `first` and no more; closed at the end."""
    with ExitStack() as stack:

        def open_one(port: int, first: bytes = b"") -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", port), 5)
            stack.callback(sock.close)
            sock.sendall(first)
            return sock

        yield open_one


def _wait_for(node: "RunningListener", associations: int) -> None:  # noqa: F821  of conftest.py
    wait_until(
        lambda: node.listener.active_associations == associations,
        20,
        f"{associations} associations",
    )


def _ended(sock: socket.socket) -> bool:
    """Whether the node has closed the connection, by now or within a minute."""
    sock.settimeout(60)
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(4096):
            pass  # an A-ABORT, perhaps
    return True


@pytest.mark.parametrize("closed", [False, True])
def test_probes_that_only_open_take_no_association(
    listen: Listen, connect: Callable[..., socket.socket], *, closed: bool
) -> None:
    node = listen(max_associations=1)
    probes = [connect(node.port) for _ in range(40)]
    if closed:
        for probe in probes:
            probe.close()
    started = time.monotonic()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    assert time.monotonic() - started < 40
    assert outcomes(node.database, AuditAction.ASSOCIATION_REJECTED) == []
    assert outcomes(node.database, AuditAction.CONNECTION_REFUSED) == []


def test_a_silent_connection_is_closed(
    listen: Listen, connect: Callable[..., socket.socket]
) -> None:
    assert _ended(connect(listen(network_timeout_seconds=0.5).port))


@pytest.mark.parametrize("first", [HALF_REQUEST[:1], HALF_REQUEST])
def test_a_request_that_stops_half_way_is_given_up(
    listen: Listen, connect: Callable[..., socket.socket], first: bytes
) -> None:
    """pynetdicom alone would read for ever, and each would be one association less."""
    node = listen(max_associations=2, network_timeout_seconds=1.0)
    stuck = [connect(node.port, first) for _ in range(3)]
    assert all(_ended(each) for each in stuck)
    _wait_for(node, 0)
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000


@pytest.mark.parametrize(
    "first",
    [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x04\x00\x00\x00\x00\x00"],
)
def test_what_is_no_association_request_is_aborted_at_once(
    listen: Listen, connect: Callable[..., socket.socket], first: bytes
) -> None:
    node = listen()
    sock = connect(node.port, first)
    assert sock.recv(100) == bytes.fromhex("07000000000400000202")  # PS3.8 9.3.8
    assert _ended(sock)
    assert node.listener.active_associations == 0


def test_a_request_that_goes_away_half_way_frees_its_association(
    listen: Listen, connect: Callable[..., socket.socket]
) -> None:
    node = listen()
    sock = connect(node.port, HALF_REQUEST)
    _wait_for(node, 1)
    sock.close()
    _wait_for(node, 0)


def test_a_request_that_drips_is_cut(listen: Listen, connect: Callable[..., socket.socket]) -> None:
    node = listen(network_timeout_seconds=1.0)
    sock = connect(node.port, HALF_REQUEST)
    over = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            while not over.wait(0.1):
                sock.sendall(b"\x00")

    dripper = threading.Thread(target=drip)
    dripper.start()
    try:
        _wait_for(node, 1)
        _wait_for(node, 0)
    finally:
        over.set()
        dripper.join()


def test_stopping_does_not_wait_for_the_silent(
    listen: Listen, connect: Callable[..., socket.socket]
) -> None:
    node = listen()
    peers = [connect(node.port), connect(node.port, HALF_REQUEST)]
    _wait_for(node, 1)
    started = time.monotonic()
    node.listener.stop()
    assert time.monotonic() - started < 40
    assert all(_ended(each) for each in peers)
