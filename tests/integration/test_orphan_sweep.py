"""The sweep after files without a row: whole at first, then only what is new, missing nothing."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset, write_part10
from rows import add_instance, count, open_database, random_uid
from sqlalchemy.exc import DataError, OperationalError

from dicom_node import recovery
from dicom_node.recovery import OrphanSweep
from dicom_node.spool import Spool
from models.imaging import Instance
from models.session import Database
from models.settings import Settings, load_settings
from models.states import StoreOutcome

AGE = 1.0


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data", dispatch={"orphan_seconds": AGE})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


@pytest.fixture
def sweep(settings: Settings, database: Database) -> OrphanSweep:
    return OrphanSweep(database, settings, Spool(settings.image_store, 0))


def _orphan(settings: Settings, shard: str = "00", seconds_old: float = 2 * AGE) -> Path:
    """Write a complete file whose listener died; its time of change is now, its content older."""
    uid = random_uid()
    path = settings.spool_dir / f"{shard}/{uid}.dcm"
    write_part10(path, chest_dataset(SOPInstanceUID=uid))
    past = time.time() - seconds_old
    os.utime(path, (past, past))
    return path


def test_the_first_sweep_of_a_process_finds_what_is_old(
    settings: Settings, database: Database, sweep: OrphanSweep
) -> None:
    _orphan(settings, seconds_old=10 * 86400.0)
    assert sweep.run() == 1
    assert sweep.run() == 0
    assert count(database, Instance) == 1


@pytest.mark.parametrize(
    "content", [b"", b"no DICOM at all " * 40, bytes(128) + b"DICM" + bytes(99)]
)
def test_a_file_that_is_none_of_ours_holds_up_no_other(
    settings: Settings, sweep: OrphanSweep, content: bytes
) -> None:
    foreign = _orphan(settings, "00")
    foreign.write_bytes(content)
    past = time.time() - 2 * AGE
    os.utime(foreign, (past, past))
    _orphan(settings, "ff")
    assert sweep.run() == 1
    assert foreign.read_bytes() == content


def test_the_next_one_finds_what_is_new_in_any_folder(
    settings: Settings, sweep: OrphanSweep
) -> None:
    assert sweep.run() == 0
    _orphan(settings, "00")
    _orphan(settings, "ff")
    assert sweep.run() == 2
    _orphan(settings, "00")
    assert sweep.run() == 1


def test_a_file_that_was_too_young_is_found_by_the_next(
    settings: Settings, sweep: OrphanSweep
) -> None:
    sweep.run()
    young = _orphan(settings, seconds_old=0)
    assert sweep.run() == 0
    past = time.time() - 2 * AGE
    os.utime(young, (past, past))
    assert sweep.run() == 1


def test_a_folder_without_anything_new_is_not_listed(
    settings: Settings, sweep: OrphanSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for shard in ("00", "ff"):
        _orphan(settings, shard)
    assert sweep.run() == 2
    long_ago = time.time() - 86400.0
    os.utime(settings.spool_dir / "00", (long_ago, long_ago))
    listed = []
    real = os.scandir

    def scandir(path: Path) -> object:
        listed.append(Path(path).name)
        return real(path)

    monkeypatch.setattr(recovery.os, "scandir", scandir)
    assert sweep.run() == 0
    assert "ff" in listed
    assert "00" not in listed


@pytest.mark.parametrize("jump", [2 * 86400.0, -2 * 86400.0])
def test_a_clock_that_jumped_hides_nothing(
    settings: Settings,
    sweep: OrphanSweep,
    jump: float,
) -> None:
    """The last sweep was at another time by the clock of the wall."""
    sweep.run()
    _orphan(settings)
    assert sweep._last
    sweep._last -= jump
    assert sweep.run() == 1


def test_after_a_day_it_is_whole_again(settings: Settings, sweep: OrphanSweep) -> None:
    sweep.run()
    _orphan(settings)
    long_ago = time.time() - 86400.0
    os.utime(settings.spool_dir / "00", (long_ago, long_ago))  # as a restored backup may have it
    assert sweep.run() == 0
    sweep._next_whole = time.monotonic()
    assert sweep.run() == 1


def test_many_known_files_are_asked_for_in_blocks(
    settings: Settings, database: Database, sweep: OrphanSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_BLOCK", 3)
    for _ in range(7):
        path = _orphan(settings)
        add_instance(database, storage_key=f"00/{path.name}", sop_instance_uid=path.stem)
    _orphan(settings)
    assert sweep.run() == 1


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no DICOM at all",
        bytes(128) + b"DICM",
        bytes(128) + b"DICM" + b"\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff",
        bytes(128) + b"DICM" + os.urandom(3000),
    ],
)
def test_a_file_that_nobody_can_read_holds_up_no_other(
    settings: Settings, database: Database, sweep: OrphanSweep, content: bytes
) -> None:
    """As a power cut left it under a name of a former release, or a person who copied it there."""
    _orphan(settings).write_bytes(content)
    past = time.time() - 2 * AGE
    for path in settings.spool_dir.glob("00/*.dcm"):
        os.utime(path, (past, past))
    _orphan(settings, "ff")
    assert sweep.run() == 1
    assert count(database, Instance) == 1
    assert len(list(settings.spool_dir.glob("00/*.dcm"))) == 1


def test_a_file_that_the_database_refuses_holds_up_no_other(
    settings: Settings, sweep: OrphanSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = _orphan(settings, "00")
    _orphan(settings, "ff")
    real = recovery.record_instance

    def record(*arguments: Any) -> StoreOutcome:
        if arguments[2].path == refused:
            raise DataError(None, {}, ValueError("value too long"))
        return real(*arguments)

    monkeypatch.setattr(recovery, "record_instance", record)
    assert sweep.run() == 1
    assert refused.exists()


def test_without_a_database_the_sweep_ends(
    settings: Settings, sweep: OrphanSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    _orphan(settings, "00")
    _orphan(settings, "ff")
    asked = []

    def record(*arguments: Any) -> StoreOutcome:
        asked.append(arguments)
        raise OperationalError(None, {}, ConnectionError("gone"))

    monkeypatch.setattr(recovery, "record_instance", record)
    with pytest.raises(OperationalError):
        sweep.run()
    assert len(asked) == 1
