"""Phantoms have exactly the opacity that their manifest says."""

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest

from worker.training.phantom import make_phantom
from worker.training.phantom_studies import PLANS, PhantomStudy, Plan, write_phantom_studies

SMALL = [[dataclasses.replace(plan, rows=256) for plan in study] for study in PLANS]
Written = tuple[Path, list[PhantomStudy]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    out = tmp_path_factory.mktemp("phantoms")
    return out, write_phantom_studies(out, seed=3, plans=SMALL)


@pytest.mark.parametrize("wanted", [0.0, 0.5, 12.5, 60.0, 85.0])
def test_the_opacity_has_the_wanted_share_of_the_lungs(wanted: float) -> None:
    phantom = make_phantom(7, 320, wanted)
    lungs = phantom.left | phantom.right
    assert phantom.percent == pytest.approx(wanted, abs=0.01)
    assert 100 * phantom.opacity.sum() / lungs.sum() == pytest.approx(wanted, abs=0.01)
    assert not (phantom.opacity & ~lungs).any()
    assert not (phantom.left & phantom.right).any()


@pytest.mark.parametrize("view", ["PA", "AP"])
def test_lungs_are_dark_and_lie_on_their_sides(view: str) -> None:
    phantom = make_phantom(11, 320, 0.0, "AP" if view == "AP" else "PA")
    middle = phantom.pixels.shape[1] / 2
    assert np.argwhere(phantom.left)[:, 1].mean() > middle > np.argwhere(phantom.right)[:, 1].mean()
    assert 0.15 < (phantom.left | phantom.right).mean() < 0.45
    between = phantom.pixels[160, int(middle) - 5 : int(middle) + 5].mean()
    assert phantom.pixels[phantom.left].mean() < 0.8 * between


def test_opacity_is_denser_than_the_lung_it_lies_in() -> None:
    clear, opaque = make_phantom(13, 320, 0.0), make_phantom(13, 320, 30.0)
    scaled = opaque.pixels[opaque.opacity].mean() / opaque.pixels[opaque.left].mean()
    assert scaled > clear.pixels[opaque.opacity].mean() / clear.pixels[opaque.left].mean()


def test_the_seed_decides_everything() -> None:
    first, again, other = make_phantom(5, 128), make_phantom(5, 128), make_phantom(6, 128)
    assert np.array_equal(first.pixels, again.pixels)
    assert first.percent == again.percent
    assert first.pixels.shape != other.pixels.shape or (first.pixels != other.pixels).any()


def test_a_lateral_has_no_lung_fields() -> None:
    lateral = make_phantom(5, 200, view="LL")
    assert lateral.percent is None
    assert not (lateral.left | lateral.right | lateral.opacity).any()


@pytest.mark.parametrize(("size", "percent"), [(32, 10.0), (128, -1.0), (128, 99.0)])
def test_impossible_phantoms_are_refused(size: int, percent: float) -> None:
    with pytest.raises(ValueError, match=r"phantom needs|opacity_percent"):
        make_phantom(1, size, percent)


def test_the_studies_cover_views_classes_and_encodings(written: Written) -> None:
    _, studies = written
    images = [image for study in studies for image in study.images]
    assert (len(studies), len(images)) == (5, 7)
    assert len({image.sop_class_uid for image in images}) == 2
    assert len({image.transfer_syntax_uid for image in images}) == 6
    assert {image.view for image in images} == {"PA", "AP", "LL"}
    assert any(image.percent["total"] == 0.0 for image in images)


def test_every_encoding_gives_the_drawn_pixels_back(written: Written) -> None:
    _, studies = written
    for number, study in enumerate(studies, start=1):
        for position, image in enumerate(study.images, start=1):
            plan = SMALL[number - 1][position - 1]
            drawn = make_phantom(3000 + 10 * number + position, 256, plan.percent, plan.view)
            ds = pydicom.dcmread(image.path)
            stored = ds.pixel_array
            if ds.PhotometricInterpretation == "MONOCHROME1":
                stored = 4095 - stored
            assert np.array_equal(stored, drawn.pixels >> 4), plan.file


def test_the_manifest_names_every_file_with_its_percentages(written: Written) -> None:
    out, studies = written
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    files = {str(path.relative_to(out)) for path in out.rglob("*.dcm")}
    assert {entry["file"] for entry in manifest["instances"].values()} == files
    for study in studies:
        for image in study.images:
            entry = manifest["instances"][image.sop_instance_uid]
            ds = pydicom.dcmread(out / entry["file"])
            assert ds.SOPInstanceUID == image.sop_instance_uid
            assert ds.StudyInstanceUID == entry["study_instance_uid"] == study.study_instance_uid
            assert ds.PatientID == study.patient_id
            assert str(ds.PatientName).startswith("PHANTOM^")
            assert entry["percent"] == image.percent


def test_the_same_seed_writes_the_same_bytes(written: Written, tmp_path: Path) -> None:
    out, _ = written
    write_phantom_studies(tmp_path / "again", seed=3, plans=SMALL)
    names = sorted(path.relative_to(out) for path in out.rglob("*.*"))
    assert names
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_another_seed_shares_no_identifier(written: Written, tmp_path: Path) -> None:
    _, studies = written
    few: Sequence[Sequence[Plan]] = SMALL[:1]
    other = write_phantom_studies(tmp_path, seed=4, plans=few)
    taken = {study.study_instance_uid for study in studies} | {s.patient_id for s in studies}
    assert not taken & {other[0].study_instance_uid, other[0].patient_id}


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed")
def test_the_files_are_valid_objects(written: Written) -> None:
    _, studies = written
    for study in studies:
        for image in study.images:
            checked = subprocess.run(
                ["dciodvfy", "-new", image.path], capture_output=True, text=True, check=False
            )
            assert "Error" not in checked.stderr + checked.stdout, image.path.name
