"""DICOM over TLS against a real listener: who is let in, who is not, and what is recorded."""

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from builders import chest_dataset
from certificates import Authority, Pair
from pynetdicom import AE
from rows import instances, outcomes
from servers import wait_until
from sqlalchemy import select

from dicom_node.tls import TlsSocket, server_context
from models.audit import AuditAction, AuditEvent

CR = "1.2.840.10008.5.1.4.1.1.1"
DAY = timedelta(days=1)

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: TLS comes before any row."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory, dcmtk: Callable[[str], Path]) -> Authority:
    """The CA that the node trusts."""
    dcmtk("openssl")
    return Authority.make(tmp_path_factory.mktemp("pki") / "hospital")


@pytest.fixture(scope="module")
def pairs(hospital: Authority) -> dict[str, Pair]:
    """Certificates of peers, good and bad."""
    stranger = Authority.make(hospital.folder.parent / "stranger")
    return {
        "node": hospital.issue("node"),
        "good": hospital.issue("modality"),
        "other_ca": stranger.issue("modality"),
        "expired": hospital.issue("old", valid_from=-9 * DAY, valid_to=-2 * DAY),
        "future": hospital.issue("new", valid_from=2 * DAY, valid_to=9 * DAY),
        "server_only": hospital.issue("web", use="server"),
    }


