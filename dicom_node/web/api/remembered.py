"""Counts over whole tables: made when somebody asks, and then remembered for a while."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

from models.base import utc_now

Value = TypeVar("Value")
_SECONDS: Final = 10.0
_SHARE: Final = 20  # a count that takes a second is made again after this many at the soonest


@dataclass(frozen=True)
class Counted(Generic[Value]):
    """A count and when it was true."""

    value: Value
    at: datetime


@dataclass(eq=False)
class Remembered(Generic[Value]):
    """One count. Who asks while it is made waits for it: it is never made twice at once."""

    count: Callable[[], Value]
    monotonic: Callable[[], float] = time.monotonic
    _last: Counted[Value] | None = None
    _fresh_until: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def value(self) -> Counted[Value]:
        """Return the count, not older than ten seconds or twenty times what it took."""
        with self._lock:
            if self._last is None or self.monotonic() >= self._fresh_until:
                begun, at = self.monotonic(), utc_now()
                self._last = Counted(self.count(), at)
                now = self.monotonic()
                self._fresh_until = now + max(_SECONDS, _SHARE * (now - begun))
            return self._last
