"""Long-running processes keep what they write from others, however they were started."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from servers import free_port, wait_until

_SECONDS = 180.0  # importing everything on a busy machine


def _umask_of(process: "subprocess.Popen[bytes]") -> str:
    """Return the umask of a running process, in octal (proc_pid_status(5))."""
    with suppress(OSError):
        text = Path(f"/proc/{process.pid}/status").read_text()
        found = re.search(r"^Umask:\s*(\d+)", text, re.MULTILINE)
        return found[1] if found else ""
    return ""


@pytest.mark.parametrize(
    "command", [("worker", "run"), ("dicom_node", "listen"), ("dicom_node", "deliver")]
)
def test_a_process_that_is_started_by_itself_sets_its_umask(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    environment = os.environ | {
        "DICOM_NODE_DATABASE_URL": f"sqlite:///{tmp_path / 'node.db'}",
        "DICOM_NODE_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        "DICOM_NODE_DICOM__PORT": str(free_port()),
    }
    line = [sys.executable, "-m", *command, "--data-dir", str(tmp_path)]
    process = subprocess.Popen(line, env=environment, stderr=subprocess.DEVNULL, umask=0)
    try:
        wait_until(
            lambda: _umask_of(process) == "0027" or process.poll() is not None,
            _SECONDS,
            "the process to set its umask",
        )
        assert _umask_of(process) == "0027"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(30)
