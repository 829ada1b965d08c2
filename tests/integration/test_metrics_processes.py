"""Processes note themselves, and are measured with what they started, as long as they live."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import wait_until

from dicom_node.web.metrics.processes import Group, groups
from models.running import register, running

_LISTENER = """
import os, sys
from pathlib import Path
from models.running import register
register(Path(sys.argv[1]), "listen")
if os.fork() == 0:
    sys.stdin.read()
    os._exit(0)
print("here", flush=True)
sys.stdin.read()
"""
_SUPERVISOR = """
import subprocess, sys
from pathlib import Path
from models.running import register
register(Path(sys.argv[1]), "up")
listener = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], stdin=subprocess.PIPE)
broker = subprocess.Popen(["sleep", "60"])
sys.stdin.read()
broker.kill()
listener.communicate()
"""


@contextmanager
def _process(*arguments: str) -> Iterator[None]:
    command = [sys.executable, "-c", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    with process, process.stdin, process.stdout:
        process.stdout.readline()
        yield


def _numbers(found: dict[tuple[str, str], Group]) -> dict[tuple[str, str], int]:
    return {key: group.processes for key, group in found.items()}


def test_a_node_is_its_roles_and_what_they_started(tmp_path: Path) -> None:
    with _process(_SUPERVISOR, str(tmp_path), _LISTENER):
        found = groups(tmp_path)
        assert _numbers(found) == {
            ("up", "main"): 1,
            ("up", "sleep"): 1,
            ("listen", "main"): 1,
            ("listen", "fork"): 1,
        }
        for group in found.values():
            assert group.memory_bytes > 100_000
            assert group.open_files >= 3
            assert 0 < group.open_files_share < 1

    def is_gone() -> bool:
        return not groups(tmp_path)

    wait_until(is_gone, 10, "the end of the processes")
    assert list((tmp_path / "run").iterdir()) == []


def test_who_has_the_pid_later_or_in_another_container_is_not_taken_for_it(tmp_path: Path) -> None:
    register(tmp_path, "web")
    (file,) = (tmp_path / "run").iterdir()
    known = json.loads(file.read_text())
    assert [each.role for each in running(tmp_path)] == ["web"]
    (tmp_path / "run" / f"listen.1.{known['pid']}").write_text(
        json.dumps(known | {"role": "listen", "namespace": 1})
    )
    (tmp_path / "run" / f"deliver.{known['namespace']}.{known['pid']}").write_text(
        json.dumps(known | {"role": "deliver", "started": known["started"] - 60})
    )
    (tmp_path / "run" / "odd.1.2").write_text("half a fi")
    assert [each.role for each in running(tmp_path)] == ["web"]
    assert not list((tmp_path / "run").glob("deliver.*"))  # its process is gone
    assert list((tmp_path / "run").glob("listen.*"))  # somebody else's


def test_a_folder_that_cannot_be_written_costs_the_figures_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    register(tmp_path / "file", "web")
    assert groups(tmp_path / "file") == {}
