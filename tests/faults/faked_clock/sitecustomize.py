"""Lets Python sleep under libfaketime 0.9.10 with a monotonic clock that is not faked.

Its clock_nanosleep breaks then (libfaketime issue 426, EINVAL at every time.sleep of Python 3.11
and later); select with a time-out sleeps as long by the same clock.
"""

import select
import time


def _sleep(seconds: float) -> None:
    if seconds < 0:
        msg = "sleep length must be non-negative"
        raise ValueError(msg)
    select.select([], [], [], seconds)


time.sleep = _sleep
