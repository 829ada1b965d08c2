"""Allow-lists against a real listener: who is refused when, and what is recorded."""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import chest_dataset
from rows import outcomes
from senders import associate, store
from servers import wait_until
from sqlalchemy import select

from dicom_node.supervisor import Supervisor
from models.audit import AuditAction, AuditEvent

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: no row but the audit's is in question."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as sock:
        try:
            sock.bind(("::1", 0))
        except OSError:
            return False
    return True


def _wait_for(node: "RunningListener", action: AuditAction, outcome: str) -> None:  # noqa: F821  of conftest.py
    wait_until(lambda: outcomes(node.database, action) == [outcome], 20, "an audit event")


def test_an_address_outside_the_list_is_closed_before_a_byte_is_read(listen: Listen) -> None:
    node = listen(allowed_addresses=["10.0.0.0/8", "fd00::/8"])
    with socket.create_connection(("127.0.0.1", node.port), 10) as sock:
        assert sock.recv(1) == b""
    _wait_for(node, AuditAction.CONNECTION_REFUSED, "address_not_allowed")
    with node.database.read() as session:
        event = session.scalars(select(AuditEvent)).one()
        assert event.peer.startswith("127.0.0.1:")


def test_an_address_in_the_list_stores(listen: Listen) -> None:
    node = listen(allowed_addresses=["10.0.0.0/8", "127.0.0.0/8"])
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    assert outcomes(node.database, AuditAction.CONNECTION_REFUSED) == []


@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 here")
def test_an_ipv4_peer_of_an_ipv6_socket_is_known_by_its_ipv4_address(listen: Listen) -> None:
    node = listen(host="::", allowed_addresses=["127.0.0.1"])
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    with node.database.read() as session:
        stored = AuditEvent.action == AuditAction.INSTANCE_STORED
        assert session.scalars(select(AuditEvent).where(stored)).one().peer.startswith("127.0.0.1:")
    with socket.create_connection(("::1", node.port), 10) as sock:
        assert sock.recv(1) == b""


def test_an_ae_title_from_elsewhere_is_not_recognised(listen: Listen) -> None:
    peers = [
        {"ae_title": "CR1", "addresses": ["10.1.7.0/24"]},
        {"ae_title": "CR2", "addresses": ["127.0.0.1", "10.1.7.0/24"]},
    ]
    node = listen(peers=peers)
    with associate(node.port, calling="CR1") as assoc:
        assert assoc.is_rejected
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 3)
    _wait_for(node, AuditAction.ASSOCIATION_REJECTED, "address_not_of_ae")
    for calling in ("CR2", "OTHER"):
        assert store(node.port, chest_dataset(PatientID="P1"), calling=calling) == 0x0000


def test_up_sees_a_listener_that_lets_nobody_in_from_here(
    listen: Listen, free_port: Callable[[], int]
) -> None:
    """Its C-ECHO would be refused by right; that the port is open is enough."""
    node = listen(port=free_port(), allowed_addresses=["10.0.0.0/8"])
    supervisor = Supervisor(node.settings)
    assert supervisor._echo() is None
    node.listener.stop()
    assert "refused" in (supervisor._echo() or "")
