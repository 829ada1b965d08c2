"""When a worker counts as stalled: never by the clock of the wall, never while it works."""

from datetime import timedelta

import pytest

from models.base import utc_now
from worker.watch import Sample, Stall

STARTED = utc_now()
WAITING = Sample(waiting=True, finished_at=STARTED + timedelta(seconds=1), mark=("same",))


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stall(clock: Clock) -> Stall:
    made = Stall(60.0, STARTED, clock)
    assert not made.look(WAITING)
    return made


def _look(stall: Stall, clock: Clock, sample: Sample, seconds: float, steps: int = 10) -> bool:
    """Look for so long; return whether it was ever stalled."""
    found = False
    for _ in range(steps):
        clock.now += seconds / steps
        found = stall.look(sample) or found
    return found


def test_jobs_that_wait_untouched_for_the_bound_are_a_stall(stall: Stall, clock: Clock) -> None:
    assert not _look(stall, clock, WAITING, 60)
    assert _look(stall, clock, WAITING, 10)


@pytest.mark.parametrize("sample", [Sample(), Sample(working=True)])
def test_no_work_and_long_work_are_none(stall: Stall, clock: Clock, sample: Sample) -> None:
    assert not _look(stall, clock, sample, 10_000)
    assert not _look(stall, clock, WAITING, 60)  # counted anew


def test_a_long_queue_of_which_something_was_taken_is_none(stall: Stall, clock: Clock) -> None:
    for number in range(50):
        moved = Sample(waiting=True, finished_at=WAITING.finished_at, mark=(number,))
        assert not _look(stall, clock, moved, 50)


def test_an_outage_is_counted_as_nothing(stall: Stall, clock: Clock) -> None:
    assert not _look(stall, clock, WAITING, 55)
    stall.reset()
    assert not _look(stall, clock, WAITING, 60)


def test_a_worker_that_ended_nothing_yet_may_be_loading(clock: Clock) -> None:
    stall = Stall(60.0, STARTED, clock)
    before = Sample(waiting=True, finished_at=STARTED - timedelta(days=1), mark=("same",))
    assert not _look(stall, clock, before, 170)
    assert _look(stall, clock, before, 90)
