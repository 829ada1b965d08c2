"""Every association is in the audit, and its sender does not wait for that."""

import threading
import time
from collections.abc import Callable

import pytest
from pynetdicom import AE
from servers import wait_until
from sqlalchemy import select, text

from models.audit import AuditAction, AuditEvent
from models.session import Database

VERIFICATION = "1.2.840.10008.1.1"
ACTIONS = (AuditAction.ASSOCIATION_ACCEPTED, AuditAction.ASSOCIATION_REJECTED)


def _events(database: Database) -> list[AuditEvent]:
    with database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action.in_(ACTIONS))
        return list(session.scalars(query.order_by(AuditEvent.at)))


def _associate(port: int, title: str = "CR1") -> float:
    """Associate and release; return how long it took."""
    ae = AE(ae_title=title)
    ae.add_requested_context(VERIFICATION)
    start = time.monotonic()
    assoc = ae.associate("127.0.0.1", port)
    if assoc.is_established:
        assoc.release()
    return time.monotonic() - start


def test_accepted_and_refused_ones_are_recorded(listen: Callable[..., object]) -> None:
    running = listen(allowed_calling_aets=("CR1",))
    _associate(running.port)
    _associate(running.port, "STRANGER")
    wait_until(lambda: len(_events(running.database)) == 2, 10, "two events")
    accepted, refused = _events(running.database)
    assert (accepted.action, accepted.outcome) == (AuditAction.ASSOCIATION_ACCEPTED, "accepted")
    assert (accepted.calling_aet, accepted.called_aet) == ("CR1", "ANY-SCP")
    assert accepted.peer is not None
    assert accepted.peer.startswith("127.0.0.1:")
    assert accepted.details["contexts"] == 1
    assert accepted.details["tls"] is None
    assert accepted.details["implementation"].startswith("1.2.826.0.1.3680043.9.3811")
    assert (refused.action, refused.calling_aet) == (AuditAction.ASSOCIATION_REJECTED, "STRANGER")


def test_many_at_once_are_few_transactions(listen: Callable[..., object]) -> None:
    running = listen()
    threads = [threading.Thread(target=_associate, args=(running.port,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    running.listener.stop()  # what waits is written
    events = _events(running.database)
    assert len(events) == 20
    assert len({event.peer for event in events}) == 20


def test_a_locked_database_holds_up_no_association(
    listen: Callable[..., object], caplog: pytest.LogCaptureFixture
) -> None:
    """What could not be written is written later, with the time at which it was."""
    running = listen()
    database: Database = running.database
    with database.engine.begin() as other:
        if database.is_sqlite:
            locking = "UPDATE alembic_version SET version_num = version_num"
        else:
            locking = "LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE"
        other.execute(text(locking))
        started = time.time()
        assert _associate(running.port) < 20  # it would be locked until the end of the block
        time.sleep(1.5)
        unlocked = time.time()
    wait_until(lambda: len(_events(database)) == 1, 20, "the event")
    assert started <= _events(database)[0].at.timestamp() < unlocked - 0.5
    assert "lost" not in caplog.text
