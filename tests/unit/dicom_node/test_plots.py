"""Plots as numbers: inside their box, in the order of time, honest about their scale."""

from datetime import UTC, datetime, timedelta

import pytest

from dicom_node.web.plots import Figure, bars, trend

_DAY = datetime(2026, 1, 1, tzinfo=UTC)


def _figure(day: int, percent: float, *, is_this: bool = False, like: bool = True) -> Figure:
    return Figure(_DAY + timedelta(days=day), percent, is_this, like)


def test_points_lie_by_time_and_percentage() -> None:
    plot = trend([_figure(0, 0.0), _figure(1, 10.0), _figure(10, 20.0, is_this=True)])
    first, second, third = plot.points
    assert first.x < second.x < third.x
    assert second.x - first.x == pytest.approx((third.x - first.x) / 10, abs=0.2)
    assert first.y - second.y == pytest.approx(second.y - third.y, abs=0.2)
    assert all(0 <= p.x <= plot.width and 0 <= p.y <= plot.height for p in plot.points)
    assert [level for level, _ in plot.lines] == [0.0, 12.5, 25.0]


def test_the_scale_begins_at_0_and_ends_at_a_round_number() -> None:
    for highest, top in ((0.0, 10.0), (9.0, 10.0), (10.0, 25.0), (46.0, 100.0), (99.0, 100.0)):
        assert trend([_figure(0, highest)]).lines[-1][0] == top


def test_the_line_leaves_out_what_another_model_measured() -> None:
    plot = trend([_figure(0, 5.0), _figure(1, 50.0, like=False), _figure(2, 7.0, is_this=True)])
    assert plot.path.count("L") == 1
    assert f"{plot.points[1].x} " not in plot.path


def test_exams_of_one_moment_stand_in_the_middle() -> None:
    plot = trend([_figure(0, 5.0), _figure(0, 6.0, is_this=True)])
    assert plot.points[0].x == plot.points[1].x


def test_bars_are_as_high_as_their_numbers() -> None:
    plot = bars([("08", (10, 5)), ("09", (0, 0))])
    one, two = plot.bars
    assert plot.top == 10
    assert one.heights[0] == pytest.approx(2 * one.heights[1], abs=0.2)
    assert two.heights == (0, 0)
    assert one.x + one.width == pytest.approx(two.x, abs=0.2)
    assert two.x + two.width <= plot.width + 0.2


def test_a_day_without_anything_has_a_scale() -> None:
    assert bars([("08", (0, 0))]).top == 1
