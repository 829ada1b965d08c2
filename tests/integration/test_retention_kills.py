"""Kill -9 between any two steps of a purge or of a repair loses nothing and leaves nothing over."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from rejection_bench import Bench, image
from rows import instances, outcomes
from sqlalchemy import update

from dicom_node.queue import JobQueue
from models.audit import AuditAction
from models.base import utc_now
from models.files import new_key
from models.imaging import Instance, Study
from models.settings import load_settings
from models.states import ArtifactKind
from worker.sandbox import Sandbox

pytestmark = pytest.mark.faults

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

# Runs a command of ours that kills itself in front of a function, or right behind it.
DYING = """
import importlib, os, signal, sys
module, name, where = sys.argv.pop(1).split(":")
module = importlib.import_module(module)
original = getattr(module, name)
def dying(*args, **kwargs):
    if where == "behind":
        original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, name, dying)
from dicom_node.cli import main
main()
"""
RECOVER = """
import sys
from pathlib import Path
from dicom_node import healing
from dicom_node.recovery import recover_orphans
from dicom_node.spool import Spool
from models.session import Database
from models.settings import load_settings
import os, signal
settings = load_settings(None, data_dir=Path(sys.argv[1]))
if sys.argv[2] == "dies":
    setattr(healing, "record", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
database = Database(settings.effective_database_url)
recover_orphans(database, settings, Spool(settings.image_store, 0), 0.0)
"""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def node(
    listen: Listen, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A node with one old study of two images, both compared."""
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    with ExitStack() as stack:
        running = listen()
        queue = JobQueue(redis_server)
        stack.callback(queue.close)
        bench = Bench(running.port, running.database, running.settings, queue, sandbox)
        bench.send(image(1), image(2))
        bench.run()
        then = utc_now() - timedelta(days=31)
        with bench.database.write() as session:
            session.execute(update(Instance).values(received_at=then, pixel_sha256="0" * 64))
            session.execute(update(Study).values(last_received_at=then))
        yield bench


def _environment(it: Bench) -> dict[str, str]:
    return os.environ | {
        "DICOM_NODE_DATABASE_URL": it.settings.effective_database_url,
        "DICOM_NODE_RETENTION__IMAGES_DAYS": "30",
    }


def _retention(it: Bench, *start: str) -> int:
    command = [sys.executable, *(start or ("-m", "dicom_node")), "retention"]
    command += ["--data-dir", str(it.settings.data_dir)]
    return subprocess.run(
        command, env=_environment(it), capture_output=True, check=False
    ).returncode


def _files(it: Bench) -> list[Path]:
    return sorted(it.settings.spool_dir.glob("??/*"))


@pytest.mark.parametrize(
    ("point", "purged", "files"),
    [
        ("dicom_node.retention:keep_header:front", 0, 2),
        ("dicom_node.retention:keep_header:behind", 0, 2),
        ("dicom_node.retention:record:behind", 0, 2),  # the row says so, and is not committed
        ("dicom_node.retention:delete_file:front", 1, 2),  # committed; the file is left over
        ("dicom_node.retention:delete_file:behind", 1, 1),
    ],
)
def test_a_purge_that_was_killed_is_finished_by_the_next(
    node: Bench, point: str, purged: int, files: int
) -> None:
    assert _retention(node, "-c", DYING, point) == -signal.SIGKILL
    assert sum(row.purged_at is not None for row in instances(node.database)) == purged
    assert len(_files(node)) == files
    assert node.unbalanced == []
    node.dispatcher._next_orphan_sweep = 0.0
    node.dispatch()  # the orphan sweep takes nothing in again
    assert outcomes(node.database, AuditAction.INSTANCE_RECOVERED) == []

    assert _retention(node) == 0
    assert _files(node) == []
    assert len(instances(node.database)) == 2
    assert outcomes(node.database, AuditAction.INSTANCE_PURGED) == ["age"] * 2
    assert node.unbalanced == []
    node.send(image(3))
    node.run()
    assert len(node.artifacts(ArtifactKind.SR)) == 2
    assert node.unbalanced == []


def test_two_purges_at_once_purge_each_image_once(node: Bench) -> None:
    command = [sys.executable, "-m", "dicom_node", "retention", "--json"]
    command += ["--data-dir", str(node.settings.data_dir)]
    pair = [
        subprocess.Popen(command, env=_environment(node), stdout=subprocess.PIPE) for _ in range(2)
    ]
    lines = [line for each in pair for line in each.communicate()[0].splitlines()]
    assert [each.returncode for each in pair] == [0, 0]
    assert len(lines) == 2
    assert outcomes(node.database, AuditAction.INSTANCE_PURGED) == ["age"] * 2
    assert node.unbalanced == []


@pytest.mark.parametrize("fault", ["purged", "missing", "damaged"])
def test_a_repair_that_was_killed_is_done_by_the_next(node: Bench, fault: str) -> None:
    row = node.instance(image(1))
    path = node.settings.spool_dir / row.storage_key
    again = node.settings.spool_dir / new_key(".dcm")
    again.parent.mkdir(exist_ok=True)
    shutil.copy(path, again)  # the same image came, and its listener died before the commit
    with node.database.write() as session:
        values = {"purged": {"purged_at": utc_now()}, "damaged": {"damaged_at": utc_now()}}
        if fault in values:
            session.execute(update(Instance).where(Instance.id == row.id).values(values[fault]))
    if fault != "damaged":
        path.unlink()
    for mode, expected in (("dies", -signal.SIGKILL), ("lives", 0)):
        command = [sys.executable, "-c", RECOVER, str(node.settings.data_dir), mode]
        done = subprocess.run(command, env=_environment(node), capture_output=True, check=False)
        assert done.returncode == expected, done.stderr
    now = node.instance(image(1))
    assert (now.purged_at, now.damaged_at) == (None, None)
    assert node.settings.spool_dir / now.storage_key == again
    assert outcomes(node.database, AuditAction.INSTANCE_RECOVERED) == ["duplicate"]
    restored = outcomes(node.database, AuditAction.INSTANCE_RESTORED)
    assert restored == (["missing"] if fault == "damaged" else [fault])
    assert len(instances(node.database)) == 2
    assert node.unbalanced == []
