"""Spool, results and database on disks of their own; what `check` says of the disks."""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from conftest import RunningListener
from pydantic import ValidationError
from rejection_bench import Bench, image
from rows import add_analysis, add_instance, open_database
from smalldisk import SmallDisk, small_disk
from sqlalchemy import update

from dicom_node.disk import check_disks
from dicom_node.queue import JobQueue
from dicom_node.spool import Spool
from models.base import utc_now
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from worker.sandbox import Sandbox

Listen = Callable[..., RunningListener]


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


def test_folders_are_in_the_data_folder_unless_told(tmp_path: Path) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    assert settings.spool_dir == tmp_path / "spool"
    assert settings.artifact_dir == tmp_path / "artifacts"
    apart = {"spool": tmp_path / "a", "artifacts": tmp_path / "b"}
    settings = load_settings(None, data_dir=tmp_path, storage=apart)
    assert (settings.spool_dir, settings.artifact_dir) == (tmp_path / "a", tmp_path / "b")


def test_a_floor_below_which_the_node_is_closed_is_refused() -> None:
    with pytest.raises(ValidationError, match="must be above dicom"):
        load_settings(None, retention={"floor_bytes": 1000}, dicom={"min_free_bytes": 1000})


@pytest.mark.parametrize("days", [999_999, float("inf"), -1])
@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("retention", "images_days"),
        ("retention", "results_days"),
        ("delivery", "commitment_keep_days"),
    ],
)
def test_days_that_no_date_has_are_refused(section: str, key: str, days: float) -> None:
    with pytest.raises(ValidationError, match=key):
        load_settings(None, **{section: {key: days}})


def test_one_folder_for_received_objects_and_results_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(ValidationError, match="must be two folders"):
        load_settings(None, storage={"spool": tmp_path, "artifacts": link})


def test_a_study_goes_through_a_node_on_three_disks(
    listen: Listen,
    disk: SmallDisk,
    redis_server: str,
    sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    folders = {"spool": disk.path / "received", "artifacts": tmp_path / "elsewhere"}
    running = listen(sections={"storage": folders})
    queue = JobQueue(redis_server)
    it = Bench(running.port, running.database, running.settings, queue, sandbox)
    it.send(image(1))
    it.run()
    queue.close()
    assert it.study.state == "delivered"
    assert len(list(folders["spool"].glob("??/*.dcm"))) == 1
    assert len(list(folders["artifacts"].glob("??/*"))) == 5
    assert folders["spool"].stat().st_dev != folders["artifacts"].stat().st_dev
    assert not (running.settings.data_dir / "spool").exists()
    assert it.unbalanced == []
    said = check_disks(it.settings, it.database)
    assert "received: " in said
    assert "elsewhere: " in said


@pytest.fixture
def node(tmp_path: Path, disk: SmallDisk) -> Iterator[tuple[Settings, Database]]:
    """A node on a small disk that has one image and one result."""
    settings = load_settings(None, data_dir=disk.path, dicom={"min_free_bytes": 0})
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        add_analysis(database, add_instance(database))
        yield settings, database


def _rate(database: Database, bytes_in_a_week: int, *, purged: bool = False) -> None:
    then = utc_now() - timedelta(days=6.9)
    values = {"size_bytes": bytes_in_a_week, "purged_at": utc_now() if purged else None}
    with database.write() as session:
        session.execute(update(Instance).values(received_at=then, **values))
        session.execute(update(Artifact).values(created_at=then))


def test_check_warns_in_time_of_a_disk_that_will_be_full(
    node: tuple[Settings, Database], disk: SmallDisk
) -> None:
    settings, database = node
    free = disk.free()
    _rate(database, free // 10)
    assert re.search(r"full in (68|69|70) days", check_disks(settings, database))
    _rate(database, free)
    with pytest.raises(RuntimeError, match=r"will be full in 6\.[789] days"):
        check_disks(settings, database)
    _rate(database, free, purged=True)
    assert "does not fill" in check_disks(settings, database)


def test_check_says_that_files_cannot_be_renamed_into_the_spool(
    node: tuple[Settings, Database], disk: SmallDisk
) -> None:
    settings, database = node
    incoming = Spool(settings.image_store, 0).incoming
    incoming.rmdir()
    with (
        small_disk(incoming, 4),
        pytest.raises(RuntimeError, match="is on another file system than"),
    ):
        check_disks(settings, database)
    assert disk.free() > 0
