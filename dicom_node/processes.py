"""Child processes: started so that they die with their parent, stopped politely, then firmly."""

import ctypes
import logging
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STANDARD_ERROR = 2
_LIBC = ctypes.CDLL(None, use_errno=True)
_FIRST_PAUSE_SECONDS = 1.0
_LAST_PAUSE_SECONDS = 30.0
_STABLE_SECONDS = 60.0


def die_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when its parent dies, however it dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Child:
    """One supervised process and its restart back-off."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_seconds: float = 30.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _started_at: float = 0.0
    _pause: float = _FIRST_PAUSE_SECONDS
    _not_before: float = 0.0

    @property
    def pid(self) -> int | None:
        """Return the process id while there is a process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process in a session of its own: a terminal's Ctrl-C reaches only us."""
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603  our own command line
            self.command,
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=_STANDARD_ERROR,  # standard output is the supervisor's alone: it says `ready`
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509  the supervisor has one thread
        )
        log.info("%s started (pid %d)", self.name, self._process.pid)

    def keep_alive(self) -> None:
        """Start the process again if it ended, after a pause that grows with every quick death."""
        if self._process is not None and (code := self._process.poll()) is not None:
            if time.monotonic() - self._started_at > _STABLE_SECONDS:
                self._pause = _FIRST_PAUSE_SECONDS
            log.error("%s ended with %d; starting again in %.0f s", self.name, code, self._pause)
            self._kill_session()
            self._process = None
            self._not_before = time.monotonic() + self._pause
            self._pause = min(self._pause * 2, _LAST_PAUSE_SECONDS)
        if self._process is None and time.monotonic() >= self._not_before:
            self.start()

    def ended(self) -> int | None:
        """Return the exit status when the process has ended."""
        return self._process.poll() if self._process else None

    def terminate(self) -> None:
        """Send SIGTERM."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def wait(self) -> None:
        """Wait for the end; after `stop_seconds` kill the whole session."""
        if self._process is None:
            return
        try:
            self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            log.error("%s did not stop in %.0f s: killed", self.name, self.stop_seconds)  # noqa: TRY400  expected, no traceback
        self._kill_session()
        self._process.wait()
        self._process = None

    def _kill_session(self) -> None:
        """Kill whatever is left of the process's session, its own children included."""
        if self._process is None:
            return
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == self._process.pid:
                    os.kill(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
