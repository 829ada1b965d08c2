"""Listeners behind a TCP balancer: a real HAProxy, and peers that only pretend to be one."""

import contextlib
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absent import missing
from builders import chest_dataset
from certificates import Authority
from pynetdicom import AE
from rows import outcomes
from senders import store
from servers import find_program, free_port, wait_until
from sqlalchemy import select

from models.audit import AuditAction, AuditEvent

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

_ACCEPTED, _REFUSED = AuditAction.ASSOCIATION_ACCEPTED, AuditAction.CONNECTION_REFUSED
_LOOPBACK = ["127.0.0.0/8"]
_VERIFICATION = "1.2.840.10008.1.1"
_CONFIGURATION = """
global
  log stdout format raw daemon
defaults
  mode tcp
  timeout connect 10s
  timeout client 60s
  timeout server 60s
listen plain
  bind 127.0.0.1:{plain}
  server node 127.0.0.1:{node} {send}
listen tls
  bind 127.0.0.1:{tls}
  server node 127.0.0.1:{node_tls} {send}
"""


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: no row but the audit's is in question."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _answers(port: int) -> bool:
    """Ask from an address that the node admits: to open and close is no refusal then."""
    ours = ("127.0.0.7", 0)
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0, ours):
        return True
    return False


@contextlib.contextmanager
def _haproxy(folder: Path, node: int, node_tls: int, send: str) -> Iterator[tuple[int, int]]:
    """Run a HAProxy in front of two ports; yield its own."""
    program = find_program("haproxy") or missing("HAProxy is not installed (haproxy)")
    plain, tls = free_port(), free_port()
    text = _CONFIGURATION.format(plain=plain, tls=tls, node=node, node_tls=node_tls, send=send)
    (folder / "haproxy.cfg").write_text(text)
    with (folder / "haproxy.log").open("wb") as log:
        command = [str(program), "-db", "-f", str(folder / "haproxy.cfg")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: _answers(plain) and _answers(tls), 60, "HAProxy")
            yield plain, tls
        finally:
            process.kill()
            process.wait(30)


def _peers(node: "RunningListener", action: AuditAction) -> list[str]:  # noqa: F821  of conftest.py
    with node.database.read() as session:
        return [
            str(each)
            for each in session.scalars(
                select(AuditEvent.peer).where(AuditEvent.action == action).order_by(AuditEvent.id)
            )
        ]


def _echo(port: int, from_address: str, tls: ssl.SSLContext | None = None) -> tuple[int, str]:
    """C-ECHO from an address of this host; return the status, and address and port of the call."""
    ae = AE(ae_title="CR1")
    ae.add_requested_context(_VERIFICATION)
    arguments = None if tls is None else (tls, "localhost")
    assoc = ae.associate(
        "127.0.0.1", port, bind_address=(from_address, 0), tls_args=arguments, max_pdu=16384
    )
    assert assoc.is_established
    try:
        assert assoc.dul.socket is not None
        host, own_port = assoc.dul.socket.socket.getsockname()
        return int(assoc.send_c_echo().Status), f"{host}:{own_port}"
    finally:
        assoc.release()


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_behind_haproxy_the_sender_is_seen_and_not_the_balancer(
    listen: Listen, tmp_path: Path, send: str
) -> None:
    authority = Authority.make(tmp_path / "ca")
    tls = authority.settings(authority.issue("node"), port=0, require_client_certificate=False)
    node = listen(
        proxy_protocol_from=["127.0.0.1"],
        allowed_addresses=["127.0.0.7", "127.0.0.8"],
        peers=[{"ae_title": "CR1", "addresses": ["127.0.0.7"]}],
        tls=tls.model_dump(),
    )
    assert node.listener.tls_port is not None
    client = ssl.create_default_context(cafile=str(authority.certificate))
    with _haproxy(tmp_path, node.port, node.listener.tls_port, send) as (plain, over_tls):
        status, called_from = _echo(plain, "127.0.0.7")
        assert status == 0x0000
        status, called_securely_from = _echo(over_tls, "127.0.0.7", client)
        assert status == 0x0000
        with socket.create_connection(
            ("127.0.0.1", plain), 20, source_address=("127.0.0.9", 0)
        ) as sock:
            refused = sock.getsockname()
            assert sock.recv(1) == b""
    wait_until(lambda: len(_peers(node, _REFUSED)) == 1, 20, "a refusal")
    assert outcomes(node.database, _REFUSED) == ["address_not_allowed"]
    assert _peers(node, _REFUSED) == [f"127.0.0.9:{refused[1]}"]
    wait_until(lambda: len(_peers(node, _ACCEPTED)) == 2, 20, "two associations in the audit")
    assert _peers(node, _ACCEPTED) == [called_from, called_securely_from]


def _closed(port: int, data: bytes, *, shut: bool = False) -> None:
    """Say this to the node; return when it has closed the connection."""
    with socket.create_connection(("127.0.0.1", port), 20) as sock:
        sock.sendall(data)
        if shut:
            sock.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass


def test_what_a_balancer_says_wrongly_is_refused_and_recorded(
    listen: Listen, caplog: pytest.LogCaptureFixture
) -> None:
    node = listen(proxy_protocol_from=_LOOPBACK, network_timeout_seconds=5)
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    _closed(node.port, b"PROXY TCP4 10.1.2.3 10.9.9.9 1 99999\r\n")  # malformed
    _closed(node.port, b"PROXY TCP4 " + b"1" * 300)  # too long
    _closed(node.port, signature[:-1] + b"?" + bytes(40))  # wrong signature
    _closed(node.port, signature + struct.pack(">BBH", 0x21, 0x11, 12) + b"\x0a\x01", shut=True)
    _closed(node.port, b"PROXY TCP4 10.1")  # and no more: late
    _closed(node.port, b"", shut=True)  # a probe is no refusal
    count = 5
    wait_until(
        lambda: outcomes(node.database, _REFUSED) == ["bad_proxy_header"] * count,
        20,
        "five refusals",
    )
    assert all(each.startswith("127.0.0.1:") for each in _peers(node, _REFUSED))
    assert caplog.text.count("refused: bad_proxy_header") == count
    assert "10.1.2.3" not in caplog.text
    assert node.listener.active_associations == 0


def test_nobody_else_may_say_where_he_is(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    node = listen(proxy_protocol_from=["10.0.0.0/8"])
    _closed(node.port, b"PROXY TCP4 10.1.2.3 10.9.9.9 40001 104\r\n")
    _closed(node.port, b"\r\n\r\n\0\r\nQUIT\n" + bytes(20))
    assert caplog.text.count("is not in dicom.proxy_protocol_from") == 2
    assert _peers(node, _ACCEPTED) == []
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000  # without a header: directly
    assert all(each.startswith("127.0.0.1:") for each in _peers(node, _ACCEPTED))


def test_a_slow_balancer_blocks_nobody(listen: Listen) -> None:
    node = listen(proxy_protocol_from=["127.0.0.1"])
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", node.port), 20))
            sock.sendall(b"PROXY TCP4 ")
        ae = AE(ae_title="CR1")
        ae.add_requested_context(_VERIFICATION)
        assoc = ae.associate("127.0.0.1", node.port, bind_address=("127.0.0.5", 0))
        assert assoc.is_established  # from where no header is wanted
        assoc.release()
