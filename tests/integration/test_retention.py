"""Retention purges what is delivered and old, and everything that reads a purged image is right."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from rejection_bench import Archive, Bench, archive, image
from rows import instances, outcomes
from sqlalchemy import update

from dicom_node import retention
from dicom_node.errors import OperatorError
from dicom_node.ledger import compute
from dicom_node.purged_files import sweep_purged
from dicom_node.queue import JobQueue
from dicom_node.retention import Retention, locked
from models.audit import AuditAction
from models.base import utc_now
from models.delivery import Delivery
from models.files import HEADERS
from models.imaging import Instance, Study
from models.job import Job
from models.result import Artifact
from models.sections import RetentionSettings
from models.settings import load_settings
from models.states import ArtifactKind, DeliveryState, InstanceState, JobKind, JobState
from worker import tasks
from worker.errors import AnalysisFailed
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
Make = Callable[..., Bench]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def pacs(tmp_path: Path, dcmtk: Callable[[str], Path]) -> Iterator[Archive]:
    """A PACS that accepts everything."""
    with archive(dcmtk("storescp"), tmp_path / "pacs") as made:
        yield made


@pytest.fixture
def node(
    listen: Listen,
    pacs: Archive,
    redis_server: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Make]:
    """Give a node that delivers to the PACS; keyword arguments are those of `retention`."""
    with ExitStack() as stack:

        def start(**retention: object) -> Bench:
            to = {"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port}
            monkeypatch.setenv("DICOM_NODE_DESTINATIONS", json.dumps([to]))
            monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
            running = listen(sections={"retention": {"images_days": 30} | retention})
            queue = JobQueue(redis_server)
            stack.callback(queue.close)
            return Bench(running.port, running.database, running.settings, queue, sandbox)

        yield start


def _age(it: Bench, days: float = 31) -> None:
    """Let everything that is here have come so long ago."""
    then = utc_now() - timedelta(days=days)
    with it.database.write() as session:
        session.execute(update(Instance).values(received_at=then))
        session.execute(
            update(Instance).where(Instance.stored_at.is_not(None)).values(stored_at=then)
        )
        session.execute(update(Study).values(last_received_at=then))
        session.execute(update(Artifact).values(created_at=then))


def _retention(it: Bench) -> Retention:
    return Retention(it.settings, it.database)


def _purge(it: Bench) -> int:
    """Purge what may be purged, with the comparison that it waits for."""
    first = len(list(_retention(it).run()))
    it.compare()
    return first + len(list(_retention(it).run()))


def _files(it: Bench) -> list[Path]:
    return sorted(it.settings.spool_dir.glob("??/*.dcm"))


def _delivered(it: Bench, *images: Dataset) -> None:
    it.send(*images)
    it.run()
    assert it.study.state == "delivered"


def test_nothing_is_deleted_unless_a_setting_says_so(node: Make) -> None:
    it = node(images_days=None)
    _delivered(it, image(1))
    _age(it, 10_000)
    assert _retention(it).step() == _purge(it) == 0
    assert list(_retention(it).preview()) == []
    assert len(_files(it)) == 1


def test_a_delivered_image_is_purged_after_its_days_and_its_row_stays(node: Make) -> None:
    it, ds = node(), image(1)
    _delivered(it, ds)
    assert list(_retention(it).preview()) == []
    _age(it, 29)
    assert _purge(it) == 0
    _age(it)
    assert [each.sop_instance_uid for each in _retention(it).preview()] == [str(ds.SOPInstanceUID)]
    assert len(_files(it)) == 1
    assert _purge(it) == 1
    assert _files(it) == []
    row = it.instance(ds)
    assert (row.state, row.reason) == (InstanceState.ANALYSED, None)
    assert row.purged_at is not None
    assert row.pixel_sha256 is not None  # other bytes under the same UID can still be told apart
    assert outcomes(it.database, AuditAction.INSTANCE_PURGED) == ["age"]
    kept = it.settings.spool_dir / HEADERS / row.storage_key
    assert kept.stat().st_size < 5_000 < row.size_bytes
    assert it.unbalanced == []
    assert _purge(it) == 0


def test_the_dispatcher_purges_by_itself(node: Make) -> None:
    it = node()
    _delivered(it, image(1))
    _age(it)
    for _ in range(2):
        it.dispatcher._retention._next_look = 0.0  # its pause is over
        it.dispatch()
        it.compare()
    assert _files(it) == []
    assert it.unbalanced == []


def _due(it: Bench) -> None:
    _change(it, Delivery, state=DeliveryState.DUE)


def _rejected(it: Bench) -> None:
    _change(it, Delivery, state=DeliveryState.REJECTED)
    _change(it, Study, state="reported")


def _not_committed(it: Bench) -> None:
    to = it.settings.destinations[0].model_copy(update={"commitment": True})
    it.settings = it.settings.model_copy(update={"destinations": (to,)})
    _change(it, Delivery, commitment_due_at=utc_now())


def _promised(it: Bench) -> None:
    _change(it, Instance, promised_at=utc_now())


def _leased(it: Bench) -> None:
    _change(it, Job, state=JobState.LEASED)


def _quarantined(it: Bench) -> None:
    _change(it, Instance, state=InstanceState.QUARANTINED)


def _failed(it: Bench) -> None:
    _change(it, Instance, state=InstanceState.FAILED)


def _open(it: Bench) -> None:
    _change(it, Study, state="open")


def _change(it: Bench, table: type, **values: object) -> None:
    with it.database.write() as session:
        session.execute(update(table).values(**values))


@pytest.mark.parametrize(
    "because",
    [_due, _rejected, _not_committed, _promised, _leased, _quarantined, _failed, _open],
)
def test_what_is_still_needed_is_never_purged(node: Make, because: Callable[[Bench], None]) -> None:
    it = node(floor_bytes=1 << 60)
    _delivered(it, image(1))
    _age(it)
    list(_retention(it).run())
    it.compare()
    because(it)
    assert list(_retention(it).run()) == list(_retention(it).preview()) == []
    assert len(_files(it)) == 1


def test_what_a_sender_was_promised_goes_where_a_setting_says_so(node: Make) -> None:
    it = node(purge_promised=True)
    _delivered(it, image(1))
    _age(it)
    _promised(it)
    assert _purge(it) == 1


def test_below_the_floor_the_oldest_go_until_it_is_reached(node: Make) -> None:
    it = node(images_days=None, floor_bytes=1 << 60)
    _delivered(it, image(1), image(2), image(3))
    _purge(it)
    assert outcomes(it.database, AuditAction.INSTANCE_PURGED) == ["floor"] * 3

    it.send(image(4), image(5))
    it.run()
    free = os.statvfs(it.settings.spool_dir)
    room = free.f_bavail * free.f_frsize
    wanted = RetentionSettings(floor_bytes=room // 2)  # there is room: nothing goes
    it.settings = it.settings.model_copy(update={"retention": wanted})
    assert _purge(it) == 0
    assert len(_files(it)) == 2
    assert it.unbalanced == []


def test_a_late_image_is_reported_with_the_purged_one(node: Make) -> None:
    it = node()
    _delivered(it, image(1))
    _age(it)
    assert _purge(it) == 1
    _delivered(it, image(2))
    first, second = it.artifacts(ArtifactKind.SR)
    named = [
        str(item.ReferencedSOPInstanceUID)
        for series in second.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
    assert {str(image(n).SOPInstanceUID) for n in (1, 2)} <= set(named)
    assert second.PatientName == first.PatientName
    assert it.unbalanced == []


def test_a_purged_image_that_comes_again_is_here_again(node: Make) -> None:
    it, ds = node(), image(1)
    _delivered(it, ds)
    _age(it)
    assert _purge(it) == 1
    it.send(ds)
    row = it.instance(ds)
    assert row.purged_at is None
    assert _files(it) == [it.settings.spool_dir / row.storage_key]
    assert outcomes(it.database, AuditAction.INSTANCE_STORED) == ["stored", "duplicate"]
    assert outcomes(it.database, AuditAction.INSTANCE_RESTORED) == ["purged"]
    assert it.unbalanced == []
    for header in (it.settings.spool_dir / HEADERS).glob("??/*"):
        os.utime(header, (0, 0))
    sweep_purged(it.database, it.settings)
    assert len(_files(it)) == 1
    assert list((it.settings.spool_dir / HEADERS).glob("??/*")) == []
    assert _purge(it) == 0  # its days begin anew
    _age(it)
    assert _purge(it) == 1


def test_other_bytes_under_a_purged_uid_are_compared_all_the_same(node: Make) -> None:
    it, ds = node(), image(1)
    _delivered(it, ds)
    _age(it)
    assert _purge(it) == 1
    corrected = image(1, PatientName="CORRECTED^NAME")
    it.send(corrected)
    it.run()
    other = image(1, pixels=ds.pixel_array[::-1].copy())
    it.send(other)
    it.run()
    states = [(row.state, row.reason) for row in instances(it.database)]
    assert states == [
        ("superseded", "updated"),
        ("analysed", None),
        ("quarantined", "uid_conflict"),
    ]
    assert str(it.artifacts(ArtifactKind.SR)[-1].PatientName) == "CORRECTED^NAME"
    assert it.unbalanced == []


def test_results_go_where_a_receiver_has_them_and_reports_stay(node: Make, pacs: Archive) -> None:
    it = node(images_days=None, results_days=30)
    _delivered(it, image(1))
    _age(it)
    purged = {each.kind for each in _retention(it).run()}
    assert purged == {"seg", "display", "overlay", "layer"}
    left = [path.suffix for path in it.settings.artifact_dir.glob("[0-9a-f][0-9a-f]/*")]
    assert left == [".dcm"]
    assert it.unbalanced == []
    _delivered(it, image(2))  # the next report names the purged SEG
    assert len(pacs.classes()) == 4
    assert it.unbalanced == []


def test_results_that_no_receiver_has_are_kept(node: Make) -> None:
    it = node(images_days=None, results_days=30)
    _delivered(it, image(1))
    _age(it)
    with it.database.write() as session:
        session.execute(Delivery.__table__.delete())
    assert list(_retention(it).run()) == []


def test_a_backup_holds_everything(node: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_HELD_SECONDS", 0.1)
    it = node()
    _delivered(it, image(1))
    _age(it)
    list(_retention(it).run())
    it.compare()
    with locked(it.settings) as is_ours:
        assert is_ours
        assert _retention(it).step() == 0
        with pytest.raises(OperatorError, match="held, by a backup"):
            _purge(it)  # and it does not say that there was nothing to purge
    assert _purge(it) == 1


def test_a_file_that_was_left_over_is_deleted_and_never_taken_in_again(node: Make) -> None:
    it, ds = node(), image(1)
    _delivered(it, ds)
    row = it.instance(ds)
    path = it.settings.spool_dir / row.storage_key
    before = path.read_bytes()
    _age(it)
    assert _purge(it) == 1
    path.write_bytes(before)
    os.utime(path, (0, 0))
    assert it.unbalanced == []
    it.dispatcher._next_orphan_sweep = 0.0
    it.dispatch()
    assert outcomes(it.database, AuditAction.INSTANCE_RECOVERED) == []
    assert len(instances(it.database)) == 1
    assert sweep_purged(it.database, it.settings) == 1
    assert not path.exists()
    assert it.unbalanced == []


def test_a_purged_image_is_told_apart_from_a_lost_one(node: Make) -> None:
    it, lost = node(), image(2)
    _delivered(it, image(1), lost)
    _age(it)
    (it.settings.spool_dir / it.instance(lost).storage_key).unlink()
    assert _purge(it) == 1
    (line,) = [each for each in compute(it.database, it.settings) if not each.balanced]
    assert line.name == "spool files"
    assert (line.parts["missing"], line.parts["purged"]) == (1, 1)


def test_an_analysis_of_a_purged_image_ends_with_the_reason(node: Make) -> None:
    it = node()
    _delivered(it, image(1))
    _age(it)
    assert _purge(it) == 1
    job = Job(kind=JobKind.ANALYSE, instance_id=it.instance(image(1)).id, model_selector="other")
    with pytest.raises(AnalysisFailed, match="have it sent again"):
        tasks._analysed(job, it.runtime)


def test_files_that_cannot_be_purged_do_not_hold_up_the_others(
    node: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PORTION", 2)
    it = node()
    images = [image(number) for number in range(1, 6)]
    _delivered(it, *images)
    _age(it)
    list(_retention(it).run())
    it.compare()
    for ds in images[:3]:
        (it.settings.spool_dir / it.instance(ds).storage_key).unlink()
    assert len(list(_retention(it).run())) == 2
    assert _files(it) == []
