"""The gate on real files: what is no upright frontal chest of an adult gets no number.

First by the whole command. Then with every statement of the header taken away, so that the
picture alone must be judged; no file here has trained the network that judges it.
"""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from analysing import analyse_here
from pydicom.dataset import Dataset
from remembered import AskedOnce

from models.analysis_sections import AnalysisSettings
from models.reasons import Reason
from worker import header, pixels
from worker.errors import NotAnalysable
from worker.inference import Segmenter
from worker.pipeline import admit
from worker.registry import find_bundle
from worker.types import Caveat, ChestImage, Orientation

pytestmark = pytest.mark.timeout(600)

SETTINGS = AnalysisSettings()
CHESTS = {
    "crdx/cr_chest_ms_4248x3480_j2k_8bit.dcm",
    "crdx/cr_chest_pa_fuji9000_expl.dcm",
    "crdx/cr_chest_pa_fuji9000_impl.dcm",
    "crdx/cr_chest_pa_fuji9000_nopreamble.dcm",
}
# A frontal thoracic spine: it shows a whole chest, and only its header says that it is none.
REFUSED_BY_HEADER_ALONE = {"crdx/cr_fuji_skeletal_chest_c_j2k_lossless.dcm"}
SECONDARY_CAPTURES = {
    "other/sc_cxr_modality_cr_jpeg8_ms.dcm",
    "other/sc_cxr_nih_modality_cr_fake_mono1_jpeg8.dcm",
    "other/sc_cxr_nih_modality_cr_mono2_jpeg8.dcm",
    "other/sc_cxr_nih_modality_dx_impl8.dcm",
    "other/sc_cxr_nih_modality_dx_impl8_b.dcm",
}


@pytest.fixture(scope="module")
def model() -> Segmenter:
    return AskedOnce.load(find_bundle("unet"), "cpu")


def _analyse(paths: list[Path], out: Path, *settings: str) -> list[dict[str, Any]]:
    (out / "node.toml").write_text("\n".join(("[analysis]", *settings)))
    options = ("--out", out / "out", "--config", out / "node.toml", "--json")
    done = analyse_here(*paths, *options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_secondary_captures_of_chests_are_analysed_where_the_site_wants_it(
    data_root: Path, tmp_path: Path
) -> None:
    paths = [data_root / "dicom" / name for name in sorted(SECONDARY_CAPTURES)]
    rows = _analyse(paths, tmp_path, "secondary_capture = true")
    assert [(row["status"], row["reason"]) for row in rows] == [("analysed", None)] * len(rows)
    caveats = {Path(row["path"]).name: row["caveats"] for row in rows}
    claimed = "sc_cxr_nih_modality_cr_fake_mono1_jpeg8.dcm"  # MONOCHROME1, and is none
    assert [name for name, some in caveats.items() if "inverted" in some] == [claimed]
    corrected, plain = (
        next(row["opacity_percent"]["total"] for row in rows if name in row["path"])
        for name in (claimed, claimed.replace("fake_mono1", "mono2"))
    )
    assert corrected == pytest.approx(plain, abs=0.5)


def test_an_inverted_chest_is_refused_where_the_site_wants_that(
    data_root: Path, tmp_path: Path
) -> None:
    path = data_root / "dicom" / "other" / "sc_cxr_nih_modality_cr_fake_mono1_jpeg8.dcm"
    settings = ("secondary_capture = true", "correct_inverted = false")
    (row,) = _analyse([path], tmp_path, *settings)
    assert (row["status"], row["reason"], row["caveats"]) == ("not_analysed", "inverted", [])


def _pictures(data_root: Path) -> dict[str, ChestImage]:
    """Decode every file that holds a grey picture, without a word of its header."""
    with (data_root / "dicom" / "INVENTORY.csv").open(newline="", encoding="utf-8") as stream:
        names = [row["file"] for row in csv.DictReader(stream) if row["rows_x_cols"]]
    found: dict[str, ChestImage] = {}
    for name in names:
        try:
            ds = header.read_data_set(data_root / "dicom" / name)
            image = pixels.chest_image(ds, pixels.decode_pixels(ds))
        except NotAnalysable:
            continue
        found[name] = replace(image, header=Dataset())
    return found


@pytest.fixture(scope="module")
def pictures(data_root: Path) -> dict[str, ChestImage]:
    return _pictures(data_root)


def _reason(image: ChestImage, model: Segmenter) -> Reason | None:
    try:
        admit(image, model, SETTINGS)
    except NotAnalysable as outcome:
        return outcome.reason
    return None


def test_the_picture_alone_tells_chests_from_everything_else(
    pictures: dict[str, ChestImage], model: Segmenter
) -> None:
    assert len(pictures) > 80
    admitted = {name for name, image in pictures.items() if _reason(image, model) is None}
    assert admitted - REFUSED_BY_HEADER_ALONE == CHESTS | SECONDARY_CAPTURES


def test_a_lateral_chest_is_called_lateral(
    pictures: dict[str, ChestImage], model: Segmenter
) -> None:
    lateral = pictures["crdx/dx_chest_lidc0005_ge_j2k_lossless.dcm"]
    assert _reason(lateral, model) is Reason.LATERAL_VIEW


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (lambda grid: np.rot90(grid, 1), Reason.ROTATED),
        (lambda grid: np.rot90(grid, 2), Reason.ROTATED),
        (lambda grid: np.rot90(grid, 3), Reason.ROTATED),
        (lambda grid: grid[::-1], Reason.ROTATED),
    ],
)
def test_a_chest_that_lies_is_called_rotated(
    pictures: dict[str, ChestImage],
    model: Segmenter,
    turn: Callable[[np.ndarray], np.ndarray],
    reason: Reason,
) -> None:
    for name in sorted(CHESTS | SECONDARY_CAPTURES):
        turned = np.ascontiguousarray(turn(pictures[name].pixels))
        image = replace(pictures[name], pixels=turned, orientation=Orientation())
        assert (name, _reason(image, model)) == (name, reason)


def test_negatives_are_turned_over(pictures: dict[str, ChestImage], model: Segmenter) -> None:
    for name in sorted(CHESTS):
        image = pictures[name]
        negative = replace(image, pixels=np.uint16(65535) - image.pixels)
        admitted = admit(negative, model, SETTINGS)
        assert Caveat.INVERTED in admitted.caveats
        assert np.array_equal(admitted.image.pixels, image.pixels)
