"""Events are sealed in batches, each once, whoever seals and whatever comes late."""

import json
import logging
import os
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from audits import SealedAudit, events_in
from rows import count, open_database
from servers import wait_until
from sqlalchemy import Connection, func, select, text

from dicom_node.audit.keys import add_key, key_path, load_keys, make_first_key
from dicom_node.audit.macs import EVENT_COLUMNS, PATIENT_COLUMNS
from dicom_node.audit.seals import BATCH, Sealer, seal_rest, sealing
from dicom_node.errors import AuditKeyError
from models.audit import AuditAction, AuditEvent, record
from models.seal import AuditMark, AuditSeal
from models.session import Database
from models.settings import load_settings


@pytest.fixture
def audit(emptied_database: Database, tmp_path: Path) -> SealedAudit:
    return SealedAudit.of(emptied_database, tmp_path)


def _seals(database: Database) -> list[tuple[int, int, int, int]]:
    with database.read() as session:
        rows = session.scalars(select(AuditSeal).order_by(AuditSeal.number))
        return [(it.number, it.first_event_id, it.last_event_id, it.events) for it in rows]


def test_every_column_is_sealed() -> None:
    """A new column must be given its place, or somebody could change it unseen."""
    columns = [column.name for column in AuditEvent.__table__.columns]
    assert sorted(columns) == sorted((*EVENT_COLUMNS, *PATIENT_COLUMNS))


def test_batches_follow_each_other(audit: SealedAudit) -> None:
    audit.sealed(3, 1)
    assert audit.seal() == 0
    assert _seals(audit.database) == [(1, 1, 3, 3), (2, 4, 4, 1)]
    assert audit.found() == []


def test_a_backlog_is_sealed_batch_by_batch_without_a_pause(audit: SealedAudit) -> None:
    audit.add(BATCH + 2)
    assert [audit.sealer.step(), audit.sealer.step(), audit.sealer.step()] == [BATCH, 2, 0]
    assert count(audit.database, AuditMark) == BATCH + 2
    assert audit.found() == []


def test_it_waits_its_time(audit: SealedAudit) -> None:
    now = [0.0]
    sealer = Sealer(audit.settings, audit.database, lambda: now[0])
    audit.add()
    assert sealer.step() == 1
    audit.add()
    assert sealer.step() == 0
    now[0] += audit.settings.audit.seal_seconds
    assert sealer.step() == 1


def test_two_sealers_do_not_fork_the_chain(audit: SealedAudit) -> None:
    """Each goes on after the other was faster, and no event is sealed twice."""
    other = Sealer(audit.settings, audit.database)
    audit.sealed(2)
    assert other.seal_batch() == 0
    audit.sealed(2)
    audit.add(3)
    assert other.seal_batch() == 0  # it had seal 2 for the next
    assert other.seal_batch() == 3
    audit.add(1)
    sealed = [sealer.seal_batch() for sealer in (audit.sealer, audit.sealer, other)]
    assert sum(sealed) == 1
    assert [number for number, *_ in _seals(audit.database)] == [1, 2, 3, 4]
    assert audit.found() == []


