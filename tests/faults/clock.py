"""A wall clock that jumps under running processes (libfaketime); monotonic clocks go on."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)
_SHIM = Path(__file__).with_name("faked_clock")


def find_faketime() -> Path | None:
    """Return libfaketime of the package `libfaketime`, or None."""
    found = [path for pattern in _LIBRARIES for path in Path("/").glob(pattern[1:])]
    return found[0] if found else None


class Clock:
    """The clock of every process that is started with `environment`.

    The offset stands in a file that libfaketime reads at every look at the clock.
    """

    def __init__(self, library: Path, folder: Path) -> None:
        self._file = folder / "clock"
        self.set(0)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "PYTHONPATH": os.pathsep.join(
                [str(_SHIM), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }

    def set(self, seconds: int) -> None:
        """Let the clock be `seconds` ahead of the machine's (negative: behind), at once."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self._file)

    def seen(self) -> float:
        """Return how many seconds a new process sees the clock ahead of the machine's."""
        code = "import time; time.sleep(0.01); print(time.time())"
        before = time.time()
        answer = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return float(answer.stdout) - before
