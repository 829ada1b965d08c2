"""Rows with what Python cannot read: sealed, named by the proof, and in nobody's way."""

from datetime import timedelta
from pathlib import Path

import pytest
from audits import SealedAudit
from rows import open_database
from sqlalchemy.exc import OperationalError

from dicom_node.audit.columns import events_by_id
from dicom_node.audit.log import AuditFilter, every_event
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.session import Database

_DEEP = "[" * 50_000 + "]" * 50_000
_NESTED = "[" * 500 + "]" * 500  # can be read, and perhaps not written again
# SQLite takes anything for anything.
SQLITE = {
    "bytes for a text": "outcome = x'4142'",
    "no UTF-8": "outcome = CAST(x'ff41' AS TEXT)",
    "no time": "at = 'yesterday'",
    "bytes for a time": "at = x'00'",
    "a number for a time": "at = 5",
    "no JSON": "details = '{'",
    "too deep": f"details = '{_DEEP}'",
    "too deep for a hash": f"patient = '{_NESTED}'",
}
POSTGRES = {
    "the end of time": "at = 'infinity'",
    "before all time": "at = '-infinity'",
    "a year that Python has not": "at = '20000-01-01'",
    "too deep": f"details = '{'[' * 5000 + ']' * 5000}'",
    "too deep for a hash": f"patient = '{_NESTED}'",
}


def _edited_before_and_after(
    audit: SealedAudit, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    audit.sealed(3)
    audit.sql(f"UPDATE audit_event SET {edit} WHERE id = 2")  # noqa: S608  constants of this file
    assert audit.found() == [("event_changed", 1, 2)]
    audit.add(3)
    audit.sql(f"UPDATE audit_event SET {edit} WHERE id = 5")  # noqa: S608  the same
    assert audit.sealer.step() == 3
    assert "event 5 of the audit cannot be read" in caplog.text
    audit.sealed(1)
    assert audit.found() == [("event_changed", 1, 2), ("event_changed", 2, 5)]


@pytest.mark.parametrize("edit", SQLITE.values(), ids=list(SQLITE))
def test_sqlite_rows_are_sealed_around_and_named(
    tmp_path: Path, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        _edited_before_and_after(SealedAudit.of(database, tmp_path), edit, caplog)


@pytest.mark.parametrize("edit", POSTGRES.values(), ids=list(POSTGRES))
def test_postgresql_rows_are_sealed_around_and_named(
    emptied_postgres: Database, tmp_path: Path, edit: str, caplog: pytest.LogCaptureFixture
) -> None:
    _edited_before_and_after(SealedAudit.of(emptied_postgres, tmp_path), edit, caplog)


def test_an_old_event_without_a_seal_is_named_whatever_its_time_is(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        audit = SealedAudit.of(database, tmp_path)
        audit.sealed(1)
        audit.add(1)
        audit.sql("UPDATE audit_event SET at = '!' WHERE id = 2")
        assert ("event_unsealed", None, 2) in audit.found()


@pytest.mark.parametrize(
    "at", ["replace(replace(at, '-', ''), ' ', 'T')", "replace(at, ' ', 'T')", "CAST(at AS BLOB)"]
)
def test_a_time_in_another_form_is_named(tmp_path: Path, at: str) -> None:
    """SQLite compares it as text: no filter by time would find such an event."""
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        audit = SealedAudit.of(database, tmp_path)
        audit.sealed(2)
        audit.sql(f"UPDATE audit_event SET at = {at} WHERE id = 2")  # noqa: S608  constants
        assert audit.found() == [("event_changed", 1, 2)]


@pytest.mark.parametrize("event_id", [-1, 0, 2])
def test_an_event_that_no_sealer_will_ever_take_is_named(
    emptied_database: Database, tmp_path: Path, event_id: int
) -> None:
    """Its id is not above the sealed ones, and its time is never old."""
    audit = SealedAudit.of(emptied_database, tmp_path)
    audit.sealed(1)
    event = {"action": AuditAction.QUERY, "outcome": "success"}
    with emptied_database.write() as session:
        session.add(AuditEvent(id=9, **event))
    assert audit.seal() == 1
    audit = SealedAudit(audit.database, audit.settings)
    with emptied_database.write() as session:
        session.add(AuditEvent(id=event_id, at=utc_now() + timedelta(days=400), **event))
    assert audit.found() == [("event_unsealed", None, event_id)]


def test_a_database_that_does_not_answer_is_no_unreadable_event(tmp_path: Path) -> None:
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        audit = SealedAudit.of(database, tmp_path)
        audit.add(1)
        audit.sql("ALTER TABLE audit_event RENAME TO away")
        with database.read() as session, pytest.raises(OperationalError):
            events_by_id(session, [1])


def test_an_action_of_a_newer_release_is_listed(emptied_database: Database, tmp_path: Path) -> None:
    audit = SealedAudit.of(emptied_database, tmp_path)
    audit.add(2)
    audit.sql("UPDATE audit_event SET action = 'never_heard_of' WHERE id = 2")
    with emptied_database.read() as session:
        actions = [row["action"] for row in every_event(session, AuditFilter())]
    assert actions == ["instance_stored", "never_heard_of"]
