"""The edge of every background loop: step, log what fails, wait, stop on a signal."""

import logging
import signal
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 10.0
_LOOK_SECONDS = 0.5


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set. Call from the main thread."""
    stop = threading.Event()

    def _handle(_number: int, _frame: object) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, _handle)
    signal.signal(signal.SIGINT, _handle)
    return stop


def wait_for(stop: threading.Event) -> None:
    """Wait in the main thread until `stop` is set, in a process that has other threads.

    Python runs a signal's handler in the main thread, which a wait without an end may sleep
    through: of three listeners that were told to end, one in ten did not.
    """
    while not stop.wait(_LOOK_SECONDS):
        pass


def run_loop(step: Callable[[], bool], stop: threading.Event, poll_seconds: float) -> None:
    """Call `step` until `stop` is set.

    `step` returns True when it found work, and is then called again at once. A step that raises
    is logged with its traceback and tried again after a growing pause: a database or broker that
    is away must not end the loop.
    """
    pause = poll_seconds
    while not stop.is_set():
        try:
            busy = step()
            pause = poll_seconds
        except Exception:
            log.exception("step failed; next try in %.1f s", pause)
            busy = False
            stop.wait(pause)
            pause = min(pause * 2, _MAX_PAUSE_SECONDS)
        if not busy:
            stop.wait(poll_seconds)
