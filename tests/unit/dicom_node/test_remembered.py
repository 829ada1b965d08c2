"""Counts over whole tables are made by one asker at a time, and remembered for a while."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from dicom_node.web.api.remembered import Remembered


@dataclass
class Clock:
    """A monotonic clock that a test moves."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Table:
    """What is counted: it takes some seconds, and may be away."""

    clock: Clock
    seconds: float = 0.0
    error: Exception | None = None
    counts: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        self.clock.now += self.seconds
        if self.error is not None:
            raise self.error
        self.counts.append(len(self.counts))
        return self.counts[-1]


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, 10.0), (0.1, 10.0), (3.0, 60.0)])
def test_a_count_is_remembered_for_a_while(seconds: float, kept: float) -> None:
    clock = Clock()
    table = Table(clock, seconds)
    remembered = Remembered(table, clock)
    first = remembered.value()
    clock.now += kept - 0.01
    assert remembered.value() is first
    clock.now += 0.02
    again = remembered.value()
    assert (first.value, again.value) == (0, 1)
    assert again.at > first.at


def test_an_error_is_not_remembered() -> None:
    clock = Clock()
    table = Table(clock, error=OSError("away"))
    remembered = Remembered(table, clock)
    with pytest.raises(OSError, match="away"):
        remembered.value()
    table.error = None
    assert remembered.value().value == 0


def test_many_askers_wait_for_one_count() -> None:
    started, may_end = threading.Event(), threading.Event()
    made: list[int] = []

    def count() -> int:
        started.set()
        assert may_end.wait(10)
        made.append(1)
        return len(made)

    remembered = Remembered(count)
    with ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(remembered.value) for _ in range(5)]
        assert started.wait(10)
        may_end.set()
        assert [each.result(10).value for each in answers] == [1] * 5
    assert made == [1]