def client(
    hospital: Authority,
    pair: Pair | None,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ciphers: str = "DEFAULT",
) -> ssl.SSLContext:
    """Return a context that would be content with anything the node may offer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = TlsSocket  # leaves nothing to the garbage collector
    context.load_verify_locations(hospital.certificate)
    context.set_ciphers(ciphers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # to offer TLS 1.1 is the point
        context.minimum_version = min(newest, ssl.TLSVersion.TLSv1_2)
        context.maximum_version = newest
    if pair is not None:
        context.load_cert_chain(pair.certificate, pair.private_key)
    return context


def store(port: int, context: ssl.SSLContext) -> int | None:
    """C-STORE one image over TLS; None when no association came about."""
    ds = chest_dataset(PatientID="P1")
    ae = AE(ae_title="CR1")
    ae.add_requested_context(CR, ds.file_meta.TransferSyntaxUID)
    assoc = ae.associate("127.0.0.1", port, ae_title="NODE", tls_args=(context, "127.0.0.1"))
    if not assoc.is_established:
        return None
    try:
        return int(assoc.send_c_store(ds).Status)
    finally:
        assoc.release()


def _refusals(node: "RunningListener") -> list[AuditEvent]:  # noqa: F821  of conftest.py
    with node.database.read() as session:
        wanted = AuditEvent.action == AuditAction.CONNECTION_REFUSED
        return list(session.scalars(select(AuditEvent).where(wanted)))


def _wait_for_refusal(node: "RunningListener") -> AuditEvent:  # noqa: F821  of conftest.py
    wait_until(lambda: bool(_refusals(node)), 20, "an audit event")
    (event,) = _refusals(node)
    return event


@pytest.fixture
def listen_tls(
    listen: Listen, hospital: Authority, pairs: dict[str, Pair]
) -> Callable[..., "RunningListener"]:  # noqa: F821  of conftest.py
    """Start a listener with TLS; keyword arguments are settings of `dicom.tls`."""

    def start(dicom: dict[str, object] | None = None, **tls: object) -> "RunningListener":  # noqa: F821  of conftest.py
        settings = hospital.settings(pairs["node"], **{"port": 0, **tls})
        return listen(**{"tls": settings, **(dicom or {})})

    return start


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_peer_with_a_good_certificate_stores(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair], newest: ssl.TLSVersion
) -> None:
    node = listen_tls()
    assert store(node.listener.tls_port, client(hospital, pairs["good"], newest)) == 0x0000
    assert len(instances(node.database)) == 1
    assert _refusals(node) == []


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("shown", "outcome"),
    [
        (None, "no_certificate"),
        ("other_ca", "certificate_of_unknown_ca"),
        ("expired", "certificate_expired"),
        ("future", "certificate_not_yet_valid"),
        ("server_only", "certificate_invalid"),
    ],
)
def test_a_peer_without_a_good_certificate_is_refused_and_recorded(
    listen_tls: Listen,
    hospital: Authority,
    pairs: dict[str, Pair],
    newest: ssl.TLSVersion,
    shown: str | None,
    outcome: str,
) -> None:
    node = listen_tls()
    context = client(hospital, pairs[shown] if shown else None, newest)
    assert store(node.listener.tls_port, context) is None
    event = _wait_for_refusal(node)
    assert event.outcome == outcome
    assert event.peer.startswith("127.0.0.1:")
    assert event.details["reason"]
    assert event.patient is None
    assert instances(node.database) == []
    assert store(node.listener.tls_port, client(hospital, pairs["good"], newest)) == 0x0000


def _shake_hands(client_side: ssl.SSLContext, server_side: ssl.SSLContext) -> str | None:
    """Shake hands over a socket pair and return the version. Raises what the server raises."""
    ours, theirs = socket.socketpair()

    def connect() -> None:
        with (
            contextlib.suppress(OSError),
            client_side.wrap_socket(theirs, server_hostname="localhost") as sock,
        ):
            sock.recv(1)

    peer = threading.Thread(target=connect)
    peer.start()
    try:
        with server_side.wrap_socket(ours, server_side=True) as sock:
            return sock.version()
    finally:
        ours.close()
        peer.join()


def test_tls_1_1_is_refused_for_its_version_alone(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair]
) -> None:
    """The same client gets through where only the lowest version differs."""
    old = client(hospital, pairs["good"], ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0")
    server = server_context(hospital.settings(pairs["node"]))
    server.set_ciphers("ALL:@SECLEVEL=0")
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        _shake_hands(old, server)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version = ssl.TLSVersion.TLSv1_1
    assert _shake_hands(old, server) == "TLSv1.1"

    node = listen_tls()
    assert store(node.listener.tls_port, old) is None
    assert _wait_for_refusal(node).outcome == "tls_version"


@pytest.mark.parametrize("suite", ["ECDHE-ECDSA-AES256-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_a_suite_outside_the_profile_is_refused(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair], suite: str
) -> None:
    node = listen_tls()
    context = client(hospital, pairs["good"], ssl.TLSVersion.TLSv1_2, suite)
    assert store(node.listener.tls_port, context) is None
    assert _wait_for_refusal(node).outcome == "no_shared_cipher"


def test_certificates_may_be_left_out_where_a_setting_says_so(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair]
) -> None:
    node = listen_tls(require_client_certificate=False)
    assert store(node.listener.tls_port, client(hospital, None)) == 0x0000
    assert store(node.listener.tls_port, client(hospital, pairs["expired"])) is None
    assert _wait_for_refusal(node).outcome == "certificate_expired"


def test_plain_dicom_on_the_tls_port_is_refused(listen_tls: Listen) -> None:
    node = listen_tls()
    with socket.create_connection(("127.0.0.1", node.listener.tls_port), 10) as plain:
        plain.sendall(b"\x01\x00\x00\x00\x00\xcd" + b"\x00\x01" + bytes(203))
    assert _wait_for_refusal(node).outcome == "not_tls"


def test_the_plain_port_can_be_closed(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair]
) -> None:
    node = listen_tls(dicom={"plain": False})
    assert node.port is None
    assert store(node.listener.tls_port, client(hospital, pairs["good"])) == 0x0000


@pytest.fixture
def silent() -> Iterator[Callable[..., socket.socket]]:
    """Opens connections that say `first` and no more; closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_one(port: int, first: bytes = b"") -> socket.socket:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
            sock.sendall(first)
            return sock

        yield open_one


def test_silent_peers_block_nobody(
    listen_tls: Listen,
    hospital: Authority,
    pairs: dict[str, Pair],
    silent: Callable[..., socket.socket],
) -> None:
    """pynetdicom's own accept loop would shake hands with the first and wait for it."""
    node = listen_tls(dicom={"max_associations": 1}, handshake_seconds=60.0)
    for first in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01") * 10:
        silent(node.listener.tls_port, first)
    started = time.monotonic()
    assert store(node.listener.tls_port, client(hospital, pairs["good"])) == 0x0000
    assert time.monotonic() - started < 50  # of the minute that a handshake may take


