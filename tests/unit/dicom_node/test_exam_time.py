"""When a study was made: dates, times and zones as objects have them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from dicom_node.exam_time import exam_time


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("date", "clock", "offset", "expected"),
    [
        ("20260102", "0304", "+0000", datetime(2026, 1, 2, 3, 4, tzinfo=UTC)),
        ("20260102", "030405.123456", "-0330", datetime(2026, 1, 2, 6, 34, 5, tzinfo=UTC)),
        ("2026.01.02", "03:04:05", "+1400", datetime(2026, 1, 1, 13, 4, 5, tzinfo=UTC)),
        ("20260102", "03", None, datetime(2026, 1, 2, 2, tzinfo=UTC)),
        ("20260702", "03", None, datetime(2026, 7, 2, 1, tzinfo=UTC)),  # summer time
        ("20260102", "03", "nonsense", datetime(2026, 1, 2, 2, tzinfo=UTC)),
        ("20260231", "03", "+0000", None),
        ("20260102", "2500", "+0000", None),
        ("00010101", "00", None, None),
        ("99991231", "235959", "-1400", None),
        ("20260102", None, "+0000", None),
        (None, "03", "+0000", None),
        ("20260102-20260103", "03", None, None),
    ],
)
@pytest.mark.usefixtures("berlin")
def test_the_moment_of_a_study(
    date: str | None, clock: str | None, offset: str | None, expected: datetime | None
) -> None:
    assert exam_time(date, clock, offset) == expected
