"""Peers that freeze, read slowly or take small PDUs: each ends in its own time, alone."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from builders import chest_dataset, write_part10
from conftest import RunningListener
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from pynetdicom.transport import AssociationSocket
from querying import (
    FIND,
    GET,
    MOVE,
    Workstation,
    identifier,
    make_desk,
    receiver,
    send,
    small_image,
)
from rows import CR
from servers import wait_until

from dicom_node.query.exchange import Exchange
from dicom_node.query.retrieve import MIN_PDU
from dicom_node.senders.base import Parcel, Receiver, Verdict
from dicom_node.senders.cstore import CStoreSender

Listen = Callable[..., RunningListener]

HALF_HEADER = b"\x04\x00\x00"


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: no row is in question."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@dataclass
class Frozen:
    """A storage SCP that freezes: after its answer to the request, or in the middle of a PDU."""

    title: str = "DESK2"
    last_words: bytes = b""
    port: int = 0
    _kept: list[socket.socket] = field(default_factory=list)

    @property
    def place(self) -> dict[str, object]:
        """The entry of `query_retrieve.move_destinations`."""
        return {"ae_title": self.title, "host": "127.0.0.1", "port": self.port}

    def serve(self, listening: socket.socket, behind: int) -> None:
        """Let a real SCP negotiate, then forward nothing more."""
        with suppress(OSError):
            while True:
                peer, _ = listening.accept()
                real = socket.create_connection(("127.0.0.1", behind))
                self._kept += [peer, real]
                real.sendall(peer.recv(65536))
                peer.sendall(real.recv(65536) + self.last_words)

    def close(self) -> None:
        """Let go of what is still connected."""
        for sock in self._kept:
            sock.close()


@pytest.fixture
def freeze() -> Iterator[Callable[[bytes], Frozen]]:
    """Starts storage SCPs that freeze after these last words."""
    with ExitStack() as stack:

        def start(last_words: bytes) -> Frozen:
            scp = stack.enter_context(receiver())
            listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            frozen = Frozen(last_words=last_words, port=listening.getsockname()[1])
            thread = threading.Thread(target=frozen.serve, args=(listening, scp.port))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listening.shutdown, socket.SHUT_RDWR)
            stack.callback(frozen.close)
            return frozen

        yield start


def _large(tmp_path: Path) -> Path:
    """An image that no socket buffer holds."""
    pixels = np.zeros((4000, 4000), np.uint16)
    return write_part10(tmp_path / "large.dcm", chest_dataset(pixels=pixels))


@pytest.mark.parametrize("last_words", [b"", HALF_HEADER])
def test_sending_to_a_frozen_receiver_ends_with_the_time_out(
    freeze: Callable[[bytes], Frozen], tmp_path: Path, last_words: bytes
) -> None:
    frozen, ds = freeze(last_words), chest_dataset()
    parcel = Parcel(1, _large(tmp_path), CR, str(ds.SOPInstanceUID))
    started = time.monotonic()
    (result,) = CStoreSender("NODE", 2.0).send(
        Receiver("x", frozen.title, "127.0.0.1", frozen.port), [parcel]
    )
    assert result.verdict is Verdict.RETRY
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("answer", [b"", b"\x02\x00\x00\x00\x01\x00\x00\x01"])
def test_a_receiver_that_freezes_in_its_answer_is_given_up(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        started = time.monotonic()
        found: list[str | None] = []
        where = Receiver("x", "X", *listening.getsockname()[:2])
        echo = threading.Thread(target=lambda: found.append(CStoreSender("NODE", 2.0).echo(where)))
        echo.start()
        peer, _ = listening.accept()
        with peer:
            peer.sendall(answer)
            echo.join(20)
    assert found
    assert found[0]
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("last_words", [b"", HALF_HEADER])
def test_a_move_to_a_frozen_destination_frees_its_association(
    listen: Listen, freeze: Callable[[bytes], Frozen], last_words: bytes
) -> None:
    section = {"enabled": True, "calling_aets": ["VIEWER"]}
    node = listen(
        sections={
            "query_retrieve": section | {"move_destinations": [freeze(last_words).place]},
            "delivery": {"timeout_seconds": 2},
        }
    )
    pixels = np.zeros((4000, 4000), np.uint16)
    send(node.port, chest_dataset(pixels=pixels, StudyInstanceUID="1.2.3"))
    answer, _ = Workstation(node.port).move("DESK2", "STUDY", StudyInstanceUID="1.2.3")
    assert answer.Status == 0xA702
    wait_until(lambda: node.listener.active_associations == 0, 20, "the association ended")


def test_a_long_move_ends_with_its_response_and_no_abort(listen: Listen) -> None:
    def slowly(_event: Event) -> int:
        time.sleep(1)
        return 0x0000

    with receiver(answer=slowly) as place:
        places = [place.place]
        section = {"enabled": True, "calling_aets": ["VIEWER"], "move_destinations": places}
        node = listen(sections={"query_retrieve": section}, network_timeout_seconds=2)
        images = [small_image(str(it), StudyInstanceUID="1.2.3", PatientID="P") for it in range(4)]
        send(node.port, *images)
        with Workstation(node.port).associate(MOVE) as assoc:
            request = identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID="1.2.3")
            for _ in range(2):
                *_, (last, _) = assoc.send_c_move(request, "DESK2", MOVE)
                assert last.Status == 0x0000
                time.sleep(0.5)
            assert assoc.is_established


def _associate(port: int, max_pdu: int) -> Association:
    ae = AE(ae_title="VIEWER")
    for uid in (GET, FIND):
        ae.add_requested_context(uid, [ExplicitVRLittleEndian])
    ae.add_requested_context(CR, [ExplicitVRLittleEndian])
    assoc = ae.associate(
        "127.0.0.1",
        port,
        ae_title="NODE",
        max_pdu=max_pdu,
        ext_neg=[build_role(CR, scp_role=True, scu_role=True)],
        evt_handlers=[(evt.EVT_C_STORE, lambda _: 0x0000)],
    )
    assert assoc.is_established
    return assoc


def test_small_pdus_take_no_objects_but_may_store_and_ask(listen: Listen) -> None:
    desk = make_desk(listen)
    image = small_image("1")
    ask = identifier(QueryRetrieveLevel="STUDY", StudyInstanceUID=image.StudyInstanceUID)
    for max_pdu, status in ((64, 0xA702), (MIN_PDU - 1, 0xA702), (MIN_PDU, 0x0000), (0, 0x0000)):
        assoc = _associate(desk.node.port, max_pdu)
        assert assoc.send_c_store(image).Status == 0x0000
        assert [it.Status for it, _ in assoc.send_c_find(ask, FIND)] == [0xFF00, 0x0000]
        *_, (last, _) = assoc.send_c_get(ask, GET)
        assert last.Status == status
        assert ("ErrorComment" in last) == bool(status)
        assoc.release()


def test_matches_wait_for_a_slow_reader(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make_desk(listen)
    send(desk.node.port, *(small_image(str(it), PatientID=f"P{it}") for it in range(5)))
    queued: list[int] = []
    send_bytes = AssociationSocket.send

    def slowly(sock: AssociationSocket, data: bytes) -> None:
        time.sleep(0.1)
        send_bytes(sock, data)

    monkeypatch.setattr(AssociationSocket, "send", slowly)
    monkeypatch.setattr("dicom_node.query.exchange._MAX_QUEUED", 2)
    send_one = Exchange._send

    def watched(self: Exchange, *args: object, **kwargs: object) -> None:
        send_one(self, *args, **kwargs)
        queued.append(self.assoc.dul.to_provider_queue.qsize())

    monkeypatch.setattr(Exchange, "_send", watched)
    _, matches, _ = desk.viewer.find("STUDY", PatientID="")
    assert len(matches) == 5
    assert max(queued) <= 2 + 2  # those of one match
