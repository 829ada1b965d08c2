"""An association is paused when it says so, and leaves no descriptor behind."""

import errno
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import EventHandlerType
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
from pynetdicom.transport import AssociationSocket

from dicom_node.mended import MENDED, ReactorCheckpoint
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender


@contextmanager
def _impatient_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _thefts(assoc: Any, checkpoint: threading.Event, seconds: float) -> int:
    """Return how often a reactor went on while a sender believed in its pause."""
    thefts, is_over, is_sending = 0, threading.Event(), threading.Event()

    def react() -> None:  # as pynetdicom's Association._run_reactor
        nonlocal thefts
        while not is_over.is_set():
            assoc._is_paused = True
            checkpoint.wait()
            assoc._is_paused = False
            thefts += is_sending.is_set()

    reactor = threading.Thread(target=react)
    reactor.start()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:  # as pynetdicom's Association.send_c_store
        checkpoint.clear()
        while not assoc._is_paused:
            time.sleep(0.0001)
        is_sending.set()
        time.sleep(0)
        is_sending.clear()
        checkpoint.set()
    is_over.set()
    reactor.join()
    return thefts


def test_nobody_takes_an_answer_that_is_waited_for() -> None:
    assoc = cast("Association", SimpleNamespace(_is_paused=False))
    plain = threading.Event()
    plain.set()
    with _impatient_threads():
        assert _thefts(assoc, ReactorCheckpoint(assoc), 2.0) == 0
        # pynetdicom's own: what this is for
        assert any(_thefts(assoc, plain, 1.0) for _ in range(30))


def test_a_wait_that_ends_by_time_leaves_the_pause() -> None:
    assoc = cast("Association", SimpleNamespace(_is_paused=True))
    checkpoint = ReactorCheckpoint(assoc)
    checkpoint.clear()
    assert not checkpoint.wait(0.01)
    assert assoc._is_paused
    checkpoint.set()
    assert checkpoint.wait()
    assert not assoc._is_paused


@pytest.fixture
def echo_port() -> Iterator[int]:
    ae = AE("ECHO")
    ae.add_supported_context(Verification)
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0x0000)]
    )
    assert server is not None
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_our_sender_has_one_and_pynetdicom_heeds_it(echo_port: int) -> None:
    sender = CStoreSender("NODE", 10.0)
    receiver = Receiver("echo", "ECHO", "127.0.0.1", echo_port)
    assoc = sender.associate(receiver, [(str(Verification), "1.2.840.10008.1.2")])
    try:
        checkpoint = assoc._reactor_checkpoint
        assert isinstance(checkpoint, ReactorCheckpoint)
        for _ in range(50):
            assert assoc.send_c_echo().Status == 0
        checkpoint.clear()
        deadline = time.monotonic() + 5
        while not assoc._is_paused and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.05)
        assert assoc._is_paused  # and stays so
        checkpoint.set()
    finally:
        assoc.release()
    assert MENDED[0] is evt.EVT_CONN_OPEN


class _Unconnected(socket.socket):
    """The peer was faster: as Linux says it; not every kernel does."""

    def shutdown(self, _how: int, /) -> None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


@pytest.mark.parametrize("handlers", [[MENDED], []], ids=["mended", "as it is"])
def test_the_socket_is_closed_though_the_peer_was_faster(
    echo_port: int, handlers: list[EventHandlerType]
) -> None:
    ae = AE("SCU")
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", echo_port, evt_handlers=handlers)
    transport = cast("AssociationSocket", assoc.dul.socket)
    assoc.release()
    for thread in (assoc, assoc.dul):  # which may be just closing theirs
        thread.join(10)
    with _Unconnected() as sock:
        transport.socket = sock
        transport.close()
        assert (sock.fileno() < 0) is bool(handlers)  # without: what this is for
