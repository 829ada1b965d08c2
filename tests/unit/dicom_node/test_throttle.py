"""How often one address may do something."""

import pytest

from dicom_node.web.access.throttle import Throttle


class Clock:
    """A monotonic clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_so_many_in_so_long(clock: Clock) -> None:
    throttle = Throttle(2, 60.0, monotonic=clock)
    assert [throttle.note("192.0.2.1") for _ in range(4)] == [True, True, False, False]
    assert throttle.note("192.0.2.2")
    clock.now += 59
    assert not throttle.note("192.0.2.1")
    clock.now += 1
    assert throttle.note("192.0.2.1")


def test_what_is_refused_does_not_prolong_the_wait(clock: Clock) -> None:
    throttle = Throttle(1, 60.0, monotonic=clock)
    assert throttle.note("a")
    for _ in range(6):
        clock.now += 10
        was_let_in = throttle.note("a")
    assert was_let_in


def test_a_success_is_taken_back(clock: Clock) -> None:
    throttle = Throttle(1, 60.0, monotonic=clock)
    for _ in range(3):
        assert throttle.note("a")
        throttle.take_back("a")
    throttle.take_back("never seen")
    assert throttle.note("a")
    assert not throttle.note("a")


def test_it_never_remembers_more_addresses_than_it_may(clock: Clock) -> None:
    throttle = Throttle(1, 60.0, most=3, monotonic=clock)
    for number in range(100):
        throttle.note(f"198.51.100.{number}")
    assert len(throttle._seen) == 3
    assert not throttle.note("198.51.100.99")
    assert throttle.note("198.51.100.0")


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_what_counts_as_one_address(first: str, second: str, *, is_one: bool) -> None:
    throttle = Throttle(1, 60.0)
    assert throttle.note(first)
    assert throttle.note(second) is not is_one
