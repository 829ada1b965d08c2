"""The short way to the rows writes what the long way writes, and leaves it what is not plain."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from builders import DX_FOR_PROCESSING
from rows import open_database
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from dicom_node.errors import SpoolFullError
from dicom_node.intake import record_instance
from dicom_node.peer import audit
from dicom_node.plain import PlainRows
from dicom_node.recorder import Recorder
from dicom_node.types import Identity, Peer, SpooledInstance
from models.audit import AuditAction, AuditEvent
from models.base import Base
from models.imaging import Instance, Series, Study
from models.job import Job
from models.rejection import KEY_OBJECT, KeyObject, RejectedReference
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, StoreOutcome

_TABLES = (Study, Series, Instance, Job, AuditEvent)
_OF_THE_MOMENT = {"created_at", "last_received_at", "received_at", "not_before", "at"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(
        None,
        data_dir=tmp_path,
        dispatch={"stat_calling_aets": ["ICU"]},
        rules=[{"calling_aet": "ICU", "model": "adversarial-unet"}],
    )


def _spooled(number: int, calling_aet: str = "PACS", **attributes: Any) -> SpooledInstance:
    identity = Identity(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        sop_instance_uid=f"1.2.{number}",
        study_instance_uid=f"1.3.{number // 2}",
        series_instance_uid=f"1.4.{number // 2}",
        modality="DX",
        patient_id="P1",
        issuer_of_patient_id=None,
        accession_number="A1",
        study_date="20260102",
        presentation_intent="FOR PRESENTATION",
        manufacturer="Maker",
        manufacturer_model_name="Model",
    )
    return SpooledInstance(
        storage_key=f"ab/{number}.dcm",
        path=Path(f"ab/{number}.dcm"),
        identity=replace(identity, **attributes),
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        data_set_sha256=f"{number:064x}",
        size_bytes=1000 + number,
        peer=Peer(calling_aet, "NODE", "10.0.0.1:1234"),
    )


def _durable() -> None:
    """Say of the bytes of an object, which nobody sent here, that they survive a power cut."""


def _rows(database: Database) -> dict[str, list[dict[str, Any]]]:
    """Return every row of every table; of times only whether there is one."""
    with database.read() as session:
        return {
            model.__tablename__: [
                {
                    column.name: bool(value) if column.name in _OF_THE_MOMENT else value
                    for column, value in zip(model.__table__.columns, row, strict=True)
                }
                for row in session.execute(
                    select(*model.__table__.columns).order_by(model.__table__.columns["id"])
                )
            ]
            for model in _TABLES
        }


def _empty(database: Database, *models: type[Base]) -> None:
    with database.write() as session:
        for model in reversed(models):
            session.execute(text(f"DELETE FROM {model.__tablename__}"))  # noqa: S608  our own names
        if not database.is_sqlite:
            for model in models:
                name = model.__tablename__
                session.execute(text(f"ALTER SEQUENCE {name}_id_seq RESTART"))


_PLAIN = [
    _spooled(2),
    _spooled(3),
    _spooled(4, calling_aet="ICU"),
    _spooled(6, sop_class_uid="1.2.840.10008.5.1.4.1.1.7"),
    _spooled(8, sop_class_uid=DX_FOR_PROCESSING, presentation_intent="FOR PROCESSING"),
    _spooled(10, issuer_of_patient_id="HOSPITAL", modality=None, accession_number=None),
    _spooled(11, issuer_of_patient_id="HOSPITAL", series_instance_uid="1.4.5.1"),
]


def test_both_ways_write_the_same_rows(database: Database, settings: Settings) -> None:
    for spooled in _PLAIN:
        assert record_instance(database, settings, spooled) is StoreOutcome.STORED
    wanted = _rows(database)
    _empty(database, *_TABLES)
    rows = PlainRows(database.engine.dialect, settings)
    for spooled in _PLAIN:
        with database.engine.begin() as connection:
            assert rows.add(connection, spooled)
    assert _rows(database) == wanted


@pytest.mark.parametrize(
    ("spooled", "change"),
    [
        (_spooled(3, patient_id=None), ""),
        (_spooled(3, patient_id="P2"), ""),
        (_spooled(3, sop_class_uid="1.2.840.10008.5.1.4.1.1.88.59"), ""),
        (_spooled(3, sop_instance_uid="1.2.2"), ""),
        (_spooled(3), "UPDATE study SET state = 'delivered'"),
        (_spooled(3), "UPDATE study SET patient_id = NULL"),
    ],
)
def test_what_is_not_plain_is_left_and_changes_nothing(
    database: Database, settings: Settings, spooled: SpooledInstance, change: str
) -> None:
    record_instance(database, settings, _spooled(2))
    if change:
        with database.write() as session:
            session.execute(text(change))
    before = _rows(database)
    with database.engine.begin() as connection:
        assert not PlainRows(database.engine.dialect, settings).add(connection, spooled)
    assert _rows(database) == before
    with closing(Recorder(database, settings)) as recorder:
        assert recorder.record(spooled, _durable) in StoreOutcome  # the long way knows


def test_what_happens_while_a_study_is_locked_is_seen(
    database: Database, settings: Settings
) -> None:
    """A rejection note is read meanwhile: the image that it names must not slip through."""
    if database.is_sqlite:
        pytest.skip("SQLite has one writer at a time")
    note = _spooled(2, sop_class_uid=KEY_OBJECT)
    record_instance(database, settings, note)
    with closing(Recorder(database, settings)) as recorder, ThreadPoolExecutor(1) as pool:
        recorder.record(_spooled(20), _durable)  # elsewhere: has the connection
        with database.write() as session:
            session.scalars(select(Study).with_for_update()).all()
            late = pool.submit(recorder.record, _spooled(3), _durable)
            time.sleep(1.0)  # it looked, and waits for the study
            key_object = session.scalars(select(KeyObject)).one()
            key_object.reason = "rejected_quality"
            session.add(RejectedReference(key_object_id=key_object.id, sop_instance_uid="1.2.3"))
        assert late.result() is StoreOutcome.STORED
    (state,) = (
        row["state"] for row in _rows(database)["instance"] if row["storage_key"] == "ab/3.dcm"
    )
    assert state is InstanceState.WITHDRAWN


def test_many_at_once_are_all_recorded_once(database: Database, settings: Settings) -> None:
    objects = [_spooled(number) for number in range(60)] * 3
    with ThreadPoolExecutor(24) as pool, ExitStack() as stack:
        recorders = [  # as many as processes
            stack.enter_context(closing(Recorder(database, settings))) for _ in range(3)
        ]
        jobs = [
            pool.submit(recorders[n % 3].record, replace(each, storage_key=f"cd/{n}.dcm"), _durable)
            for n, each in enumerate(objects)
        ]
        outcomes = [job.result() for job in jobs]
    assert outcomes.count(StoreOutcome.STORED) == 60
    assert outcomes.count(StoreOutcome.DUPLICATE) == 120
    rows = _rows(database)
    assert {name: len(rows[name]) for name in ("study", "series", "instance", "job")} == {
        "study": 30,
        "series": 30,
        "instance": 60,
        "job": 60,
    }
    stored = [row for row in rows["audit_event"] if row["action"] == "instance_stored"]
    assert len(stored) == 180  # the others say that a file was not there, and is again


def test_a_failure_in_a_batch_costs_no_other_object(database: Database, settings: Settings) -> None:
    """The row that cannot be written ends the common transaction; each is then written alone."""
    record_instance(database, settings, _spooled(2))
    taken = replace(_spooled(20), storage_key="ab/2.dcm")  # unique, and taken
    with closing(Recorder(database, settings)) as recorder, ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(recorder.record, each, _durable)
            for each in (taken, *map(_spooled, range(30, 37)))
        ]
        errors = [job.exception() for job in jobs]
    assert errors[0] is not None
    assert errors[1:] == [None] * 7
    assert len(_rows(database)["instance"]) == 8


def _together(recorder: Recorder, objects: list[SpooledInstance]) -> list[object]:
    """Record all of them in one batch; return what each got, an outcome or an error."""
    with ThreadPoolExecutor(len(objects)) as pool:
        with recorder._writing:
            jobs = [pool.submit(recorder.record, each, _durable) for each in objects]
            while len(recorder._waiting) < len(objects):
                time.sleep(0.01)
        return [job.exception() or job.result() for job in jobs]


def test_a_commit_that_breaks_is_no_success(database: Database, settings: Settings) -> None:
    """Not even when it breaks in a way that no database error tells of."""

    def fail(_connection: object) -> None:
        sqlalchemy.event.remove(database.engine, "commit", fail)
        raise MemoryError

    with closing(Recorder(database, settings)) as recorder:
        sqlalchemy.event.listen(database.engine, "commit", fail)
        got = _together(recorder, [_spooled(2), _spooled(4), _spooled(6)])
    assert sum(type(each) is MemoryError for each in got) == 1  # who wrote for all
    assert got.count(StoreOutcome.STORED) == len(_rows(database)["instance"]) == 2


def test_who_waited_for_a_locked_database_does_not_wait_again(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dicom_node.recorder._PATIENCE_SECONDS", 4)
    with (
        open_database(f"sqlite:///{tmp_path / 'locked.db'}") as database,
        closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other,
        closing(Recorder(database, settings)) as recorder,
    ):
        recorder.record(_spooled(2), _durable)
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        got = _together(recorder, [_spooled(number) for number in range(4, 8)])
        assert time.monotonic() - begun < 7.5  # not twice, and not one after the other
        assert [type(each) for each in got] == [OperationalError] * 4
        other.execute("ROLLBACK")
        assert recorder.record(_spooled(8), _durable) is StoreOutcome.STORED


def test_an_answer_waits_only_shortly_for_its_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        open_database(f"sqlite:///{tmp_path / 'locked.db'}") as database,
        closing(sqlite3.connect(tmp_path / "locked.db", isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        begun = time.monotonic()
        audit(database, AuditAction.INSTANCE_REFUSED, "OperationalError")
        assert time.monotonic() - begun < 20
        assert "instance_refused could not be written" in caplog.text
        with pytest.raises(OperationalError), database.write(0.1) as session:
            session.scalar(text("SELECT 1"))
        other.execute("ROLLBACK")
        with database.write() as session:  # over the same connection: patient again
            assert session.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_rows_wait_until_the_bytes_are_durable(database: Database, settings: Settings) -> None:
    """A disk that refuses one object's bytes leaves it without rows, and the others with theirs."""

    def refuse() -> None:
        msg = "the spool's disk refused the data set"
        raise SpoolFullError(msg)

    syncs = {2: _durable, 4: refuse, 6: _durable}
    with closing(Recorder(database, settings)) as recorder, ThreadPoolExecutor(3) as pool:
        with recorder._writing:
            jobs = [
                pool.submit(recorder.record, _spooled(number), sync)
                for number, sync in syncs.items()
            ]
            while len(recorder._waiting) < len(jobs):
                time.sleep(0.01)
        got = [job.exception() or job.result() for job in jobs]
    assert [type(each) for each in got] == [StoreOutcome, SpoolFullError, StoreOutcome]
    rows = _rows(database)["instance"]
    assert {row["sop_instance_uid"] for row in rows} == {"1.2.2", "1.2.6"}