def test_many_sealers_at_once(audit: SealedAudit) -> None:
    audit.add(40)
    audit.seal()

    def seal() -> None:
        sealer = Sealer(audit.settings, audit.database)
        for _ in range(10):
            with audit.database.write() as session:
                record(session, AuditAction.QUERY, "success")
            sealer.seal_batch()

    threads = [threading.Thread(target=seal) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    audit.seal()
    while audit.seal():
        pass
    assert count(audit.database, AuditMark) == 80
    assert audit.found() == []


@pytest.mark.parametrize("restarted", [False, True])
def test_an_event_that_becomes_visible_late_is_sealed_later(
    emptied_postgres: Database, tmp_path: Path, *, restarted: bool
) -> None:
    """PostgreSQL gives ids before the commit: here 3 and 5 come after 6 was sealed."""
    audit = SealedAudit.of(emptied_postgres, tmp_path)
    audit.sealed(2)
    with audit.database.engine.connect() as slow:
        _insert_with_id(slow, 3)
        _insert_with_id(slow, 5)
        audit.sql("SELECT setval('audit_event_id_seq', 3)")
        audit.add()
        audit.sql("SELECT setval('audit_event_id_seq', 5)")
        audit.add()
        assert audit.seal() == 2
        if restarted:
            audit = SealedAudit(audit.database, audit.settings)
        assert audit.seal() == 0
        slow.commit()
    assert audit.seal() == 2
    assert _seals(audit.database) == [(1, 1, 2, 2), (2, 4, 6, 2), (3, 3, 5, 2)]
    audit.sealed(1)
    assert _seals(audit.database)[-1] == (4, 7, 7, 1)
    assert audit.found() == []


def _insert_with_id(connection: Connection, event_id: int) -> None:
    statement = """
        INSERT INTO audit_event (id, at, action, outcome, details)
        VALUES (:id, now() - interval '1 hour', 'query', 'success', '{}')
    """
    connection.execute(text(statement), {"id": event_id})


def test_the_key_is_the_owner_s_and_not_in_the_database(audit: SealedAudit) -> None:
    audit.sealed(1)
    assert stat.S_IMODE(audit.key.stat().st_mode) == 0o600
    (key,) = audit.key.read_text().split()
    with audit.database.read() as session:
        assert session.scalars(select(AuditSeal.key_id)).one() not in key


def test_a_lost_key_is_not_replaced_in_silence(
    audit: SealedAudit, caplog: pytest.LogCaptureFixture
) -> None:
    audit.sealed(1)
    audit.key.unlink()
    audit.add()
    assert audit.sealer.step() == 0
    assert not audit.key.exists()
    assert "put the back-up of it there" in caplog.text


@pytest.mark.parametrize("text", ["", "00", "zz", "ä", "\n"])
def test_a_file_that_is_no_key_is_refused(audit: SealedAudit, text: str) -> None:
    audit.key.parent.mkdir()
    audit.key.write_text(text)
    audit.key.chmod(0o600)
    audit.add()
    with pytest.raises(AuditKeyError):
        audit.seal()


def test_a_key_that_everybody_can_read_is_refused(audit: SealedAudit) -> None:
    audit.sealed(1)
    audit.key.chmod(0o644)
    with pytest.raises(AuditKeyError, match="chmod 600"):
        load_keys(audit.key)


def test_a_new_key_seals_and_the_old_one_still_proves(audit: SealedAudit) -> None:
    audit.sealed(2)
    add_key(audit.key)
    audit.sealed(2)
    with audit.database.read() as session:
        assert len(set(session.scalars(select(AuditSeal.key_id)))) == 2
    assert audit.found() == []


def test_the_first_key_is_made_once(tmp_path: Path) -> None:
    """Of two dispatchers that start together both use the same."""
    settings = load_settings(None, data_dir=tmp_path / "data")
    path = key_path(settings)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(make_first_key(path).newest)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_the_anchor_has_every_seal(audit: SealedAudit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    audit.sealed(1, 2)
    lines = [json.loads(line) for line in audit.anchor.read_text().splitlines()]
    assert [(it["number"], it["last_event_id"]) for it in lines] == [(1, 1), (2, 3)]
    assert all(it["mac"] in caplog.text for it in lines)


def test_what_the_anchor_missed_is_added(audit: SealedAudit) -> None:
    """The process was killed between commit and file, or the file could not be written."""
    audit.sealed(1, 1)
    audit.anchor.write_text(audit.anchor.read_text().splitlines(keepends=True)[0])
    audit = SealedAudit(audit.database, audit.settings)
    audit.seal()
    assert audit.anchor.read_text().count('"number"') == 2
    assert audit.found() == []


def test_an_anchor_that_cannot_be_written_holds_up_nothing(
    audit: SealedAudit, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a backlog either; the log says it once a minute, and then the anchor gets everything."""
    now = [0.0]
    sealer = Sealer(audit.settings, audit.database, lambda: now[0])
    audit.anchor.mkdir(parents=True)
    audit.add(2 * BATCH + 1)
    assert [sealer.step(), sealer.step(), sealer.step()] == [BATCH, BATCH, 1]
    assert caplog.text.count("the anchor of the audit cannot be written") == 1
    audit.anchor.rmdir()
    now[0] += 60.0
    sealer.step()
    assert audit.anchor.read_text().count('"number"') == 3
    assert audit.found() == []


def test_at_the_end_all_is_sealed_whatever_the_anchor_does(audit: SealedAudit) -> None:
    audit.anchor.mkdir(parents=True)
    audit.add(BATCH + 1)
    seal_rest(audit.settings, audit.database)
    assert count(audit.database, AuditMark) == BATCH + 1


def test_a_thread_seals_while_others_work(audit: SealedAudit) -> None:
    """Also where the anchor hangs, as a pipe does that nobody reads."""
    settings = load_settings(None, data_dir=audit.settings.data_dir, audit={"seal_seconds": 0.05})
    audit.anchor.parent.mkdir(exist_ok=True)
    os.mkfifo(audit.anchor)
    stop = threading.Event()
    audit.add(2)
    with sealing(settings, audit.database, stop):
        wait_until(lambda: count(audit.database, AuditMark) == 2, 10, "two marks")
        with audit.anchor.open("wb"):  # and goes on
            pass
    assert stop.is_set()


def test_a_database_that_is_older_than_its_anchor_is_an_alarm(
    audit: SealedAudit, caplog: pytest.LogCaptureFixture
) -> None:
    """Its new seals are anchored all the same; the proof goes on to say what is gone."""
    audit.sealed(1, 1, 1)
    audit.sql("DELETE FROM audit_mark WHERE seal_number > 1")
    audit.sql("DELETE FROM audit_seal WHERE number > 1")
    audit.sql("DELETE FROM audit_event WHERE id > 1")
    audit = SealedAudit(audit.database, audit.settings)
    audit.add()
    audit.seal()
    audit.seal()
    assert "an older back-up was restored" in caplog.text
    alarms = [it for it in events_in(audit.database) if it.action is AuditAction.AUDIT_ALARM]
    assert len(alarms) == 1
    audit.seal()
    assert audit.found() == [("anchor_differs", 2, None), ("anchor_differs", 3, None)]


def test_a_tail_that_is_cut_under_a_running_node_is_one_alarm(audit: SealedAudit) -> None:
    """And the node goes on to seal, also where SQLite gives the ids of what is gone again."""
    audit.sealed(1, 1, 1)
    audit.sql("DELETE FROM audit_mark WHERE seal_number > 1")
    audit.sql("DELETE FROM audit_seal WHERE number > 1")
    audit.sql("DELETE FROM audit_event WHERE id > 1")
    assert [audit.seal() for _ in range(4)] == [0, 1, 0, 0]  # the alarm
    alarms = [it for it in events_in(audit.database) if it.action is AuditAction.AUDIT_ALARM]
    assert [it.details["seal"] for it in alarms] == [3]
    audit.sealed(1)
    assert [number for number, *_ in _seals(audit.database)] == [1, 2, 3]


def test_text_that_is_no_value_stops_nobody(tmp_path: Path) -> None:
    """SQLite takes any text for JSON: such an event is sealed as one that nothing proves."""
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        audit = SealedAudit.of(database, tmp_path)
        audit.add(3)
        audit.sql("UPDATE audit_event SET details = '{' WHERE id = 2")
        assert audit.seal() == 3
        assert audit.found() == [("event_changed", 1, 2)]


@pytest.mark.parametrize("step", [timedelta(hours=-3), timedelta(days=3)])
def test_a_clock_that_jumps_is_no_finding(
    audit: SealedAudit, monkeypatch: pytest.MonkeyPatch, step: timedelta
) -> None:
    audit.sealed(1)
    with audit.database.read() as session:
        now = session.scalar(select(func.max(AuditSeal.sealed_at)))
    assert now is not None
    monkeypatch.setattr("dicom_node.audit.seals.utc_now", lambda: now + step)
    audit.add(2, at=now + step)
    assert audit.seal() == 2
    assert audit.found() == []
