"""worker.pipeline: what is let in, what is corrected first, and what caveats an image collects."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from builders import MODEL, chest_image, lung_masks

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker.errors import NotAnalysable
from worker.inference import Reading
from worker.pipeline import Admitted, admit, find_lungs
from worker.preprocess import Prepared, prepare
from worker.types import Caveat, ChestImage, LungMasks
from worker.view import Look, View

SETTINGS = AnalysisSettings()
SQUARE = 64


def _sure(view: View) -> Look:
    return Look(dict.fromkeys(View, 0.0) | {view: 1.0})


@dataclass
class FakeModel:
    """Sees a chest where the middle is darker than the rim, else a negative of one."""

    shows: View | None = None
    masks: LungMasks = field(default_factory=lung_masks)
    doubt: float = 3.0
    identity = MODEL
    device = "cpu"
    configuration = "{}"

    def prepared(self, image: ChestImage) -> Prepared:
        return prepare(image.pixels, image.orientation, image.row_height_over_width, SQUARE)

    def look(self, prepared: Prepared) -> Look:
        if self.shows is not None:
            return _sure(self.shows)
        square = prepared.windowed[0, 0]
        lungs = square[20:40, 18:24].mean()
        spine = square[20:40, 30:34].mean()
        return _sure(View.FRONTAL if lungs < spine else View.INVERTED)

    def read(
        self,
        prepared: Prepared,  # noqa: ARG002  a fake has its masks
        threshold: float | None = None,  # noqa: ARG002  the same
    ) -> Reading:
        return Reading(self.masks, self.masks, self.doubt)


def test_a_chest_is_let_in_as_it_is() -> None:
    image = chest_image()
    admitted = admit(image, FakeModel(), SETTINGS)
    assert admitted.image is image
    assert admitted.caveats == ()


def test_a_negative_is_turned_over_and_says_so() -> None:
    upright = chest_image()
    negative = replace(upright, pixels=np.uint16(65535) - upright.pixels)
    admitted = admit(negative, FakeModel(), SETTINGS)
    assert np.array_equal(admitted.image.pixels, upright.pixels)
    assert admitted.image.pixels.dtype == np.uint16
    assert admitted.caveats == (Caveat.INVERTED,)
    assert np.array_equal(admitted.prepared.windowed, FakeModel().prepared(upright).windowed)


def test_a_negative_is_refused_where_it_may_not_be_corrected() -> None:
    upright = chest_image()
    negative = replace(upright, pixels=np.uint16(65535) - upright.pixels)
    with pytest.raises(NotAnalysable) as caught:
        admit(negative, FakeModel(), AnalysisSettings(correct_inverted=False))
    assert caught.value.reason is Reason.INVERTED


def test_what_shows_no_chest_turned_over_either_is_refused() -> None:
    with pytest.raises(NotAnalysable) as caught:
        admit(chest_image(), FakeModel(shows=View.INVERTED), SETTINGS)
    assert caught.value.reason is Reason.INVERTED


def test_a_turned_picture_is_refused() -> None:
    with pytest.raises(NotAnalysable) as caught:
        admit(chest_image(), FakeModel(shows=View.ROTATED), SETTINGS)
    assert caught.value.reason is Reason.ROTATED


def _admitted(model: FakeModel) -> Admitted:
    return admit(chest_image(), model, SETTINGS)


def test_caveats_add_up() -> None:
    masks = lung_masks()
    one = LungMasks(np.zeros_like(masks.left), masks.right, masks.opacity & masks.right)
    model = FakeModel(shows=View.MIRRORED, masks=one, doubt=90.0)
    found, caveats = find_lungs(_admitted(model), model, SETTINGS)
    assert found is one
    assert caveats == (Caveat.MIRRORED, Caveat.ONE_LUNG, Caveat.UNCERTAIN)


def test_a_site_may_switch_the_doubt_off() -> None:
    model = FakeModel(doubt=90.0)
    off = AnalysisSettings(max_doubt_percent=0.0)
    assert find_lungs(_admitted(model), model, off)[1] == ()
    assert find_lungs(_admitted(model), model, SETTINGS)[1] == (Caveat.UNCERTAIN,)


def test_a_picture_without_lungs_is_refused() -> None:
    nothing = np.zeros((256, 240), np.bool_)
    model = FakeModel(masks=LungMasks(nothing, nothing, nothing))
    with pytest.raises(NotAnalysable) as caught:
        find_lungs(_admitted(model), model, SETTINGS)
    assert caught.value.reason is Reason.NO_LUNGS
