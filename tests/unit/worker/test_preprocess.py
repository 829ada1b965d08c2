"""What goes into the network can be put back where it came from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from worker.preprocess import prepare, window_bounds
from worker.types import Orientation

orientations = st.builds(
    Orientation, transpose=st.booleans(), flip_rows=st.booleans(), flip_columns=st.booleans()
)


def ramp(rows: int, columns: int) -> NDArray[np.uint16]:
    """A slope that differs in every direction, so that no flip or transpose goes unseen."""
    y = np.linspace(0, 1, rows)[:, None]
    x = np.linspace(0, 1, columns)[None, :]
    return (60000 * (0.25 * y + 0.75 * x**2)).astype(np.uint16)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(40, 300),
    columns=st.integers(40, 300),
    orientation=orientations,
    aspect=st.floats(0.5, 2.0),
    size=st.sampled_from([128, 256]),
)
def test_mapping_back_undoes_turning_stretching_and_padding(
    rows: int, columns: int, orientation: Orientation, aspect: float, size: int
) -> None:
    source = ramp(rows, columns)
    prepared = prepare(source, orientation, aspect, size)
    back = prepared.to_source(prepared.windowed[0].expand(3, -1, -1))
    low, high = window_bounds(source)
    wanted = np.clip((source - low) / (high - low), 0, 1)
    assert back.shape == (3, rows, columns)
    assert back.dtype == np.float32
    assert np.abs(back[0] - wanted).mean() < 0.02
    assert np.abs(back[0] - wanted).max() < 0.12


@settings(max_examples=40, deadline=None)
@given(orientation=orientations, aspect=st.floats(0.5, 2.0))
def test_the_network_sees_the_same_picture_however_it_is_stored(
    orientation: Orientation, aspect: float
) -> None:
    upright = ramp(120, 90)
    stored = np.ascontiguousarray(orientation.to_source(upright)).astype(np.uint16)
    ratio = 1.0 / aspect if orientation.transpose else aspect
    seen = prepare(stored, orientation, ratio, 128)
    wanted = prepare(upright, Orientation(), aspect, 128)
    assert abs(seen.box[2] - wanted.box[2]) <= 1
    assert seen.box[3] == pytest.approx(wanted.box[3], abs=1)
    if seen.box == wanted.box:
        assert torch.allclose(seen.tensor, wanted.tensor, atol=0.02)


def test_tall_source_pixels_make_a_tall_picture() -> None:
    assert prepare(ramp(100, 100), Orientation(), 2.0, 128).box == (0, 32, 128, 64)
    assert prepare(ramp(100, 100), Orientation(transpose=True), 2.0, 128).box == (32, 0, 64, 128)


def test_a_finer_scan_of_the_same_film_gives_the_same_input() -> None:
    coarse = prepare(ramp(300, 240), Orientation(), 1.0, 128)
    fine = prepare(ramp(2400, 1920), Orientation(), 1.0, 128)
    assert torch.allclose(coarse.tensor, fine.tensor, atol=0.03)


def test_the_input_is_standardised_over_the_picture_and_zero_in_the_padding() -> None:
    prepared = prepare(ramp(200, 100), Orientation(), 1.0, 128)
    top, left, height, width = prepared.box
    inside = prepared.tensor[0, 0, top : top + height, left : left + width]
    assert float(inside.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(inside.std()) == pytest.approx(1.0, abs=1e-2)
    assert float(prepared.tensor[0, 0, :, : left - 1].abs().max()) == 0.0


def test_the_window_ignores_a_marker_and_any_change_of_scale() -> None:
    plain = ramp(256, 256)
    marked = plain.copy()
    marked[4:12, 4:12] = 65535
    assert window_bounds(marked) == pytest.approx(window_bounds(plain), rel=0.02, abs=200)
    half = prepare(plain // 2, Orientation(), 1.0, 128).tensor
    assert torch.allclose(half, prepare(plain, Orientation(), 1.0, 128).tensor, atol=0.01)


def test_a_picture_without_contrast_gives_zeros_not_nan() -> None:
    flat = np.full((64, 64), 1000, np.uint16)
    assert float(prepare(flat, Orientation(), 1.0, 64).tensor.abs().max()) == 0.0


def test_impossible_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        prepare(np.zeros((0, 4), np.uint16), Orientation(), 1.0, 64)
    with pytest.raises(ValueError, match="must be positive"):
        prepare(ramp(8, 8), Orientation(), 0.0, 64)
