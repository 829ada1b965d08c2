"""worker.grey_scale: the steps to the display scale survive their way out of the decoder child."""

import json

import numpy as np
import pytest
from builders import chest_dataset

from worker import pixels
from worker.grey_scale import (
    AS_STORED,
    LINEAR_EXACT,
    SIGMOID,
    GreyScale,
    LookupTable,
    Percentiles,
    Rescale,
    VoiTable,
    Window,
)

_TABLE = LookupTable(-3, (0, 5, 7, 65535))


@pytest.mark.parametrize(
    "grey_scale",
    [
        AS_STORED,
        GreyScale(Rescale(-1.5, 1e-3), Window(40.5, 400.0), is_inverse=True),
        GreyScale(_TABLE, VoiTable(_TABLE, 7.0)),
        GreyScale(None, Window(0.0, 2.0, SIGMOID)),
        GreyScale(voi=Percentiles(0.1, 1 / 3)),
    ],
)
def test_what_is_written_as_json_is_read_back(grey_scale: GreyScale) -> None:
    assert GreyScale.of_json(json.loads(json.dumps(grey_scale.as_json()))) == grey_scale


def test_an_exact_window_is_the_same_for_readers_of_linear_ones() -> None:
    values = np.linspace(-200.0, 200.0, 999)
    exact = Window(12.5, 80.0, LINEAR_EXACT)
    assert exact.linear.function == "LINEAR"
    np.testing.assert_allclose(exact.linear.apply(values), exact.apply(values), atol=1e-12)


def test_percentiles_are_applied_as_they_stand_and_written_as_a_window() -> None:
    """To the last bit: a window with the same ends rounds another way."""
    values = np.arange(4096.0)
    low, high = 137.0, 3210.0
    scale = Percentiles(low, high - low)
    expected = np.clip((values - low) / (high - low), 0.0, 1.0)
    assert np.array_equal(scale.apply(values), expected)
    assert not np.array_equal(
        Window(low + (high - low) / 2, high - low, LINEAR_EXACT).apply(values), expected
    )
    assert scale.linear.function == "LINEAR"
    np.testing.assert_allclose(scale.linear.apply(values), expected, atol=1e-12)


def test_a_table_gives_its_ends_to_what_lies_beyond() -> None:
    values = np.asarray([-99.0, -3.0, -2.0, -1.4, 0.0, 99.0])
    assert _TABLE.apply(values).tolist() == [0, 0, 5, 7, 65535, 65535]


def test_the_steps_of_an_image_give_its_pixels() -> None:
    ds = chest_dataset(RescaleSlope=2, RescaleIntercept=-9, PhotometricInterpretation="MONOCHROME1")
    stored = pixels.decode_pixels(ds)
    image = pixels.chest_image(ds, stored)
    steps = image.grey_scale
    assert steps.is_inverse
    assert isinstance(steps.modality, Rescale)
    assert steps.voi is not None
    shown = 1.0 - steps.voi.apply(steps.modality.apply(stored.astype(np.float64)))
    np.testing.assert_allclose(image.pixels, np.rint(shown * 65535), atol=1)
