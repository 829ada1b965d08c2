"""A disk full to the last byte, at every stage: what was promised stays, it goes on by itself.

The database is on the same full disk, or elsewhere: both happen.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from builders import chest_dataset
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from rejection_bench import Archive, Bench, archive, image
from rows import instances, outcomes
from senders import associate, encoded, store
from smalldisk import SmallDisk
from sqlalchemy.exc import DBAPIError

from dicom_node.ledger import compute
from dicom_node.queue import JobQueue
from dicom_node.recovery import recover_orphans
from dicom_node.retention import Retention
from dicom_node.spool import Spool
from models.audit import AuditAction
from models.files import HEADERS
from models.imaging import Instance
from models.job import Job
from models.sections import RetentionSettings
from models.settings import load_settings
from models.states import JobKind, JobState
from worker import tasks
from worker.sandbox import Sandbox

pytestmark = pytest.mark.faults

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

_FULL = (OSError, DBAPIError)  # no room for a file, or for a row


@pytest.fixture(params=["sqlite on it", "sqlite elsewhere", "postgresql"])
def database_url(request: pytest.FixtureRequest, disk: SmallDisk, tmp_path: Path) -> str:
    """URL of a database on the disk that fills, or on one with room."""
    if request.param == "sqlite on it":
        return f"sqlite:///{disk.path / 'node.db'}"
    if request.param == "sqlite elsewhere":
        return f"sqlite:///{tmp_path / 'node.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


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
def bench(
    listen: Listen,
    disk: SmallDisk,
    pacs: Archive,
    redis_server: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bench]:
    """A node on the small disk that delivers to the PACS."""
    to = f'[{{"name": "P", "ae_title": "P", "host": "127.0.0.1", "port": {pacs.port}}}]'
    monkeypatch.setenv("DICOM_NODE_DESTINATIONS", to)
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    monkeypatch.setenv("DICOM_NODE_DELIVERY__BACKOFF_SECONDS", "0.01")
    running = listen(data_dir=disk.path)
    queue = JobQueue(redis_server)
    yield Bench(running.port, running.database, running.settings, queue, sandbox)
    queue.close()


def _half_files(root: Path) -> list[Path]:
    found = [
        *root.glob("spool/incoming/*"),
        *root.glob("spool/??/.*"),
        *root.glob("artifacts/??/.*"),
    ]
    return [path for path in found if path.is_file()]


def test_below_the_floor_nobody_may_associate_until_there_is_room(
    listen: Listen, disk: SmallDisk
) -> None:
    node = listen(data_dir=disk.path, min_free_bytes=4_000_000)
    disk.fill(leave=3_000_000)
    with associate(node.port) as assoc:
        assert assoc.is_rejected
        answer = assoc.acceptor.primitive
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    disk.free_up()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000


def test_a_disk_that_fills_in_a_data_set_is_told_and_the_association_lives(
    listen: Listen, disk: SmallDisk
) -> None:
    node = listen(data_dir=disk.path)
    big = chest_dataset(PatientID="P1", pixels=chest_dataset().pixel_array.repeat(40, axis=0))
    assert len(encoded(big)) > 4_000_000
    disk.fill(leave=3_000_000)
    with associate(node.port) as assoc:
        assert assoc.send_c_store(big).Status == 0xA700
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
        disk.free_up()
        assert assoc.send_c_store(big).Status == 0x0000
    assert _half_files(disk.path) == []
    assert all(line.balanced for line in compute(node.database, node.settings))


def test_what_was_answered_with_success_is_kept_however_little_room_there_was(
    listen: Listen, disk: SmallDisk
) -> None:
    node = listen(data_dir=disk.path)
    answers: dict[str, int | None] = {}
    for kilobytes in (0, 20, 90, 130, 150, 170, 200, 260, 400):
        disk.fill(leave=kilobytes * 1000)
        ds = _one()
        answers[str(ds.SOPInstanceUID)] = store(node.port, ds)
        disk.free_up()
    assert set(answers.values()) == {0x0000, 0xA700}
    assert _half_files(disk.path) == []
    spool = Spool(node.settings.image_store, 0)
    recover_orphans(node.database, node.settings, spool, 0.0)
    held = {row.sop_instance_uid for row in instances(node.database)}
    assert {uid for uid, status in answers.items() if status == 0x0000} <= held
    assert store(node.port, _one()) == 0x0000
    assert all(line.balanced for line in compute(node.database, node.settings))


def _one() -> Dataset:
    return image(1, StudyInstanceUID=generate_uid(), SOPInstanceUID=generate_uid())


def test_every_stage_goes_on_when_there_is_room_again(
    bench: Bench, disk: SmallDisk, pacs: Archive
) -> None:
    bench.send(image(1))
    bench.dispatch()
    (job,) = bench.jobs(JobKind.ANALYSE)
    assert tasks.claim(bench.database, job.id, 60.0) is not None
    with _full(disk), pytest.raises(_FULL):
        bench.finish_analysis(job)
    assert _half_files(disk.path) == []
    assert bench.instance(image(1)).state == "queued"
    bench.finish_analysis(job)

    with _full(disk), contextlib.suppress(*_FULL):
        bench.dispatch()
    bench.dispatch()
    with _full(disk), contextlib.suppress(*_FULL):
        bench.report()
    _let_leases_expire(bench)
    assert bench.jobs(JobKind.REPORT, JobState.DEAD) == []

    with _full(disk), contextlib.suppress(*_FULL):
        bench.dispatch()
        bench.deliver()
    bench.run()
    assert bench.study.state == "delivered"
    assert len(pacs.classes()) == 2
    assert [state for _, state in bench.deliveries()] == ["sent", "sent"]
    assert _half_files(disk.path) == []
    assert bench.unbalanced == []


@contextlib.contextmanager
def _full(disk: SmallDisk) -> Iterator[None]:
    disk.fill()
    try:
        yield
    finally:
        disk.free_up()


def _let_leases_expire(bench: Bench) -> None:
    """A worker that could not even give its job back is silent: the dispatcher takes it away."""
    for job in bench.all(Job, Job.state == JobState.LEASED):
        with bench.database.write() as session:
            session.get_one(Job, job.id).lease_until = job.created_at
    bench.dispatch()


def test_retention_makes_room_for_what_comes(bench: Bench, disk: SmallDisk) -> None:
    bench.send(*(image(number) for number in range(1, 7)))
    bench.run()
    room = disk.free() + 300_000  # three images more than there is
    wanted = RetentionSettings(floor_bytes=room)
    retention = Retention(bench.settings.model_copy(update={"retention": wanted}), bench.database)
    list(retention.run())
    bench.compare()
    purged = list(retention.run())
    grows = (disk.path / "node.db").exists()  # what a database on the disk writes takes room too
    assert 2 <= len(purged) <= (6 if grows else 4)
    assert grows or disk.free() >= room
    oldest = bench.all(Instance, Instance.purged_at.is_not(None))
    assert [row.id for row in oldest] == list(range(1, len(purged) + 1))
    assert outcomes(bench.database, AuditAction.INSTANCE_PURGED) == ["floor"] * len(purged)
    assert len(list((disk.path / "spool" / HEADERS).glob("??/*"))) == len(purged)
    assert bench.unbalanced == []
