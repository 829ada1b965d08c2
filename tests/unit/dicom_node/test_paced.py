"""What is read in the background is made at its pace, and not shown when it is too old."""

import threading
from collections.abc import Callable

from dicom_node.web.metrics.paced import Paced

_LONG = 20.0  # seconds in which any reading here has ended


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _numbers() -> Callable[[], int]:
    numbers = iter(range(1, 100))
    return lambda: next(numbers)


def test_a_reading_is_there_while_the_next_is_made() -> None:
    clock = Clock()
    paced = Paced("numbers", _numbers(), every=10.0, wait_seconds=_LONG, monotonic=clock)
    first = paced.value()
    clock.now += 86_400.0
    then = paced.value()
    paced.join(_LONG)
    last = paced.value()
    assert first is not None
    assert then is not None
    assert last is not None
    assert (first.value, last.value) == (1, 2)
    assert then.value in {1, 2}  # whichever was there


def test_a_reading_that_is_too_old_is_waited_for() -> None:
    clock = Clock()
    paced = Paced(
        "numbers",
        _numbers(),
        every=10.0,
        wait_seconds=_LONG,
        longest_age=60.0,
        monotonic=clock,
    )
    paced.value()
    clock.now += 61.0
    found = paced.value()
    assert found is not None
    assert (found.value, found.at) == (2, clock.now)


def test_a_reading_that_is_too_old_is_not_given_out_while_the_next_takes_long() -> None:
    clock, may_go_on = Clock(), threading.Event()
    may_go_on.set()

    def read() -> int:
        assert may_go_on.wait(_LONG)
        return 7

    paced = Paced("numbers", read, every=10.0, wait_seconds=0.01, longest_age=60.0, monotonic=clock)
    paced.value()
    paced.join(_LONG)
    may_go_on.clear()
    clock.now += 30.0
    assert paced.value() is not None  # young enough, while the next is being made
    clock.now += 31.0
    assert paced.value() is None
    may_go_on.set()
    paced.join(_LONG)
    assert paced.value() is not None


def test_what_takes_long_is_given_out_until_it_may_be_made_again() -> None:
    clock = Clock()

    def read() -> int:
        clock.now += 30.0
        return 7

    paced = Paced(
        "numbers", read, every=10.0, wait_seconds=_LONG, longest_age=60.0, monotonic=clock
    )
    assert paced.value() is not None
    clock.now += 19 * 30.0 - 1.0  # in a second 20 times 30 seconds since it was begun
    assert paced.value() is not None
