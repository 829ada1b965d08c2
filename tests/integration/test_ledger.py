"""Each line of the ledger balances on a sound node and fails when what it watches is broken."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from pydicom.dataset import Dataset
from rows import (
    SR,
    add_analysis,
    add_instance,
    add_job,
    add_report,
    open_database,
    random_uid,
)
from sqlalchemy import text, update

from dicom_node.ledger import Line, compute
from dicom_node.spool import Spool
from models.audit import AuditAction, record
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.files import atomic_write
from models.imaging import Instance
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, StoreOutcome


class Node:
    """A database, a spool and an SR on disk that agree, as after one delivered study."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.settings = settings
        for name in ("analysed", "waiting"):
            atomic_write(settings.spool_dir / f"00/{name}.dcm", b"")
        instance_uid = random_uid()
        analysed = add_instance(
            database,
            sop_instance_uid=instance_uid,
            state=InstanceState.ANALYSED,
            storage_key="00/analysed.dcm",
        )
        waiting = add_instance(database, state=InstanceState.QUEUED, storage_key="00/waiting.dcm")
        add_job(database, waiting)
        analysis, segmentation = add_analysis(database, analysed)
        write_part10(settings.artifact_dir / "00/sr.dcm", _document(instance_uid))
        report = add_report(database, [analysis], storage_key="00/sr.dcm")
        with database.write() as session:
            session.add(Destination(name="A", ae_title="A", host="h", port=1))
            session.flush()
            for artifact in (report, segmentation):
                session.add(Delivery(artifact_id=artifact, destination_id=1))
            planned = {"artifacts": 2, "deliveries": 2}
            record(session, AuditAction.DELIVERIES_PLANNED, "planned", details=planned)
            for outcome in (StoreOutcome.STORED, StoreOutcome.STORED, StoreOutcome.DUPLICATE):
                record(session, AuditAction.INSTANCE_STORED, outcome.value)

    def sql(self, statement: str) -> None:
        """Break something."""
        with self.database.write() as session:
            session.execute(text(statement))

    def lines(self) -> dict[str, Line]:
        """Return the ledger by name."""
        return {line.name: line for line in compute(self.database, self.settings)}


def _document(instance_uid: str) -> object:
    """An SR's evidence is all that the ledger reads of it."""
    item, series, study = Dataset(), Dataset(), Dataset()
    item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    item.ReferencedSOPInstanceUID = instance_uid
    series.SeriesInstanceUID, series.ReferencedSOPSequence = "1.2.3", [item]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = "1.2.4", [series]
    return chest_dataset(SOPClassUID=SR, CurrentRequestedProcedureEvidenceSequence=[study])


@pytest.fixture
def node(database_url: str, tmp_path: Path) -> Iterator[Node]:
    settings = load_settings(None, data_dir=tmp_path / "data", database_url=database_url)
    with open_database(database_url) as database:
        yield Node(database, settings)


def test_a_sound_node_balances(node: Node) -> None:
    assert [line for line in node.lines().values() if not line.balanced] == []


def _lose_file(node: Node) -> None:
    (node.settings.spool_dir / "00/waiting.dcm").unlink()


def _empty_report(node: Node) -> None:
    write_part10(node.settings.artifact_dir / "00/sr.dcm", chest_dataset(SOPClassUID=SR))


def _lose_report(node: Node) -> None:
    (node.settings.artifact_dir / "00/sr.dcm").unlink()


def _damage_report(node: Node) -> None:
    """A worn-out disk: zeros in the middle of the file, of every length."""
    path = node.settings.artifact_dir / "00/sr.dcm"
    sound = path.read_bytes()
    for start in range(132, 1000, 31):
        path.write_bytes(sound[:start] + bytes(64) + sound[start + 64 :])
        node.lines()
    path.write_bytes(sound[:700])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        (
            "C-STORE successes in the audit",
            lambda node: node.sql("DELETE FROM audit_event WHERE outcome = 'stored'"),
        ),
        ("instances", lambda node: node.sql("DELETE FROM job")),
        ("instances", lambda node: node.sql("UPDATE job SET state = 'dead'")),
        (
            "settled studies",
            lambda node: node.sql("UPDATE study SET state = 'settled', revision = 7"),
        ),
        ("spool files", _lose_file),
        (
            "analysed instances",
            lambda node: node.sql("UPDATE artifact SET kind = 'overlay' WHERE kind = 'seg'"),
        ),
        ("images named in the SRs", _empty_report),
        ("images named in the SRs", _lose_report),
        ("images named in the SRs", _damage_report),
        ("images named in the SRs", lambda node: node.sql("DELETE FROM reported_analysis")),
        ("deliveries planned in the audit", lambda node: node.sql("DELETE FROM delivery")),
    ],
)
def test_what_is_broken_shows_in_its_line(
    node: Node, line: str, fault: Callable[[Node], None]
) -> None:
    fault(node)
    assert not node.lines()[line].balanced


def _orphan(node: Node, seconds_old: float) -> Path:
    path = node.settings.spool_dir / "00/orphan.dcm"
    atomic_write(path, b"")
    past = time.time() - seconds_old
    os.utime(path, (past, past))
    return path


def test_what_a_dead_listener_left_is_no_alarm_before_the_sweep_had_its_time(node: Node) -> None:
    """A file may have missed one sweep by a second and waits for the next."""
    sweep = node.settings.dispatch.orphan_seconds
    _orphan(node, 2 * sweep)
    line = node.lines()["spool files"]
    assert (line.balanced, line.parts["arriving"], line.parts["without a row"]) == (True, 1, 0)
    _orphan(node, 2 * sweep + 90)
    line = node.lines()["spool files"]
    assert (line.balanced, line.parts["arriving"], line.parts["without a row"]) == (False, 0, 1)


def test_a_clock_that_was_put_back_makes_no_file_missing(node: Node) -> None:
    """Files of the last hour then have a time that is yet to come."""
    soon = time.time() + 3600
    for name in ("analysed", "waiting"):
        os.utime(node.settings.spool_dir / f"00/{name}.dcm", (soon, soon))
    line = node.lines()["spool files"]
    assert (line.balanced, line.parts["missing"]) == (True, 0)


def test_what_retention_purges_meanwhile_is_not_missing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row was read before, the folder after."""
    listed = Spool.keys

    def purge_and_list(spool: Spool, older_than_seconds: float = 0.0) -> Iterator[str]:
        with node.database.write() as session:
            session.execute(
                update(Instance)
                .where(Instance.storage_key == "00/analysed.dcm")
                .values(purged_at=utc_now())
            )
        spool.delete("00/analysed.dcm")
        return listed(spool, older_than_seconds)

    monkeypatch.setattr(Spool, "keys", purge_and_list)
    line = node.lines()["spool files"]
    assert (line.balanced, line.parts["missing"]) == (True, 0)
