"""worker.training.cases: manifests, tables, licences, patients kept together."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from builders import chest_dataset, chest_pixels, write_part10
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from worker.training.cases import (
    SPLITS,
    Case,
    apart_from,
    held_out,
    load_manifest,
    patient_folds,
    read_manifest,
)
from worker.training.formats import LabelFormat

SHAPE = (20, 16)


def folder_with(folder: Path, text: str) -> Path:
    """A folder with two pictures, one bit mask, and a manifest of that text."""
    bits = np.zeros(SHAPE, np.uint8)
    bits[5:15, 9:14], bits[5:15, 2:7], bits[12:15, 9:14] = 1, 2, 1 | 4
    (folder / "images").mkdir(exist_ok=True)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(np.full(SHAPE, 7, np.uint8)).save(folder / "images" / name)
    Image.fromarray(bits).save(folder / "images" / "a_mask.png")
    (folder / "images" / "labels.json").write_text("{}", encoding="utf-8")
    (folder / "manifest.csv").write_text(text, encoding="utf-8")
    return folder / "manifest.csv"


def normal(number: int, **fields: object) -> Case:
    case = Case(f"n{number}", Path("x.png"), patient=f"p{number}", source="here", normal=True)
    return replace(case, split="train", **fields)


def test_the_tables_become_cases(data_root: Path) -> None:
    cases = load_manifest(data_root)
    assert Counter(case.source for case in cases) == {
        "gb": 74, "v7": 346, "ieee8023": 96, "normals": 10, "nih": 896,
    }  # fmt: skip
    assert all(case.image.is_file() for case in cases)
    assert all(case.labels.is_file() for case in cases if case.labels)
    of = {case.name: case for case in cases}
    assert len(of) == len(cases)
    pneumonia = [case for case in cases if case.source == "nih" and not case.normal]
    assert (len(pneumonia), {case.split for case in pneumonia}) == (436, {"unlabelled"})
    normals = [case for case in cases if case.source in {"nih", "normals"} and case.normal]
    kept = [case for case in normals if held_out(replace(case, split="train"))]
    assert kept == [case for case in normals if case.split == "test"]
    assert (len(normals), len(kept)) == (470, 92)
    assert of["cfd818d9a"].age == 65
    assert (of["cfd818d9a"].sex, of["c45aa519e"].went_icu) == ("F", "Y")
    assert of["c161f8816"].normal  # No Finding, and the reader drew none
    assert of["c45aa519e"].licence == "CC BY 3.0"
    assert sum(not case.may_train for case in cases if case.labels) == 25


def test_no_patient_of_the_tables_is_trained_on_and_measured_on(data_root: Path) -> None:
    by_split: dict[str, set[str]] = {split: set() for split in SPLITS}
    for case in load_manifest(data_root):
        by_split[case.split].add(case.person)
    assert by_split["train"]
    assert not by_split["train"] & by_split["test"]


def test_drawn_opacity_outweighs_a_finding_of_none(tmp_path: Path) -> None:
    (tmp_path / "cxr").mkdir()
    header = "case,split,has_lung,lung_source,has_opacity,gg,cons,finding,license"
    rows = ["a,train,1,gb,1,1,0,No Finding,", "b,train,1,gb,1,0,0,No Finding,CC BY-NC-ND 4.0"]
    (tmp_path / "cxr" / "cases.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    drawn, clear = load_manifest(tmp_path)
    assert (drawn.normal, clear.normal) == (False, True)
    assert (drawn.may_train, clear.may_train) == (True, False)


@pytest.mark.parametrize("licence", ["CC BY-NC-ND", "cc by-nd 4.0", "No-Derivatives", "NoDerivs 3"])
def test_licences_without_derivatives_do_not_train(licence: str) -> None:
    assert not replace(normal(1), licence=licence).may_train


@pytest.mark.parametrize("licence", ["none stated", "STANDARD", "and so on", "CC BY 4.0", ""])
def test_other_licences_train(licence: str) -> None:
    assert replace(normal(1), licence=licence).may_train


def test_a_fifth_of_the_normal_patients_is_held_out() -> None:
    cases = [normal(n) for n in range(2000)]
    kept = [case for case in cases if held_out(case)]
    assert 0.17 < len(kept) / len(cases) < 0.23
    first = int(sha256(b"here:p0").hexdigest()[:8], 16)
    assert held_out(cases[0]) == (first % 5 == 0)
    others = [replace(case, name=f"other {case.name}", finding="x") for case in cases]
    assert [held_out(case) for case in others] == [held_out(case) for case in cases]


def test_only_normals_are_held_out_and_always_those_of_the_test_split() -> None:
    cases = [normal(n) for n in range(50)]
    assert all(held_out(replace(case, split="test")) for case in cases)
    assert not any(held_out(replace(case, normal=False)) for case in cases)
    strangers = [replace(case, patient="") for case in cases]
    assert 0 < sum(held_out(case) for case in strangers) < len(strangers)


def test_apart_from_leaves_out_every_picture_of_a_patient() -> None:
    first, second = normal(1), normal(2)
    again = replace(second, name="again", source="elsewhere")
    stranger = replace(first, name="stranger", patient="")
    assert apart_from([first, again, stranger], [second]) == [first, stranger]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=3, max_size=30),
    folds=st.integers(1, 3),
    seed=st.integers(0, 99),
    order=st.randoms(use_true_random=False),
)
def test_folds_keep_patients_together_and_are_balanced(
    sizes: list[int], folds: int, seed: int, order: "st.random.Random"
) -> None:
    cases = [
        replace(normal(patient), name=f"{patient}-{n}")
        for patient, size in enumerate(sizes)
        for n in range(size)
    ]
    divided = patient_folds(cases, folds, seed)
    assert sorted(c.name for fold in divided for c in fold) == sorted(c.name for c in cases)
    people = [{case.person for case in fold} for fold in divided]
    assert sum(len(each) for each in people) == len(set().union(*people))
    assert max(map(len, divided)) - min(map(len, divided)) <= max(sizes)
    shuffled = list(cases)
    order.shuffle(shuffled)
    assert patient_folds(shuffled, folds, seed) == divided


def test_folds_depend_on_the_seed_and_unknown_patients_stand_alone() -> None:
    cases = [replace(normal(n), patient="") for n in range(20)]
    assert [len(fold) for fold in patient_folds(cases, 4, 0)] == [5, 5, 5, 5]
    assert patient_folds(cases, 4, 0) != patient_folds(cases, 4, 1)


@pytest.mark.parametrize("seed", range(10))
def test_patients_with_many_pictures_are_placed_first(seed: int) -> None:
    cases = [replace(normal(n), patient=f"{max(0, n - 4)}") for n in range(10)]
    assert sorted(Counter(case.patient for case in cases).values()) == [1, 1, 1, 1, 1, 5]
    assert [len(fold) for fold in patient_folds(cases, 2, seed)] == [5, 5]


@pytest.mark.parametrize("folds", [0, 3])
def test_folds_that_cannot_be_are_refused(folds: int) -> None:
    with pytest.raises(ValueError, match=f"2 patients cannot be divided into {folds} folds"):
        patient_folds([normal(1), normal(2)], folds, 0)


def test_pixels_are_on_the_full_scale(tmp_path: Path) -> None:
    deep = np.arange(320, dtype=np.uint16).reshape(SHAPE) * 200
    Image.fromarray(deep).save(tmp_path / "deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save(tmp_path / "flat.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB").save(tmp_path / "colour.png")
    assert np.array_equal(Case("a", tmp_path / "deep.png").pixels(), deep)
    for name in ("flat.png", "colour.png"):
        pixels = Case("a", tmp_path / name).pixels()
        assert pixels.dtype == np.uint16
        assert np.array_equal(pixels, (deep >> 8) * 257)


def test_a_dicom_image_is_shown_bright_for_dense(tmp_path: Path) -> None:
    chest = chest_pixels()
    inverse = chest_dataset(pixels=4095 - chest, PhotometricInterpretation="MONOCHROME1")
    cases = [
        Case("plain", write_part10(tmp_path / "a.dcm")),
        Case("inverse", write_part10(tmp_path / "1.2.840.3", inverse)),
    ]
    for case in cases:
        assert np.corrcoef(case.pixels().ravel(), chest.ravel().astype(float))[0, 1] > 0.99


def test_labels_are_read_on_the_grid_of_the_picture(tmp_path: Path) -> None:
    text = "case,image,labels,has_opacity\na,images/a.png,images/a_mask.png,yes\n"
    case = read_manifest(folder_with(tmp_path, text))[0]
    left, right, opacity = case.masks()
    assert left.shape == case.pixels().shape == SHAPE
    assert (left.sum(), right.sum(), opacity.sum()) == (50, 50, 15)
    assert np.nonzero(left)[1].mean() > np.nonzero(right)[1].mean()


def test_real_cases_have_what_their_table_says(data_root: Path) -> None:
    labelled = [case for case in load_manifest(data_root) if case.labels]
    for case in labelled[::20]:
        left, right, _ = case.masks()
        assert left.shape == case.pixels().shape
        assert left.any() == right.any() == case.has_lung


def test_labels_that_contradict_the_manifest_are_refused(tmp_path: Path) -> None:
    text = "case,image,labels,has_opacity\na,images/a.png,images/a_mask.png,yes\n"
    case = read_manifest(folder_with(tmp_path, text))[0]
    with pytest.raises(ValueError, match="has_opacity is no, but opacity is drawn"):
        replace(case, has_opacity=False).masks()
    with pytest.raises(ValueError, match="normal is yes, but opacity is drawn"):
        replace(case, normal=True).masks()
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "images" / "a_mask.png")
    with pytest.raises(ValueError, match="has_lung is yes, but no lung is drawn"):
        case.masks()
    assert not any(mask.any() for mask in replace(case, has_lung=False).masks())


def test_masks_that_cannot_be_read_name_case_and_file(tmp_path: Path) -> None:
    case = read_manifest(folder_with(tmp_path, "case,image\nx,images/a.png\n"))[0]
    with pytest.raises(ValueError, match="case x has no labels"):
        case.masks()
    case = replace(case, labels=tmp_path / "m.png", format=LabelFormat.BITMASK)
    with pytest.raises(ValueError, match=r"case x: .*m\.png: there is no such file"):
        case.masks()
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match=r"case x: .*m\.png: it is for 3 x 3 pixels"):
        case.masks()
    case.image.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"case x: .*a\.png: this is no JPEG or PNG picture"):
        case.masks()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", None, "there is no such file"),
        ("a.dcm", None, "there is no such file"),
        ("a.png", b"", "this is no JPEG or PNG picture"),
        ("a.dcm", b"", "DICOM"),
        ("a.dcm", b"no DICOM, whatever its name says", "DICOM|read"),
    ],
)
def test_pictures_that_cannot_be_read_name_case_and_file(
    name: str, content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"case x: .*{name}: .*({sentence})"):
        Case("x", tmp_path / name).pixels()


def test_cut_pictures_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    for name in ("a.png", "a.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match=f"case x: .*{name}: the picture is damaged"):
            Case("x", tmp_path / name).pixels()
    ds = chest_dataset()
    ds.PixelData = ds.PixelData[:1000]
    with pytest.raises(ValueError, match=r"case x: .*a\.dcm: "):
        Case("x", write_part10(tmp_path / "a.dcm", ds)).pixels()


def test_importing_cases_is_cheap() -> None:
    """Commands list and check manifests without waiting for deep learning or codecs."""
    code = "import sys, worker.training.cases; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "monai", "imagecodecs", "highdicom"} & set(ran.stdout.split())
