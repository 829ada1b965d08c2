"""worker.image_gate: which pictures get a number, as tables; the pictures themselves are drawn."""

import numpy as np
import pytest
import torch
from builders import lung_masks

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.image_gate import (
    MIN_RATIO,
    Exposure,
    LungShape,
    check_lungs,
    doubt_caveats,
    fault_of,
    lung_caveats,
    may_be_corrected,
    view_caveats,
)
from worker.preprocess import Prepared, prepare
from worker.types import Caveat, LungMasks, Orientation
from worker.view import Look, View

FINE = Exposure(white=0.02, extreme=0.1)
SETTINGS = AnalysisSettings()


def look(view: View, chance: float = 0.95) -> Look:
    """One view with that chance, the rest shared evenly."""
    rest = (1.0 - chance) / (len(View) - 1)
    return Look({each: chance if each is view else rest for each in View})


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        (View.FRONTAL, None),
        (View.MIRRORED, None),
        (View.INVERTED, Reason.INVERTED),
        (View.ROTATED, Reason.ROTATED),
        (View.LATERAL, Reason.LATERAL_VIEW),
        (View.OTHER, Reason.NOT_CHEST),
    ],
)
def test_each_view_has_its_reason(view: View, reason: Reason | None) -> None:
    assert fault_of(look(view), FINE, SETTINGS) is reason


def test_a_chest_and_its_mirror_image_count_together() -> None:
    unsure = Look(dict(zip(View, (0.3, 0.25, 0.05, 0.3, 0.05, 0.05), strict=True)))
    assert fault_of(unsure, FINE, SETTINGS) is None
    strict = AnalysisSettings(min_view_probability=0.6)
    assert fault_of(unsure, FINE, strict) is Reason.ROTATED


def test_a_site_may_switch_the_picture_check_off() -> None:
    assert fault_of(look(View.OTHER), FINE, AnalysisSettings(min_view_probability=0)) is None


@pytest.mark.parametrize(
    "exposure", [Exposure(white=0.45, extreme=0.5), Exposure(white=0.1, extreme=0.8)]
)
def test_a_saturated_picture_is_refused_whatever_it_shows(exposure: Exposure) -> None:
    assert fault_of(look(View.FRONTAL), exposure, SETTINGS) is Reason.SATURATED


def _prepared(values: np.ndarray) -> Prepared:
    return prepare(values.astype(np.uint16), Orientation(), 1.0, 64)


def test_exposure_counts_inside_the_picture_only() -> None:
    values = np.full((100, 50), 30_000.0)
    values[:50] = np.linspace(0, 65_535, 2500).reshape(50, 50)
    exposure = Exposure.of(_prepared(values))
    assert exposure.white == pytest.approx(0.01, abs=0.02)
    values[:60] = 65_535
    values[60:] = np.linspace(0, 60_000, 2000).reshape(40, 50)
    assert Exposure.of(_prepared(values)).white == pytest.approx(0.6, abs=0.05)


@pytest.mark.parametrize(("chance", "may"), [(0.95, True), (0.6, False)])
def test_only_strong_evidence_turns_a_grey_scale_over(chance: float, may: bool) -> None:  # noqa: FBT001  a table
    assert may_be_corrected(look(View.INVERTED, chance), SETTINGS) is may
    off = AnalysisSettings(correct_inverted=False)
    assert not may_be_corrected(look(View.INVERTED, chance), off)


@pytest.mark.parametrize(
    ("frontal", "mirrored", "caveats"),
    [(0.9, 0.05, ()), (0.3, 0.65, ()), (0.002, 0.99, (Caveat.MIRRORED,))],
)
def test_mirrored_is_a_caveat_and_never_a_refusal(
    frontal: float, mirrored: float, caveats: tuple[Caveat, ...]
) -> None:
    seen = Look(dict.fromkeys(View, 0.0) | {View.FRONTAL: frontal, View.MIRRORED: mirrored})
    assert view_caveats(seen) == caveats
    assert fault_of(seen, FINE, SETTINGS) is None


@pytest.mark.parametrize(
    ("doubt", "bound", "caveats"),
    [(20.0, 14.0, (Caveat.UNCERTAIN,)), (5.0, 14.0, ()), (20.0, 0.0, ())],
)
def test_much_doubt_is_a_caveat(doubt: float, bound: float, caveats: tuple[Caveat, ...]) -> None:
    assert doubt_caveats(doubt, AnalysisSettings(max_doubt_percent=bound)) == caveats


def test_two_lungs_pass_without_caveat() -> None:
    shape = LungShape.of(lung_masks())
    assert shape.apart == pytest.approx(0.38, abs=0.01)
    assert shape.tall == pytest.approx(0.6 * 256 / (0.68 * 240), abs=0.02)
    check_lungs(shape, SETTINGS)
    assert lung_caveats(shape, SETTINGS) == ()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("left_over", [0.0, 0.15])
def test_one_white_or_absent_lung_passes_with_a_caveat(side: str, left_over: float) -> None:
    masks = lung_masks()
    whole = masks.left if side == "left" else masks.right
    rows = np.flatnonzero(whole.any(axis=1))
    little = whole.copy()
    little[rows[round(left_over * rows.size)] :] = False
    left, right = (little, masks.right) if side == "left" else (masks.left, little)
    shape = LungShape.of(LungMasks(left, right, np.zeros_like(left)))
    check_lungs(shape, SETTINGS)
    assert lung_caveats(shape, SETTINGS) == (Caveat.ONE_LUNG,)


def _with(**changes: float | None) -> LungShape:
    fields: dict[str, float | None] = {"left": 0.15, "right": 0.16, "apart": 0.4, "tall": 0.9}
    return LungShape(**(fields | changes))  # type: ignore[arg-type]  left, right, tall are no None


@pytest.mark.parametrize(
    "shape",
    [
        _with(left=0.0, right=0.0, apart=None, tall=0.0),
        _with(left=0.01, right=0.01),
        _with(left=0.55, right=0.3),
        _with(apart=-0.2),  # the left lung at the right lung's place
        _with(apart=0.01),  # one above the other
        _with(tall=3.0),
        _with(tall=0.2),
    ],
    ids=str,
)
def test_what_nobody_s_lungs_look_like_is_refused(shape: LungShape) -> None:
    with pytest.raises(NotAnalysable) as caught:
        check_lungs(shape, SETTINGS)
    assert caught.value.reason is Reason.NO_LUNGS


def test_no_lungs_are_refused_even_with_a_bound_of_zero() -> None:
    nothing = LungShape.of(LungMasks(*(np.zeros((20, 20), np.bool_) for _ in range(3))))
    with pytest.raises(NotAnalysable):
        check_lungs(nothing, AnalysisSettings(min_lung_fraction=0.0))


def test_lungs_of_unequal_size_have_a_caveat_below_the_ratio_only() -> None:
    assert lung_caveats(_with(left=0.2 * (MIN_RATIO + 0.02), right=0.2), SETTINGS) == ()
    assert lung_caveats(_with(left=0.2 * (MIN_RATIO - 0.02), right=0.2), SETTINGS) != ()


def test_the_square_of_a_picture_is_what_is_measured() -> None:
    prepared = _prepared(np.tile(np.linspace(0, 65_535, 100), (100, 1)))
    assert torch.isfinite(prepared.windowed).all()
    assert Exposure.of(prepared).extreme < 0.1
