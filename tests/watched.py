"""Real processes under load: which are there, and the most memory that each has held."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from servers import free_port, wait_until

from dicom_node.demo.node import NodeProcess

_START_SECONDS = 180.0  # importing everything on a busy machine


@dataclass(frozen=True)
class ListenerProcess:
    """`dicom-node listen` on a port and a data folder of its own."""

    process: psutil.Process
    port: int
    log: Path


@contextlib.contextmanager
def listening(data_dir: Path, database_url: str) -> Iterator[ListenerProcess]:
    """Run a listener for a block; it must live to the end of it, and stop when asked."""
    port = free_port()
    environment = os.environ | {
        "DICOM_NODE_DATABASE_URL": database_url,
        "DICOM_NODE_DICOM__HOST": "127.0.0.1",
        "DICOM_NODE_DICOM__PORT": str(port),
        "DICOM_NODE_DICOM__MIN_FREE_BYTES": "0",
    }
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.with_name(f"{data_dir.name}.log")
    command = [sys.executable, "-m", "dicom_node", "listen", "--data-dir", str(data_dir)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        wait_until(lambda: _answers(port), _START_SECONDS, "the listener to answer")
        yield ListenerProcess(psutil.Process(process.pid), port, log)
        assert process.poll() is None, f"the listener died: {log.read_text()[-2000:]}"
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def peak_bytes(process: psutil.Process) -> int:
    """Return the most memory that `process` has held at once: VmHWM of proc_pid_status(5)."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


def role(node: NodeProcess, name: str) -> psutil.Process:
    """Return the process of one role of a node (`listen`, `dispatch`, …)."""
    return next(
        child
        for child in psutil.Process(node.pid).children()
        if name in child.cmdline()[1:] and "dicom_node" in child.cmdline()
    )


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
