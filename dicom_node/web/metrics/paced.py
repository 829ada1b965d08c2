"""What costs is read in the background, at its own pace: a scrape takes what is there."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

T = TypeVar("T")
_RETRY_SECONDS: Final = 60.0
_SHARE: Final = 20  # a reading that takes a minute is made again after this many minutes at best


@dataclass(frozen=True)
class Reading(Generic[T]):
    """What was read, when its reading began (monotonic), and how long it took."""

    value: T
    at: float
    seconds: float


@dataclass(eq=False)
class Paced(Generic[T]):
    """One reading, made again when somebody asks and it is `every` seconds old.

    Nothing runs while nobody asks. Of the first reading the asker waits for some seconds; after
    that nobody waits, unless the last one is older than `longest_age`. A reading may take a
    twentieth of the time, not more.
    """

    name: str
    read: Callable[[], T]
    every: float
    wait_seconds: float = 2.0
    longest_age: float = float("inf")  # or, if that is more, until the next one may begin
    monotonic: Callable[[], float] = time.monotonic
    _last: Reading[T] | None = None
    _not_before: float = float("-inf")
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)

    def value(self) -> Reading[T] | None:
        """Return the newest reading; None while there is none that is young enough.

        Starts the next when it is due.
        """
        with self._lock:
            is_running = self._thread is not None and self._thread.is_alive()
            if not is_running and self.monotonic() >= self._not_before:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            thread = self._thread
        if self._young() is None and thread is not None:
            thread.join(self.wait_seconds)
        return self._young()

    def _young(self) -> Reading[T] | None:
        last = self._last
        if last is None:
            return None
        longest = max(self.longest_age, _SHARE * last.seconds)
        return last if self.monotonic() - last.at <= longest else None

    def join(self, seconds: float) -> None:
        """Wait until the reading that was started has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        at = self.monotonic()
        self._not_before = at + min(self.every, _RETRY_SECONDS)
        try:
            value = self.read()
        except (SQLAlchemyError, OSError) as error:
            log.warning("metrics without the %s: %s", self.name, type(error).__name__)
            self._last = None
        except Exception:
            log.exception("metrics without the %s", self.name)
            self._last = None
        else:
            seconds = self.monotonic() - at
            self._last = Reading(value, at, seconds)
            self._not_before = at + max(self.every, _SHARE * seconds)
