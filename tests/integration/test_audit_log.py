"""The audit is found by each of its filters, page by page, newest first."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from rows import add_analysis, add_instance
from sqlalchemy import event, select, text, update

from dicom_node.audit.log import AuditFilter, events, every_event
from dicom_node.errors import CursorError
from dicom_node.paging import encode
from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.imaging import Study
from models.session import Database

HOUR = timedelta(hours=1)


@pytest.fixture
def database(emptied_database: Database) -> Database:
    """A database without rows."""
    return emptied_database


def _listed(database: Database, **wanted: Any) -> list[int]:
    with database.read() as session:
        return [row["id"] for row in events(session, AuditFilter(**wanted)).rows]


@pytest.fixture
def five(database: Database) -> Database:
    """A study of P1 whose image was received, analysed and sent; a query; a refused association."""
    add_analysis(database, add_instance(database, study_instance_uid="1.2.3"))
    with database.write() as session:
        session.execute(update(Study).values(accession_number="A1"))
        record(
            session,
            AuditAction.INSTANCE_STORED,
            "stored",
            calling_aet="CR1",
            called_aet="NODE",
            study_instance_uid="1.2.3",
            patient={"patient_id": "P1"},
        )
        session.flush()
        record(
            session,
            AuditAction.INSTANCE_ANALYSED,
            "analysed",
            study_instance_uid="1.2.3",
            model="unet 1",
        )
        session.flush()
        record(
            session,
            AuditAction.ARTIFACT_SENT,
            "sent",
            called_aet="PACS",
            study_instance_uid="1.2.3",
        )
        session.flush()
        record(
            session,
            AuditAction.QUERY,
            "success",
            calling_aet="PACS",
            patient={"PatientID": "P1", "PatientName": "DOE*"},
        )
        session.flush()
        record(session, AuditAction.ASSOCIATION_REJECTED, "refused", calling_aet="X", actor="ann")
    return database


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"patient_id": "P1"}, [4, 3, 2, 1]),
        ({"patient_id": "P1", "ae_title": "PACS"}, [4, 3]),
        ({"patient_id": "P2"}, []),
        ({"accession_number": "A1"}, [3, 2, 1]),
        ({"accession_number": "A2"}, []),
        ({"study_instance_uid": "1.2.3"}, [3, 2, 1]),
        ({"ae_title": "PACS"}, [4, 3]),
        ({"ae_title": "CR1"}, [1]),
        ({"ae_title": "NODE"}, []),
        ({"user": "ann"}, [5]),
        ({"model": "unet 1"}, [2]),
        ({"model": "unet"}, [2]),
        ({"model": "1"}, [2]),
        ({"model": "unet 2"}, []),
        ({"action": AuditAction.INSTANCE_STORED}, [1]),
        ({"action": AuditAction.QUERY}, [4]),
        ({"outcome": "stored"}, [1]),
        ({"outcome": "refused"}, [5]),
        ({"since": utc_now() - HOUR, "until": utc_now() + HOUR}, [5, 4, 3, 2, 1]),
        ({"until": utc_now() - HOUR}, []),
        ({"since": utc_now() + HOUR}, []),
    ],
    ids=lambda it: ("-".join(it) or "all") if isinstance(it, dict) else "",
)
def test_each_filter_finds_its_events(
    five: Database, wanted: dict[str, Any], found: list[int]
) -> None:
    assert _listed(five, **wanted) == found


def test_a_merge_is_found_by_both_patients(database: Database) -> None:
    add_instance(database, study_instance_uid="1.2.3")
    with database.write() as session:
        session.execute(update(Study).values(patient_id="NEW"))
        record(
            session,
            AuditAction.PATIENT_MERGED,
            "merged",
            study_instance_uid="1.2.3",
            patient={"patient_id": "OLD"},
        )
    assert _listed(database, patient_id="OLD") == _listed(database, patient_id="NEW") == [1]


def test_pages_follow_each_other_whatever_comes_between(database: Database) -> None:
    """Also where many events share a time, and where two branches are merged."""
    moment = utc_now() - HOUR
    with database.write() as session:
        for number in range(25):
            at = moment + timedelta(seconds=number // 5)
            names = {"calling_aet": "A"} if number % 2 else {"called_aet": "A"}
            session.add(AuditEvent(action=AuditAction.QUERY, outcome="success", at=at, **names))
            session.flush()
    seen: list[int] = []
    cursor: str | None = None
    for _ in range(4):
        with database.read() as session:
            page = events(session, AuditFilter(ae_title="A"), cursor, 7)
        seen += [row["id"] for row in page.rows]
        cursor = page.next
        with database.write() as session:  # newer ones come meanwhile
            record(session, AuditAction.QUERY, "success", calling_aet="A")
    assert seen == list(range(25, 0, -1))
    assert cursor is None
    with database.read() as session:
        in_order = [row["id"] for row in every_event(session, AuditFilter())]
    assert in_order == list(range(1, 30))


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "x", "WzFd", "WyJub3ciLDFd", "WyIyMDI2LTAxLTAxIiwxXQ"),
        encode(["0001-01-01T00:00:00+10:00", 1]),
    ],
)
def test_a_made_up_cursor_is_refused(database: Database, cursor: str) -> None:
    with database.read() as session, pytest.raises(CursorError):
        events(session, AuditFilter(), cursor)


PLANS: list[tuple[dict[str, Any], str]] = [
    ({}, "ix_audit_event_at_id"),
    ({"since": datetime.fromisoformat("2026-01-01T00:00Z")}, "ix_audit_event_at_id"),
    ({"patient_id": "P7"}, "ix_audit_event_patient_id_at_id"),
    ({"study_instance_uid": "1.7"}, "ix_audit_event_study_instance_uid_at_id"),
    ({"accession_number": "A7"}, "ix_audit_event_study_instance_uid_at_id"),
    ({"ae_title": "AE7"}, "ix_audit_event_calling_aet_at_id ix_audit_event_called_aet_at_id"),
    ({"user": "ann"}, "ix_audit_event_actor_at_id"),
    ({"model": "unet 1"}, "ix_audit_event_model_at_id"),
    ({"action": AuditAction.QUERY}, "ix_audit_event_action_"),
    ({"outcome": "refused"}, "ix_audit_event_outcome_at_id"),
]


@pytest.fixture
def many(database: Database) -> Database:
    """Enough events that a database prefers an index, most of them of received objects."""
    if not database.is_sqlite:  # what tests before have deleted is in the way of a plan
        with database.write() as session:
            session.execute(text("TRUNCATE audit_event RESTART IDENTITY"))
    stored = {"action": AuditAction.INSTANCE_STORED, "outcome": "stored", "details": {}}
    moment = utc_now()
    with database.write() as session:
        session.add(Study(study_instance_uid="1.7", accession_number="A7", calling_aet="AE7"))
        rows = [
            stored
            | {
                "at": moment + timedelta(seconds=number),
                "calling_aet": f"AE{number % 50}",
                "patient_id": f"P{number // 10}",
                "study_instance_uid": f"1.{number // 10}",
            }
            for number in range(4000)
        ]
        session.execute(AuditEvent.__table__.insert(), rows)
        rare = {"action": AuditAction.QUERY, "outcome": "refused", "details": {}, "at": moment}
        session.execute(
            AuditEvent.__table__.insert(),
            [
                rare | {"called_aet": f"AE{each}", "actor": "ann", "model": "unet 1"}
                for each in range(400)
            ],
        )
    with database.engine.begin() as connection:
        connection.execute(text("ANALYZE"))
    return database


@pytest.mark.parametrize(("wanted", "indexes"), PLANS, ids=lambda it: str(it)[:60])
def test_each_filter_has_an_index(many: Database, wanted: dict[str, Any], indexes: str) -> None:
    """No filter reads the whole table, nor sorts it."""
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN" if many.is_sqlite else "EXPLAIN"

    def note(connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "LIMIT" in statement and not statement.startswith("EXPLAIN"):
            again = connection.exec_driver_sql(f"{explain} {statement}", values)
            plans.append("\n".join(str(row) for row in again))

    event.listen(many.engine, "before_cursor_execute", note)
    with many.read() as session:
        events(session, AuditFilter(**wanted), limit=20)
    event.remove(many.engine, "before_cursor_execute", note)
    (plan,) = plans
    wanted_here = indexes if many.is_sqlite else "ix_audit_event_"  # few rows: several do as well
    assert [name for name in wanted_here.split() if name not in plan] == [], plan
    assert "Seq Scan on audit_event" not in plan, plan
    assert "SCAN audit_event\n" not in plan, plan


def test_the_payload_is_none_in_sql_too(database: Database) -> None:
    """JSON has a null of its own, which a condition on the column would take for a payload."""
    with database.write() as session:
        record(session, AuditAction.QUERY, "success", patient=None)
    with database.read() as session:
        assert session.scalar(select(AuditEvent.id).where(AuditEvent.patient.is_(None))) == 1