def test_a_handshake_has_a_deadline_even_when_it_drips(
    listen_tls: Listen, silent: Callable[..., socket.socket]
) -> None:
    node = listen_tls(handshake_seconds=1.0)
    sock = silent(node.listener.tls_port, b"\x16\x03\x01\x02\x00")
    started = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - started < 90:
            sock.sendall(b"\x00")
            time.sleep(0.1)
    assert time.monotonic() - started < 60
    assert _wait_for_refusal(node).outcome == "handshake_timeout"


def test_a_peer_that_is_silent_after_the_handshake_takes_no_association(
    listen_tls: Listen,
    hospital: Authority,
    pairs: dict[str, Pair],
    silent: Callable[..., socket.socket],
) -> None:
    node = listen_tls(dicom={"max_associations": 1})
    context = client(hospital, pairs["good"])
    with context.wrap_socket(silent(node.listener.tls_port), server_hostname="127.0.0.1") as sock:
        assert sock.version() == "TLSv1.3"
        assert store(node.listener.tls_port, context) == 0x0000


def _served(port: int, hospital: Authority, pair: Pair) -> str:
    """Return the common name of the certificate that the node shows."""
    context = client(hospital, pair)
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        subject = (sock.getpeercert() or {})["subject"]
    return str(dict(part[0] for part in subject)["commonName"])


def _replace(target: Path, source: Path) -> None:
    """Swap a file as certificate tools do: written aside, then renamed."""
    aside = target.with_suffix(".new")
    shutil.copy(source, aside)
    os.replace(aside, target)  # noqa: PTH105  the one rename that replaces, by its own name


def test_renewed_certificates_serve_without_a_restart(
    listen_tls: Listen, hospital: Authority, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    files = Pair(tmp_path / "node.pem", tmp_path / "node.key")
    trusted = tmp_path / "trusted.pem"
    for target, source in (
        (files.certificate, pairs["node"].certificate),
        (trusted, hospital.certificate),
    ):
        shutil.copy(source, target)
    shutil.copy(pairs["node"].private_key, files.private_key)
    node = listen_tls(
        certificate=files.certificate, private_key=files.private_key, trusted_cas=trusted
    )
    port, good = node.listener.tls_port, pairs["good"]
    assert _served(port, hospital, good) == "node"
    renewed = hospital.issue("renewed")
    _replace(files.certificate, renewed.certificate)
    assert _served(port, hospital, good) == "node"  # until its key is there too
    _replace(files.private_key, renewed.private_key)
    assert _served(port, hospital, good) == "renewed"
    files.certificate.write_text("half written")
    assert _served(port, hospital, good) == "renewed"
    _replace(files.certificate, renewed.certificate)
    _replace(trusted, hospital.folder.parent / "stranger" / "ca.pem")
    assert store(port, client(hospital, good)) is None
    assert _wait_for_refusal(node).outcome == "certificate_of_unknown_ca"
    assert store(port, client(hospital, pairs["other_ca"])) == 0x0000


def test_dcmtk_stores_over_tls(
    listen_tls: Listen,
    hospital: Authority,
    pairs: dict[str, Pair],
    dcmtk: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    node = listen_tls()
    file = tmp_path / "chest.dcm"
    chest_dataset(PatientID="P1").save_as(file, enforce_file_format=True)
    good = pairs["good"]
    certified = ("+tls", good.private_key, good.certificate)
    line = ("-aec", "NODE", "+cf", hospital.certificate, "127.0.0.1", str(node.listener.tls_port))

    def run(program: str, *arguments: object) -> int:
        command = [str(each) for each in (dcmtk(program), *arguments)]
        return subprocess.run(command, capture_output=True, timeout=60, check=False).returncode

    assert run("echoscu", *certified, *line) == 0
    assert run("storescu", *certified, *line, file) == 0
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["stored"]
    assert run("storescu", "+tla", *line, file) != 0
    assert _wait_for_refusal(node).outcome == "no_certificate"
