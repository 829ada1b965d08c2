"""HL7 over MLLP to the `hl7` package's server, which also errs, refuses, hangs and breaks off."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from message_peers import CLOSE, HANG, Answer, MllpPeer, acknowledged
from messages import at, content
from servers import free_port

from dicom_node.senders.base import Contact, Parcel, Receiver, Sender, SendResult, Verdict
from dicom_node.senders.chosen import sender_for
from dicom_node.tls import server_context
from models.settings import load_settings
from worker.oru import build_oru

NOWHERE = Receiver("ris", "HL7", "127.0.0.1", 1)


def _sender(url: str, timeout: float = 5.0, **more: Any) -> Sender:
    destination = {"name": "ris", "url": url} | more.pop("destination", {})
    settings = load_settings(
        None, delivery={"timeout_seconds": timeout}, destinations=[destination], **more
    )
    return sender_for(settings, "ris")


def _parcels(folder: Path, number: int = 1) -> list[Parcel]:
    found = []
    for each in range(number):
        path = folder / f"{each}.hl7"
        path.write_bytes(build_oru(content(context=at(each))))
        found.append(Parcel(each, path, "", ""))
    return found


def _send(
    peer: MllpPeer, folder: Path, number: int = 1, timeout: float = 5.0, **more: Any
) -> list[SendResult]:
    with peer.running():
        return list(_sender(peer.url, timeout, **more).send(NOWHERE, _parcels(folder, number)))


def test_messages_arrive_as_they_are_over_one_connection(tmp_path: Path) -> None:
    peer = MllpPeer()
    results = _send(peer, tmp_path, 3)
    assert [each.verdict for each in results] == [Verdict.SENT] * 3
    assert peer.connections == 1
    sent = [(tmp_path / f"{each}.hl7").read_bytes().decode().rstrip("\r") for each in range(3)]
    assert [str(each).rstrip("\r") for each in peer.messages] == sent


def test_the_envelope_is_the_destination_s(tmp_path: Path) -> None:
    peer = MllpPeer()
    to = {"receiving_application": "RIS^1.2.3^ISO", "receiving_facility": "NORTH"}
    (result,) = _send(peer, tmp_path, destination=to)
    assert result.verdict is Verdict.SENT
    (message,) = peer.messages
    assert [str(message.segment("MSH")[n]) for n in (5, 6)] == ["RIS^1.2.3^ISO", "NORTH"]


@pytest.mark.parametrize(
    ("answer", "verdict", "contact", "words"),
    [
        (acknowledged("AE"), "retry", "answered", "answered AE"),
        (acknowledged("AR"), "rejected", "answered", "answered AR"),
        (acknowledged("AE", error=101), "rejected", "answered", "required field missing"),
        (acknowledged("AR", error=207), "retry", "answered", "application internal error"),
        (acknowledged("AA", control_id="ANOTHER"), "retry", "offered", "no acknowledgement"),
        (lambda _: b"\x0bMSH|^~\\&|RIS|", "retry", "offered", "before an acknowledgement"),
        (lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n", "retry", "offered", "no acknowledgement"),
        (lambda _: b"\x0bhello\x1c\r", "retry", "offered", "no acknowledgement"),
        (lambda _: CLOSE, "retry", "offered", "before an acknowledgement"),
        (lambda _: HANG, "retry", "offered", "before an acknowledgement"),
    ],
    ids=["AE", "AR", "AE-101", "AR-207", "other-id", "half", "http", "garbage", "closed", "hangs"],
)
def test_what_is_answered_decides(
    tmp_path: Path, answer: Answer, verdict: str, contact: str, words: str
) -> None:
    began = time.monotonic()
    first, second = _send(MllpPeer(answer), tmp_path, 2, timeout=0.5)
    assert (first.verdict.value, first.contact.value) == (verdict, contact)
    assert words in (first.error or "")
    # After silence nobody is asked again; after an answer the next one is.
    assert (second.contact is Contact.UNREACHED) == (contact == "offered")
    assert time.monotonic() - began < 30


def test_an_answer_byte_by_byte_ends_by_the_time_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sender = _sender(f"hl7://127.0.0.1:{listening.getsockname()[1]}", 0.5)
        sending = sender.send(NOWHERE, _parcels(tmp_path))

        def dribble() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"\x0b")
                for _ in range(40):
                    time.sleep(0.05)
                    try:
                        peer.sendall(b"M")
                    except OSError:
                        return

        thread = threading.Thread(target=dribble)
        thread.start()
        (result,) = sending
        thread.join()
    assert (result.verdict, result.contact) == (Verdict.RETRY, Contact.OFFERED)


def test_a_second_acknowledgement_of_the_enhanced_mode_is_no_answer_to_the_next(
    tmp_path: Path,
) -> None:
    peer = MllpPeer()

    def both(message: Any) -> str:
        # The commit acknowledgement, and with it the one of the application.
        commit = str(message.create_ack("CA"))
        return f"{commit}\r\x1c\r\x0b{message.create_ack('AA')}"

    peer.answer = both
    results = _send(peer, tmp_path, 3)
    assert [each.verdict for each in results] == [Verdict.SENT] * 3


def test_nobody_there_is_named(tmp_path: Path) -> None:
    sender = _sender(f"hl7://127.0.0.1:{free_port()}")
    results = list(sender.send(NOWHERE, _parcels(tmp_path, 2)))
    assert {each.contact for each in results} == {Contact.UNREACHED}
    assert "127.0.0.1 cannot be reached: Connection refused" in (results[0].error or "")
    assert "cannot be reached" in (sender.echo(NOWHERE) or "")


def test_a_file_that_is_no_message_is_refused_here(tmp_path: Path) -> None:
    peer, parcels = MllpPeer(), _parcels(tmp_path, 3)
    parcels[0].path.write_bytes(b"DICM")
    parcels[1].path.unlink()
    with peer.running():
        first, second, third = _sender(peer.url).send(NOWHERE, parcels)
    assert (first.verdict, first.contact) == (Verdict.REJECTED, Contact.NONE)
    assert (second.verdict, second.contact) == (Verdict.RETRY, Contact.NONE)
    assert third.verdict is Verdict.SENT


def test_of_two_messages_in_a_file_both_must_be_taken(tmp_path: Path) -> None:
    (parcel, other) = _parcels(tmp_path, 2)
    parcel.path.write_bytes(parcel.path.read_bytes() + other.path.read_bytes())
    peer = MllpPeer()
    with peer.running():
        (result,) = _sender(peer.url).send(NOWHERE, [parcel])
        assert result.verdict is Verdict.SENT
        assert len(set(peer.control_ids)) == 2
        taken = peer.control_ids[0]
        peer.answer = lambda message: str(
            message.create_ack("AA" if taken in str(message) else "AR")
        )
        (result,) = _sender(peer.url).send(NOWHERE, [parcel])
    assert result.verdict is Verdict.REJECTED


def _taken_and_closed(message: Any) -> bytes:
    """Answer AA, and close the connection."""
    return b"\x0b" + str(message.create_ack("AA")).encode() + b"\x1c\r"


@pytest.mark.parametrize("pause", [0.0, 0.1], ids=["at-once", "later"])
def test_a_receiver_that_closes_after_each_acknowledgement_gets_every_message(
    tmp_path: Path, pause: float
) -> None:
    both, other, third = _parcels(tmp_path, 3)
    both.path.write_bytes(both.path.read_bytes() + other.path.read_bytes())
    peer = MllpPeer(_taken_and_closed)
    verdicts = []
    with peer.running():
        for result in _sender(peer.url).send(NOWHERE, [both, other, third]):
            verdicts.append(result.verdict)
            time.sleep(pause)
    assert verdicts == [Verdict.SENT] * 3
    assert peer.connections == len(peer.messages) == 4


def test_over_tls_both_sides_are_verified(tmp_path: Path, dcmtk: Callable[[str], Path]) -> None:
    dcmtk("openssl")
    hospital, stranger = (Authority.make(tmp_path / name) for name in ("hospital", "stranger"))
    peer = MllpPeer(context=server_context(hospital.settings(hospital.issue("ris"), port=0)))
    ours = hospital.issue("node", use="client")
    with peer.running():
        for trusted, pair, is_taken in (
            (hospital, ours, True),
            (hospital, None, False),
            (stranger, ours, False),
        ):
            tls: dict[str, Any] = {"trusted_cas": trusted.certificate}
            if pair is not None:
                tls |= {"certificate": pair.certificate, "private_key": pair.private_key}
            sender = _sender(peer.url, dicom={"tls": tls})
            (result,) = sender.send(NOWHERE, _parcels(tmp_path))
            assert (result.verdict is Verdict.SENT) == is_taken
            assert (sender.echo(NOWHERE) is None) == is_taken
        assert len(peer.messages) == 1
        peer.answer = _taken_and_closed
        trusting = {"trusted_cas": hospital.certificate, "certificate": ours.certificate}
        tls = trusting | {"private_key": ours.private_key}
        sender = _sender(peer.url, dicom={"tls": tls})
        results = list(sender.send(NOWHERE, _parcels(tmp_path, 2)))
    assert [each.verdict for each in results] == [Verdict.SENT] * 2
