"""What a DICOM Web server answers, and what becomes of the object: over real connections."""

import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from certificates import Authority, Pair
from pydicom.uid import ImplicitVRLittleEndian
from servers import free_port
from web_peers import Request, Say, WebPeer, http, module

from dicom_node.senders.base import Contact, Parcel, Receiver, Sender, SendResult, Verdict
from dicom_node.senders.chosen import sender_for
from dicom_node.senders.store_response import seconds_of
from dicom_node.tls import server_context
from models.settings import load_settings

UID = "1.2.840.9.1"
NOWHERE = Receiver("web", "DICOMWEB", "127.0.0.1", 1)


def _sender(url: str, timeout: float = 5.0, **more: object) -> Sender:
    settings = load_settings(
        None,
        delivery={"timeout_seconds": timeout},
        destinations=[{"name": "web", "url": url}],
        **more,
    )
    return sender_for(settings, "web")


def _parcels(folder: Path, *uids: str) -> list[Parcel]:
    found = []
    for number, uid in enumerate(uids or (UID,)):
        path = write_part10(folder / f"{number}.dcm", chest_dataset(SOPInstanceUID=uid))
        found.append(Parcel(number, path, "1.2.840.10008.5.1.4.1.1.1", uid))
    return found


def _send(peer: WebPeer, folder: Path, *uids: str, timeout: float = 5.0) -> list[SendResult]:
    with peer.running():
        return list(_sender(peer.url, timeout).send(NOWHERE, _parcels(folder, *uids)))


@pytest.mark.parametrize(
    ("answer", "verdict", "status", "contact"),
    [
        (http(200), "sent", 0, "answered"),
        (http(200, b"<xml/>"), "sent", 0, "answered"),
        (http(200, module({UID: None}, {})), "sent", 0, "answered"),
        (http(200, b"[" + module({UID: None}, {}) + b"]"), "sent", 0, "answered"),
        (http(202, module({UID: 0xB000}, {})), "sent", 0xB000, "answered"),
        (http(202, module({UID: 0xB006}, {})), "sent", 0xB006, "answered"),
        (http(202, module({UID: 1}, {})), "sent", 0, "answered"),
        (http(202, module({}, {UID: 0x0111})), "sent", 0x0111, "answered"),
        (http(202, module({}, {UID: 0xA700})), "retry", 0xA700, "answered"),
        (http(200, module({}, {UID: 0xA700})), "retry", 0xA700, "answered"),
        (http(409, module({}, {UID: 0xA702})), "retry", 0xA702, "answered"),
        (http(409, module({}, {UID: 0x0110})), "retry", 0x0110, "answered"),
        (http(409, module({}, {UID: None})), "retry", 0x0110, "answered"),
        (http(409, module({}, {UID: 10**9})), "retry", 0x0110, "answered"),
        (http(409, module({}, {UID: 0xA900})), "rejected", 0xA900, "answered"),
        (http(409, module({}, {UID: 0xC000})), "rejected", 0xC000, "answered"),
        (http(409, module({}, {UID: 0x0122})), "rejected", 0x0122, "answered"),
        (http(409, module({}, {UID: 0xC122})), "rejected", 0xC122, "answered"),
        (http(409, module({}, {UID: 0x0117})), "rejected", 0x0117, "answered"),
        (http(409, module({}, {UID: 0x0124})), "rejected", 0x0124, "answered"),
        (http(202, module({"1.2.3": None}, {})), "retry", None, "answered"),
        (http(202, b'{"00081199": [3]}'), "retry", None, "answered"),
        (http(202, b"[" * 100_000), "retry", None, "answered"),
        (http(202), "retry", None, "answered"),
        (http(204), "retry", None, "answered"),
        (http(400), "rejected", None, "answered"),
        (http(409), "rejected", None, "answered"),
        (http(413), "rejected", None, "answered"),
        (http(415), "rejected", None, "answered"),
        (http(301, Location="http://127.0.0.1:1/"), "retry", None, "unreached"),
        (http(401), "retry", None, "unreached"),
        (http(403), "retry", None, "unreached"),
        (http(404), "retry", None, "unreached"),
        (http(405), "retry", None, "unreached"),
        (http(418), "retry", None, "unreached"),
        (http(501), "retry", None, "unreached"),
        (http(408), "retry", None, "offered"),
        (http(429), "retry", None, "offered"),
        (http(502), "retry", None, "offered"),
        (http(503), "retry", None, "offered"),
        (http(504), "retry", None, "offered"),
        (http(500), "retry", None, "answered"),
        (http(507), "retry", None, "answered"),
        (http(599), "retry", None, "answered"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "retry", None, "offered"),
        (b"HTTP/1.1 abc\r\n\r\n", "retry", None, "offered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nshort", "retry", None, "offered"),
        (b"", "retry", None, "offered"),
    ],
    ids=lambda it: repr(it[:60]) if isinstance(it, bytes) else str(it),
)
def test_each_answer_means_one_thing(
    tmp_path: Path, answer: bytes, verdict: str, status: int | None, contact: str
) -> None:
    def once(_request: Request, say: Say) -> None:
        say(answer)  # and the connection is closed

    (result,) = _send(WebPeer(once), tmp_path)
    assert (result.verdict, result.status, result.contact) == (verdict, status, contact)
    assert (result.error is None) == (verdict == "sent")
    refuses = {0x0122, 0xC122}
    assert result.class_refused == (status in refuses)


