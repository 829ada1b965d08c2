"""Sending over TLS: the receiver is verified, we are verified, and what fails is said."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import chest_dataset
from certificates import Authority, Pair
from rows import outcomes
from servers import wait_until

from dicom_node.senders.base import Parcel, Receiver, Verdict
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction
from models.settings import load_settings

CR = "1.2.840.10008.5.1.4.1.1.1"

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: no row is in question."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, dcmtk: Callable[[str], Path]) -> Authority:
    """The CA that both sides trust."""
    dcmtk("openssl")
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def stranger(hospital: Authority) -> Authority:
    """A CA that nobody trusts."""
    return Authority.make(hospital.folder.parent / "stranger")


@pytest.fixture(scope="module")
def pacs(hospital: Authority) -> Pair:
    """The receiver's certificate."""
    return hospital.issue("pacs")


def _parcel(folder: Path) -> Parcel:
    path = folder / "chest.dcm"
    ds = chest_dataset(PatientID="P1")
    ds.save_as(path, enforce_file_format=True)
    return Parcel(1, path, CR, str(ds.SOPInstanceUID))


def _sender(authority: Authority, pair: Pair | None) -> CStoreSender:
    """Return the sender of a node that has this certificate, or none, and trusts this CA."""
    files = (
        {} if pair is None else {"certificate": pair.certificate, "private_key": pair.private_key}
    )
    where = {"ae_title": "PACS", "host": "127.0.0.1", "port": 104}
    settings = load_settings(
        None,
        dicom={"tls": {**files, "trusted_cas": authority.certificate}},
        delivery={"timeout_seconds": 10.0},
        destinations=[{"name": "pacs", "tls": True, **where}, {"name": "plain", **where}],
    )
    return CStoreSender.of(settings)


def test_results_go_over_tls_with_both_sides_verified(
    listen: Listen, hospital: Authority, pacs: Pair, tmp_path: Path
) -> None:
    node = listen(tls=hospital.settings(pacs, port=0), plain=False)
    receiver = Receiver("pacs", "NODE", "127.0.0.1", node.listener.tls_port)
    sender = _sender(hospital, hospital.issue("sender", use="client"))
    assert sender.echo(receiver) is None
    (result,) = sender.send(receiver, [_parcel(tmp_path)])
    assert (result.verdict, result.status) == (Verdict.SENT, 0x0000)
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["stored"]
    assert outcomes(node.database, AuditAction.CONNECTION_REFUSED) == []


def test_only_destinations_with_the_setting_are_spoken_to_over_tls(
    listen: Listen, hospital: Authority
) -> None:
    receiver = Receiver("plain", "NODE", "127.0.0.1", listen().port)
    sender = _sender(hospital, None)
    assert sender.echo(receiver) is None
    over_tls = sender.echo(Receiver("pacs", "NODE", "127.0.0.1", receiver.port))
    assert (
        over_tls == "127.0.0.1 cannot be reached: TLS: the handshake failed (WRONG_VERSION_NUMBER)"
    )


def test_a_receiver_with_another_name_in_its_certificate_gets_nothing(
    listen: Listen, hospital: Authority, tmp_path: Path
) -> None:
    elsewhere = hospital.issue("elsewhere", names="DNS:elsewhere.example,IP:10.0.0.1")
    node = listen(tls=hospital.settings(elsewhere, port=0))
    receiver = Receiver("pacs", "NODE", "127.0.0.1", node.listener.tls_port)
    (result,) = _sender(hospital, None).send(receiver, [_parcel(tmp_path)])
    assert result.verdict is Verdict.RETRY
    assert "its certificate is refused here (IP address mismatch" in (result.error or "")


def test_a_receiver_of_another_ca_gets_nothing(
    listen: Listen, hospital: Authority, stranger: Authority, tmp_path: Path
) -> None:
    node = listen(tls=stranger.settings(stranger.issue("pacs"), port=0))
    receiver = Receiver("pacs", "NODE", "127.0.0.1", node.listener.tls_port)
    (result,) = _sender(hospital, None).send(receiver, [_parcel(tmp_path)])
    assert result.verdict is Verdict.RETRY
    assert "its certificate is refused here (" in (result.error or "")


@pytest.mark.parametrize(
    ("shown", "alert"), [("stranger", "TLSV1_ALERT_UNKNOWN_CA"), (None, "CERTIFICATE_REQUIRED")]
)
def test_a_receiver_that_refuses_our_certificate_is_named(
    listen: Listen,
    hospital: Authority,
    stranger: Authority,
    pacs: Pair,
    shown: str | None,
    alert: str,
) -> None:
    node = listen(tls=hospital.settings(pacs, port=0))
    receiver = Receiver("pacs", "NODE", "127.0.0.1", node.listener.tls_port)
    problem = _sender(hospital, stranger.issue("us") if shown else None).echo(receiver)
    assert problem is not None
    assert "127.0.0.1 cannot be reached: TLS: the handshake failed (" in problem
    assert alert in problem


def test_a_file_that_is_gone_is_a_reason_to_try_again(
    hospital: Authority, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    pair = Pair(tmp_path / "gone.pem", tmp_path / "gone.key")
    receiver = Receiver("pacs", "NODE", "127.0.0.1", free_port())
    (result,) = _sender(hospital, pair).send(receiver, [_parcel(tmp_path)])
    assert result.verdict is Verdict.RETRY
    assert f"dicom.tls.certificate {pair.certificate} cannot be read" in (result.error or "")


def test_dcmtk_receives_over_tls(
    dcmtk: Callable[[str], Path],
    hospital: Authority,
    pacs: Pair,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> None:
    port, received = free_port(), tmp_path / "received"
    received.mkdir()
    files = ("+tls", pacs.private_key, pacs.certificate, "+cf", hospital.certificate)
    command = [dcmtk("storescp"), *files, "-rc", "-aet", "PACS", "-od", received, str(port)]
    receiver = Receiver("pacs", "PACS", "127.0.0.1", port)
    with subprocess.Popen([str(each) for each in command]) as process:
        try:
            sender = _sender(hospital, hospital.issue("sender"))
            wait_until(lambda: sender.echo(receiver) is None, 30, "storescp")
            (result,) = sender.send(receiver, [_parcel(tmp_path)])
            assert result.verdict is Verdict.SENT
            assert len(list(received.iterdir())) == 1
            assert "cannot be reached: TLS" in (_sender(hospital, None).echo(receiver) or "")
        finally:
            process.terminate()
