"""A presentation state through dcmtk's eyes: the radiograph looks as it did when analysed."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import (
    DX,
    analysed_image,
    chest_dataset,
    chest_pixels,
    object_context,
    write_part10,
)
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from worker import pixels
from worker.equipment import to_bytes
from worker.presentation import build_presentation_state

CHEST = chest_pixels()
INVERTED = 4095 - CHEST
GAMMA = np.rint(np.linspace(0, 1, 4096) ** 0.7 * 4095).astype(np.uint16)
MONO1 = {"PhotometricInterpretation": "MONOCHROME1"}


def _lut(first: int, data: NDArray[Any], *, modality: bool = False) -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(data), first, 12])
    item.add_new("LUTData", "US", data.tolist())
    if modality:
        item.ModalityLUTType = "US"
    return Sequence([item])


SOURCES: dict[str, dict[str, Any]] = {
    "MONOCHROME2": {},
    "MONOCHROME1": {"pixels": INVERTED, **MONO1},
    "MONOCHROME1 and INVERSE": {
        "pixels": INVERTED,
        "PresentationLUTShape": "INVERSE",
        "SOPClassUID": DX,
        "Modality": "DX",
        **MONO1,
    },
    "window": {"WindowCenter": 1500, "WindowWidth": 2000},
    "window, MONOCHROME1": {
        "pixels": INVERTED,
        "WindowCenter": 2500,
        "WindowWidth": 2000,
        **MONO1,
    },
    "exact window": {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "LINEAR_EXACT"},
    "rescale": {
        "RescaleSlope": 2,
        "RescaleIntercept": -100,
        "WindowCenter": 2900,
        "WindowWidth": 4000,
    },
    "VOI LUT": {"VOILUTSequence": _lut(0, GAMMA)},
    "VOI LUT, signed": {
        "pixels": CHEST.astype(np.int16) - 2048,
        "VOILUTSequence": _lut(-2048, GAMMA),
    },
    "modality LUT": {
        "pixels": INVERTED,
        "ModalityLUTSequence": _lut(0, GAMMA[::-1], modality=True),
    },
    "modality LUT, MONOCHROME1": {
        "pixels": INVERTED,
        "ModalityLUTSequence": _lut(0, GAMMA, modality=True),
        **MONO1,
    },
    "a window that shows nothing": {"WindowCenter": 60000, "WindowWidth": 100},
}


@pytest.mark.parametrize("name", SOURCES)
def test_dcmp2pgm_shows_what_was_analysed(
    name: str, tmp_path: Path, dcmtk: Callable[[str], Path]
) -> None:
    ds = chest_dataset(**SOURCES[name])
    image = pixels.chest_image(ds, pixels.decode_pixels(ds))
    state, source, shown = (tmp_path / each for each in ("state.dcm", "source.dcm", "shown.pgm"))
    state.write_bytes(to_bytes(build_presentation_state(analysed_image(image), object_context())))
    write_part10(source, ds)
    subprocess.run([dcmtk("dcmp2pgm"), "--pstate", state, source, shown], check=True)
    with Image.open(shown) as picture:
        seen = np.asarray(picture, np.float64)
    wanted = image.pixels / 257.0
    assert np.corrcoef(seen.ravel(), wanted.ravel())[0, 1] > 0.999
    assert np.abs(seen - wanted).mean() < 1.0  # of 255
    assert np.corrcoef(wanted.ravel(), CHEST.ravel())[0, 1] > 0.9  # and dense is bright


def test_dcmpschk_passes_it(tmp_path: Path, dcmtk: Callable[[str], Path]) -> None:
    path = tmp_path / "state.dcm"
    path.write_bytes(to_bytes(build_presentation_state(analysed_image(), object_context())))
    done = subprocess.run([dcmtk("dcmpschk"), path], capture_output=True, text=True, check=False)
    assert "Test passed" in done.stdout + done.stderr