def test_the_request_is_one_part_with_the_bytes_of_the_file(tmp_path: Path) -> None:
    peer = WebPeer()
    results = _send(peer, tmp_path, "1.2.1", "1.2.2", "1.2.3")
    assert [each.verdict for each in results] == ["sent"] * 3
    assert peer.connections == 1
    for number, request in enumerate(peer.requests):
        headers, data = request.part
        assert (request.method, request.target) == ("POST", "/dicom-web/studies")
        assert request.headers["accept"] == "application/dicom+json"
        assert request.headers["content-type"].startswith(
            'multipart/related; type="application/dicom"; boundary='
        )
        assert headers == {"content-type": "application/dicom"}
        assert data == (tmp_path / f"{number}.dcm").read_bytes()


def test_another_transfer_syntax_is_named(tmp_path: Path) -> None:
    ds = chest_dataset(SOPInstanceUID=UID, transfer_syntax=ImplicitVRLittleEndian)
    path = write_part10(tmp_path / "implicit.dcm", ds)
    with WebPeer().running() as peer:
        (result,) = _sender(peer.url).send(NOWHERE, [Parcel(1, path, "1.2", UID)])
    headers, _ = peer.requests[0].part
    assert result.verdict is Verdict.SENT
    assert headers["content-type"] == "application/dicom; transfer-syntax=1.2.840.10008.1.2"


def test_after_silence_the_rest_of_the_batch_is_not_offered(tmp_path: Path) -> None:
    def answer(request: Request, _say: Say) -> bytes | None:
        return None if request.uid == "1.2.2" else http(200)

    peer = WebPeer(answer)
    results = _send(peer, tmp_path, "1.2.1", "1.2.2", "1.2.3")
    contacts = [each.contact for each in results]
    assert contacts == [Contact.ANSWERED, Contact.OFFERED, Contact.UNREACHED]
    assert [request.uid for request in peer.requests] == ["1.2.1", "1.2.2"]


def test_a_server_that_closes_after_each_answer_gets_everything(tmp_path: Path) -> None:
    peer = WebPeer(lambda _request, _say: http(200, Connection="close"))
    results = _send(peer, tmp_path, "1.2.1", "1.2.2")
    assert [each.verdict for each in results] == [Verdict.SENT] * 2


def test_one_damaged_or_missing_object_keeps_no_other_back(tmp_path: Path) -> None:
    parcels = _parcels(tmp_path, "1.2.1", "1.2.2", "1.2.3")
    parcels[0].path.write_bytes(b"no DICOM")
    parcels[1].path.unlink()
    with WebPeer().running() as peer:
        results = list(_sender(peer.url).send(NOWHERE, parcels))
    assert [each.verdict for each in results] == ["rejected", "retry", "sent"]
    assert [each.contact for each in results] == ["none", "none", "answered"]


def _byte_by_byte(_request: Request, say: Say) -> None:
    for byte in http(200, b" " * 1000):
        say(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize("says", ["byte by byte", "nothing"])
def test_an_answer_that_does_not_come_in_time_is_none(tmp_path: Path, says: str) -> None:
    started, over = time.monotonic(), threading.Event()

    def never(_request: Request, _say: Say) -> None:
        over.wait(60)

    peer = WebPeer(never if says == "nothing" else _byte_by_byte)
    with peer.running():
        results = list(_sender(peer.url, 0.5).send(NOWHERE, _parcels(tmp_path)))
        over.set()
        assert time.monotonic() - started < 30  # whole, either takes longer
    assert [each.contact for each in results] == [Contact.OFFERED]


def test_a_refusal_before_the_whole_request_was_read_is_heard(tmp_path: Path) -> None:
    """A proxy answers 413 to a large body and closes."""
    path = write_part10(tmp_path / "large.dcm", chest_dataset(SOPInstanceUID=UID))
    with path.open("ab") as file:
        file.write(bytes(64 << 20))

    class Hasty(WebPeer):
        def _converse(self, sock: socket.socket) -> None:
            sock.recv(1000)
            sock.sendall(http(413, Connection="close"))
            while sock.recv(1 << 20):
                pass

    with Hasty().running() as peer:
        (result,) = _sender(peer.url).send(NOWHERE, [Parcel(1, path, "1.2", UID)])
    assert (result.verdict, result.error) == (
        Verdict.REJECTED,
        "STOW-RS was answered 413: the object was refused",
    )


@pytest.mark.parametrize("code", [503, 429])
def test_the_pause_that_a_server_asks_for_is_passed_on(tmp_path: Path, code: int) -> None:
    (result,) = _send(WebPeer(lambda _request, _say: http(code, Retry_After="17")), tmp_path)
    assert result.retry_after_seconds == 17.0


def test_retry_after_is_a_number_or_a_date() -> None:
    moment = datetime.now(UTC) + timedelta(seconds=100)
    assert 90 < (seconds_of(format_datetime(moment, usegmt=True)) or 0) <= 100
    assert seconds_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for nonsense in (None, "", "-3", "soon", "1e9", "٣"):
        assert seconds_of(nonsense) is None


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, dcmtk: Callable[[str], Path]) -> Authority:
    dcmtk("openssl")
    return Authority.make(tmp_path_factory.mktemp("web-pki") / "hospital")


