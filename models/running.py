"""Which processes of the node run on this host: a small file for each, in `run` of the data folder.

A process writes its file when it starts; who reads them leaves out, and deletes, those of processes
that are gone. Its name has a pid, which means something on its host, or in its container, alone.
"""

import contextlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import psutil

log = logging.getLogger(__name__)

_FOLDER: Final = "run"
_SECONDS: Final = 0.05  # by which two readings of one process's start may differ


@dataclass(frozen=True)
class Running:
    """One process: its role, and what tells it from others with its pid, later or elsewhere."""

    role: str
    pid: int
    started: float
    namespace: int


def register(data_dir: Path, role: str) -> None:
    """Note this process. A data folder that cannot be written costs a figure, not the process."""
    try:
        process = psutil.Process()
        me = Running(role, process.pid, process.create_time(), _namespace())
        folder = data_dir / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{role}.{me.namespace}.{me.pid}").write_text(json.dumps(asdict(me)))
    except OSError as error:
        log.info("this process is not in the metrics: %s", type(error).__name__)


def running(data_dir: Path) -> list[Running]:
    """Return the processes of this host, or container, that are alive."""
    return [each for path in sorted((data_dir / _FOLDER).glob("*.*.*")) if (each := _read(path))]


def _read(path: Path) -> Running | None:
    try:
        found = Running(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # just being written, or deleted
    if found.namespace != _namespace():
        return None
    try:
        if abs(psutil.Process(found.pid).create_time() - found.started) < _SECONDS:
            return found
    except psutil.NoSuchProcess:
        pass
    with contextlib.suppress(OSError):
        path.unlink()
    return None


def _namespace() -> int:
    """Return what is another number in every container."""
    return os.stat("/proc/self/ns/pid").st_ino  # noqa: PTH116  pathlib has no shorter way
