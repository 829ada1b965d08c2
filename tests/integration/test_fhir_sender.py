"""FHIR transactions to a server that validates them with fhir.resources, and to odd ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from message_peers import FhirPeer
from messages import at, content, report_image
from servers import free_port
from web_peers import WebPeer, http

from dicom_node.senders.base import Contact, Parcel, Receiver, Sender, SendResult, Verdict
from dicom_node.senders.chosen import sender_for
from models.settings import load_settings
from worker.fhir_bundle import build_bundle

NOWHERE = Receiver("ehr", "FHIR", "127.0.0.1", 1)


def _sender(url: str, timeout: float = 5.0, **destination: Any) -> Sender:
    settings = load_settings(
        None,
        delivery={"timeout_seconds": timeout},
        destinations=[{"name": "ehr", "url": url, **destination}],
    )
    return sender_for(settings, "ehr")


def _parcel(folder: Path, data: bytes, number: int = 0) -> Parcel:
    path = folder / f"{number}.json"
    path.write_bytes(data)
    return Parcel(number, path, "", "")


def _outcome(*codes: str, severity: str = "error") -> bytes:
    issues = [{"severity": severity, "code": code, "diagnostics": "Doe^John"} for code in codes]
    return json.dumps({"resourceType": "OperationOutcome", "issue": issues}).encode()


def test_a_transaction_is_there_once_however_often_it_comes(tmp_path: Path) -> None:
    first = build_bundle(content())
    parcel = _parcel(tmp_path, first)
    with FhirPeer().running() as peer:
        sender = _sender(peer.url)
        for _ in range(2):
            assert [it.verdict for it in sender.send(NOWHERE, [parcel])] == [Verdict.SENT]
        assert len(peer.of_kind("DiagnosticReport")) == len(peer.of_kind("Device")) == 1
        assert len(peer.of_kind("Observation")) == 3
        second = build_bundle(content(report_image(), rest=(), context=at(1)), first)
        (result,) = sender.send(NOWHERE, [_parcel(tmp_path, second, 1)])
        assert result.verdict is Verdict.SENT
    statuses = sorted(each["status"] for each in peer.of_kind("Observation"))
    assert statuses == ["cancelled", "corrected", "entered-in-error"]
    assert [each["status"] for each in peer.of_kind("DiagnosticReport")] == ["corrected"]
    assert peer.bundles == [first, first, second]
    assert peer.headers[0]["content-type"] == "application/fhir+json"


def test_headers_of_the_destination_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EHR_HEADERS", "Authorization: Bearer secret")
    with FhirPeer().running() as peer:
        sender = _sender(peer.url, headers_variable="EHR_HEADERS")
        (result,) = sender.send(NOWHERE, [_parcel(tmp_path, build_bundle(content()))])
    assert result.verdict is Verdict.SENT
    assert peer.headers[0]["authorization"] == "Bearer secret"


def _answered(status: int, body: bytes, tmp_path: Path, **headers: str) -> list[SendResult]:
    peer = WebPeer(lambda _request, _say: http(status, body, **headers))
    parcels = [_parcel(tmp_path, build_bundle(content()), number) for number in range(2)]
    with peer.running():
        return list(_sender(peer.url.replace("http", "fhir+http", 1)).send(NOWHERE, parcels))


@pytest.mark.parametrize(
    ("status", "body", "verdict", "contact", "words"),
    [
        (400, _outcome("invalid", "structure"), "rejected", "answered", "400 (invalid, structure)"),
        (422, _outcome("required"), "rejected", "answered", "422 (required): the resources were"),
        (422, b"<html>", "rejected", "answered", "422: the resources were refused"),
        (422, _outcome("lock-error"), "retry", "answered", "422 (lock-error)"),
        (422, _outcome("lock-error", "value"), "rejected", "answered", "422 (lock-error, value)"),
        (422, _outcome("made-up"), "rejected", "answered", "422: the resources were refused"),
        (412, _outcome("multiple-matches"), "rejected", "answered", "several resources there"),
        (409, _outcome("conflict"), "retry", "answered", "409 (conflict)"),
        (408, b"", "retry", "offered", "408"),
        (429, b"", "retry", "offered", "429: the server is away or busy"),
        (500, _outcome("exception"), "retry", "answered", "500 (exception): the server failed"),
        (503, b"", "retry", "offered", "503"),
        (401, b"", "retry", "unreached", "correct the credentials"),
        (404, b"", "retry", "unreached", "no FHIR server that takes transactions is there"),
        (302, b"", "retry", "unreached", "no FHIR server"),
        (202, b"", "retry", "answered", "does not say whether it stored"),
        (200, b"<html>Please log in</html>", "retry", "answered", "does not say whether"),
        (200, _outcome("informational", severity="information"), "retry", "answered", "does not"),
        (200, b'{"resourceType":"Bundle","type":"transaction-response"}', "retry", "answered", ""),
        (200, b"[" * 100_000, "retry", "answered", "does not say"),
    ],
)
def test_what_is_answered_decides(
    tmp_path: Path, status: int, body: bytes, verdict: str, contact: str, words: str
) -> None:
    first, second = _answered(status, body, tmp_path)
    assert (first.verdict.value, first.contact.value) == (verdict, contact)
    assert words in (first.error or "")
    assert "Doe" not in (first.error or "")
    assert (second.contact is Contact.UNREACHED) == (contact != "answered")


def test_a_transaction_of_which_a_part_failed_is_not_stored(tmp_path: Path) -> None:
    entries = len(json.loads(build_bundle(content()))["entry"])
    told = [{"response": {"status": "200 OK"}} for _ in range(entries)]

    def body() -> bytes:
        bundle = {"resourceType": "Bundle", "type": "transaction-response", "entry": told}
        return json.dumps(bundle).encode()

    assert _answered(200, body(), tmp_path)[0].verdict is Verdict.SENT
    told[0]["response"]["status"] = "400 Bad Request"
    assert _answered(200, body(), tmp_path)[0].verdict is Verdict.RETRY


def test_the_pause_that_a_server_asks_for_is_kept(tmp_path: Path) -> None:
    first, _ = _answered(429, b"", tmp_path, Retry_After="7")
    assert first.retry_after_seconds == 7


def test_silence_and_nobody_there_are_told_apart(tmp_path: Path) -> None:
    parcels = [_parcel(tmp_path, build_bundle(content()))]
    with WebPeer(lambda _request, _say: None).running() as peer:
        (silent,) = _sender(peer.url.replace("http", "fhir+http", 1)).send(NOWHERE, parcels)
    assert (silent.verdict, silent.contact) == (Verdict.RETRY, Contact.OFFERED)
    (gone,) = _sender(f"fhir+http://127.0.0.1:{free_port()}").send(NOWHERE, parcels)
    assert (gone.verdict, gone.contact) == (Verdict.RETRY, Contact.UNREACHED)
    assert "cannot be reached: Connection refused" in (gone.error or "")


def test_a_file_that_is_no_transaction_is_refused_here(tmp_path: Path) -> None:
    with FhirPeer().running() as peer:
        damaged = _parcel(tmp_path, b'{"type":"transaction"')
        (result,) = _sender(peer.url).send(NOWHERE, [damaged])
    assert (result.verdict, result.contact) == (Verdict.REJECTED, Contact.NONE)
    assert peer.bundles == []


def test_the_verification_asks_what_the_server_can_do() -> None:
    with FhirPeer().running() as peer:
        assert _sender(peer.url).echo(NOWHERE) is None
        assert "no CapabilityStatement" in (_sender(f"{peer.url}/else").echo(NOWHERE) or "")
    assert "cannot be reached" in (
        _sender(f"fhir+http://127.0.0.1:{free_port()}").echo(NOWHERE) or ""
    )