@pytest.fixture(scope="module")
def pacs(hospital: Authority) -> Pair:
    return hospital.issue("pacs")


def _over_tls(authority: Authority, pair: Pair | None, url: str) -> Sender:
    files = {"certificate": pair.certificate, "private_key": pair.private_key} if pair else {}
    return _sender(url, dicom={"tls": {**files, "trusted_cas": authority.certificate}})


def test_both_sides_are_verified_over_tls(hospital: Authority, pacs: Pair, tmp_path: Path) -> None:
    peer = WebPeer(context=server_context(hospital.settings(pacs, port=0)))
    with peer.running():
        sender = _over_tls(hospital, hospital.issue("node", use="client"), peer.url)
        assert sender.echo(NOWHERE) is None
        (result,) = sender.send(NOWHERE, _parcels(tmp_path))
    assert result.verdict is Verdict.SENT


def test_a_server_of_another_ca_or_name_gets_nothing(hospital: Authority, tmp_path: Path) -> None:
    stranger = Authority.make(tmp_path / "stranger")
    elsewhere = hospital.issue("elsewhere", names="DNS:elsewhere.example")
    for authority, pair in ((stranger, stranger.issue("pacs")), (hospital, elsewhere)):
        peer = WebPeer(context=server_context(authority.settings(pair, port=0)))
        with peer.running():
            sender = _over_tls(hospital, None, peer.url)
            (result,) = sender.send(NOWHERE, _parcels(tmp_path))
            problem = sender.echo(NOWHERE)
        assert result.contact is Contact.UNREACHED
        for said in (result.error or "", problem or ""):
            assert "cannot be reached: TLS: its certificate is refused here (" in said
        assert peer.requests == []


def test_a_server_that_refuses_our_certificate_is_named_and_nothing_arrives(
    hospital: Authority, pacs: Pair, tmp_path: Path
) -> None:
    peer = WebPeer(context=server_context(hospital.settings(pacs, port=0)))
    with peer.running():
        sender = _over_tls(hospital, None, peer.url)
        (result,) = sender.send(NOWHERE, _parcels(tmp_path))
        problem = sender.echo(NOWHERE)
    assert result.contact is Contact.UNREACHED
    assert "CERTIFICATE_REQUIRED" in (problem or "")
    assert peer.requests == []


def test_a_server_that_does_not_speak_tls_is_named(hospital: Authority) -> None:
    with WebPeer().running() as peer:
        problem = _over_tls(hospital, None, peer.url.replace("http:", "https:")).echo(NOWHERE)
    assert "TLS: the handshake failed (" in (problem or "")


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (200, None),
        (204, None),
        (401, "QIDO-RS was answered 401: correct the credentials (headers_file)"),
        (404, "QIDO-RS was answered 404: correct the path of its url"),
        (400, "QIDO-RS was answered 400: a query was refused"),
        (503, "QIDO-RS was answered 503: the server is away or busy"),
    ],
)
def test_the_verification_asks_for_no_patient(code: int, problem: str | None) -> None:
    with WebPeer(lambda _request, _say: http(code)).running() as peer:
        assert _sender(peer.url).echo(NOWHERE) == problem
    assert peer.requests[0].target.startswith("/dicom-web/studies?StudyInstanceUID=2.25.")


def test_nobody_there(tmp_path: Path) -> None:
    sender = _sender(f"http://127.0.0.1:{free_port()}/")
    results = list(sender.send(NOWHERE, _parcels(tmp_path, "1.2.1", "1.2.2")))
    assert {each.contact for each in results} == {Contact.UNREACHED}
    assert results[0].error == "127.0.0.1 cannot be reached: Connection refused"
