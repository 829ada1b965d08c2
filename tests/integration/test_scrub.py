"""Scrub finds what a disk lost or damaged, and sending it again mends it."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from subprocess import run as run_program

import pytest
from rejection_bench import Bench, image
from rows import instances, outcomes

from dicom_node.healing import DAMAGED
from dicom_node.queue import JobQueue
from dicom_node.scrub import Fault, Found, Scrub, ScrubFilter
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance
from models.result import Artifact
from models.settings import load_settings
from models.states import ArtifactKind
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def node(
    listen: Listen, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A node without receivers, and two studies' worth of results in it."""
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    with ExitStack() as stack:
        running = listen()
        queue = JobQueue(redis_server)
        stack.callback(queue.close)
        bench = Bench(running.port, running.database, running.settings, queue, sandbox)
        bench.send(image(1), image(2))
        bench.run()
        yield bench


def _scrub(it: Bench, **wanted: object) -> tuple[Scrub, list[Found]]:
    scrub = Scrub(it.settings, it.database, ScrubFilter(**wanted))
    return scrub, list(scrub.run())


def _path(it: Bench, number: int) -> Path:
    return it.settings.spool_dir / it.instance(image(number)).storage_key


def _flip(path: Path) -> None:
    """Turn one bit in the middle over, as a bad disk does: size and time stay."""
    times = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_a_sound_node_has_nothing_to_tell(node: Bench) -> None:
    scrub, found = _scrub(node)
    assert found == []
    # 2 images; SEG, display, overlay and layer of each; the SR
    assert scrub.tally.files == scrub.expected() + 11 == 11
    assert scrub.tally.is_sound
    assert outcomes(node.database, AuditAction.STORAGE_SCRUBBED) == ["sound"]
    (event,) = node.all(AuditEvent, AuditEvent.action == AuditAction.STORAGE_SCRUBBED)
    assert event.details["files"] == 11
    assert event.details["size_bytes"] > 200_000


def test_one_bit_is_found_and_the_same_image_sent_again_mends_it(node: Bench) -> None:
    _flip(_path(node, 1))
    before = _path(node, 1).name
    scrub, (found,) = _scrub(node)
    assert (found.fault, found.kind) == (Fault.DAMAGED, "image")
    assert found.sop_instance_uid == str(image(1).SOPInstanceUID)
    assert not scrub.tally.is_sound
    assert node.instance(image(1)).damaged_at is not None

    node.send(image(1))
    assert outcomes(node.database, AuditAction.INSTANCE_RESTORED) == ["damaged"]
    assert [path.name for path in (node.settings.spool_dir / DAMAGED).iterdir()] == [before]
    assert _scrub(node)[1] == []
    assert node.instance(image(1)).damaged_at is None
    assert len(instances(node.database)) == 2
    assert node.unbalanced == []


def test_a_lost_file_is_found_and_the_same_image_sent_again_mends_it(node: Bench) -> None:
    _path(node, 2).unlink()
    assert [each.fault for each in _scrub(node)[1]] == [Fault.MISSING]
    node.send(image(2))
    assert outcomes(node.database, AuditAction.INSTANCE_RESTORED) == ["missing"]
    assert _scrub(node)[1] == []
    assert node.unbalanced == []


def test_a_lost_file_is_mended_also_before_any_scrub(node: Bench) -> None:
    _path(node, 2).unlink()
    node.send(image(2))
    assert _scrub(node)[1] == []
    assert node.unbalanced == []


def test_a_sound_file_is_not_replaced_by_the_same_image(node: Bench) -> None:
    before = node.instance(image(1)).storage_key
    node.send(image(1))
    assert node.instance(image(1)).storage_key == before
    assert outcomes(node.database, AuditAction.INSTANCE_RESTORED) == []
    assert len(list(node.settings.spool_dir.glob("??/*.dcm"))) == 2


def test_a_damaged_result_and_files_that_nobody_knows_are_told(node: Bench) -> None:
    (report,) = node.all(Artifact, Artifact.kind == ArtifactKind.SR)
    _flip(node.settings.artifact_dir / report.storage_key)
    for root in (node.settings.spool_dir, node.settings.artifact_dir):
        stray = root / "ab" / f"ab{'0' * 30}.dcm"
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"stray")
        os.utime(stray, (0, 0))
        stray.with_name(f"ab{'1' * 30}.dcm").symlink_to("gone")  # as one that goes meanwhile
    found = {(each.kind, each.fault.value) for each in _scrub(node)[1]}
    assert found == {("sr", "damaged"), ("image", "unknown"), ("result", "unknown")}


def test_it_can_be_done_in_portions_and_goes_on_where_it_was(node: Bench) -> None:
    _flip(_path(node, 1))
    numbers = []
    for _ in range(4):
        scrub, _found = _scrub(node, limit=4, unread_for_days=1.0)
        numbers.append(scrub.tally.files)
        assert not scrub.tally.is_sound  # also in the portions after the one that found it
    assert numbers == [4, 4, 4, 2]  # 11 files, and the damaged one three times more
    assert node.instance(image(1)).damaged_at is not None
    assert _scrub(node, since=utc_now() + timedelta(days=1))[0].tally.files == 0


def test_interrupted_it_keeps_what_was_read(node: Bench) -> None:
    _path(node, 1).unlink()
    run = Scrub(node.settings, node.database, ScrubFilter()).run()
    assert next(run).fault is Fault.MISSING
    run.close()
    assert outcomes(node.database, AuditAction.STORAGE_SCRUBBED) == ["damaged"]


def test_a_rate_is_kept(node: Bench) -> None:
    total = sum(row.size_bytes for row in (*node.all(Instance), *node.all(Artifact)))
    scrub = Scrub(node.settings, node.database, ScrubFilter(), bytes_per_second=total / 0.5)
    ends: list[float] = []
    list(scrub.run(lambda: ends.append(scrub.tally.size_bytes / total)))
    assert ends[-1] == 1.0
    assert scrub.seconds >= 0.5


def test_the_command_says_what_it_found_and_exits_1(node: Bench) -> None:
    _flip(_path(node, 1))
    command = [sys.executable, "-m", "dicom_node", "scrub", "--json"]
    command += ["--data-dir", str(node.settings.data_dir)]
    environment = os.environ | {"DICOM_NODE_DATABASE_URL": node.settings.effective_database_url}
    done = run_program(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["fault"] == "damaged"
    assert "11 files" in done.stderr
    node.send(image(1))
    done = run_program(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
