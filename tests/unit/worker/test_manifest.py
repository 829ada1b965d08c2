"""worker.training.cases: what a hospital writes is read, or refused in one sentence."""

import json
import re
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from worker.errors import ManifestError
from worker.training.cases import (
    COLUMNS,
    SPLITS,
    Case,
    cases_sha256,
    held_out,
    load_manifest,
    read_manifest,
    write_manifest,
)
from worker.training.datasets import manifest_sha256
from worker.training.formats import LabelFormat, read_labels

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


def test_the_shortest_manifest_needs_a_name_and_a_picture(tmp_path: Path) -> None:
    path = folder_with(tmp_path, "case,image\none,images/a.png\n\ntwo,images/b.jpg\n")
    expected = [
        Case("one", tmp_path / "images" / "a.png"),
        Case("two", tmp_path / "images" / "b.jpg"),
    ]
    assert read_manifest(path) == load_manifest(tmp_path) == expected


def test_every_column_is_read(tmp_path: Path) -> None:
    row = (
        "x,images/a.png,images/a_mask.png,bitmask,test,ward,P1,F,61.5,AP,COVID-19,Y,N,1,TRUE,no,CC0"
    )
    case = read_manifest(folder_with(tmp_path, f"\ufeff{','.join(COLUMNS)}\n{row}\n"))[0]
    images = tmp_path / "images"
    assert case == Case(
        name="x", image=images / "a.png", labels=images / "a_mask.png",
        format=LabelFormat.BITMASK, split="test", source="ward", patient="P1", sex="F", age=61.5,
        view="AP", finding="COVID-19", survival="Y", went_icu="N", has_lung=True,
        has_opacity=True, normal=False, licence="CC0",
    )  # fmt: skip


def test_what_is_not_stated_is_cautious(tmp_path: Path) -> None:
    text = "case,image,labels,normal\na,images/a.png,images/a_mask.png,\nb,images/b.jpg,,yes\n"
    labelled, healthy = read_manifest(folder_with(tmp_path, text))
    assert (labelled.format, labelled.split) == (LabelFormat.BITMASK, "train")
    assert (labelled.has_lung, labelled.has_opacity, labelled.normal) == (True, False, False)
    assert labelled.licence == "none stated"
    assert (healthy.has_lung, healthy.has_opacity) == (False, False)
    assert healthy.split == ("test" if held_out(replace(healthy, split="train")) else "train")


def test_normals_without_a_split_are_divided_by_patient(tmp_path: Path) -> None:
    rows = [f"n{n},images/a.png,{n // 2},yes\n" for n in range(60)]
    path = folder_with(tmp_path, "case,image,patient,normal\n" + "".join(rows))
    cases = read_manifest(path)
    assert {case.split for case in cases} == {"train", "test"}
    assert all(held_out(case) == (case.split == "test") for case in cases)


HEADER = "case,image,labels,format,split,patient,age,has_lung,has_opacity,normal\n"
MISTAKES = [
    ("", 1, "the column case is missing"),
    ("case\na\n", 1, "the column image is missing"),
    ("case;image\na;b\n", 1, "separated by commas, not by semicolons"),
    ("case,image,has_opacty\n", 1, "unknown column 'has_opacty'; known are case, image"),
    ("case,image,case\n", 1, "the column case stands there twice"),
    ("case,image\n", 1, "there is no case below the header"),
    ("case,image\na\n", 2, "1 cells where the header has 2"),
    ('case,image\na,"b\n', 2, "this is no CSV"),
    ("case,image\n,images/a.png\n", 2, "the case has no name"),
    ("case,image\na,\n", 2, "neither JPEG, PNG nor DICOM"),
    ("case,image\na,images/labels.json\n", 2, "'images/labels.json' is neither JPEG, PNG"),
    ("case,image\na,images/c.png\n", 2, "the image 'images/c.png' is not there"),
    ("case,image\na,images\n", 2, "the image 'images' is not there"),
    ("case,image\na,/images/a.png\n", 2, "'/images/a.png' is no path relative to the manifest"),
    ("case,image\na,images/a.png\n\na,images/b.jpg\n", 4, "case a stands in line 2 already"),
    (HEADER + "a,images/a.png,images/m.png,,,,,,,\n", 2, "the labels 'images/m.png' is not there"),
    (HEADER + "a,images/a.png,images/a_mask.png,yolo,,,,,,\n", 2, "unknown format 'yolo'; known"),
    (HEADER + "a,images/a.png,images/labels.json,,,,,,,\n", 2, "'labels.json' is not stated"),
    (HEADER + "a,images/a.png,images/a_mask.png,none,,,,,,\n", 2, "'a_mask.png' is not stated"),
    (HEADER + "a,images/a.png,,coco,,,,,,\n", 2, "the format is coco, but there are no labels"),
    (HEADER + "a,images/a.png,,,training,,,,,\n", 2, "unknown split 'training'; known are train"),
    (HEADER + "a,images/a.png,,,test,,,,,\n", 2, "the split is test, but the case has no labels"),
    (HEADER + "a,images/a.png,,,,,old,,,\n", 2, "the age 'old' is no number of years"),
    (HEADER + "a,images/a.png,,,,,-1,,,\n", 2, "the age '-1' is no number of years"),
    (HEADER + "a,images/a.png,,,,,nan,,,\n", 2, "the age 'nan' is no number of years"),
    (HEADER + "a,images/a.png,,,,,,maybe,,\n", 2, "has_lung is 'maybe', neither yes nor no"),
    (HEADER + "a,images/a.png,,,,,,,yes,\n", 2, "has_opacity is yes, but there are no labels"),
    (
        HEADER
        + "a,images/a.png,images/a_mask.png,,train,P,,,,\n"
        + "b,images/b.jpg,,,test,P,,,,yes\n",
        3,
        "patient P is in test, and in train in line 2",
    ),
]


@pytest.mark.parametrize(("text", "line", "sentence"), MISTAKES, ids=[m[2] for m in MISTAKES])
def test_a_mistake_is_one_sentence_with_its_line(
    text: str, line: int, sentence: str, tmp_path: Path
) -> None:
    path = folder_with(tmp_path, text)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    assert str(caught.value).startswith(f"{path}, line {line}: ")
    assert sentence in str(caught.value)


def test_what_cannot_be_read_at_all_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.csv cannot be read: No such file"):
        read_manifest(tmp_path / "manifest.csv")
    with pytest.raises(ManifestError, match=r"neither manifest\.csv nor cxr/cases\.csv"):
        load_manifest(tmp_path)
    (tmp_path / "manifest.csv").write_bytes("case,image\nJosé,a.png\n".encode("latin-1"))
    with pytest.raises(ManifestError, match="not in UTF-8"):
        read_manifest(tmp_path / "manifest.csv")


WORDS = st.text(string.ascii_letters + string.digits + ' ",;=éß\n', max_size=8).map(str.strip)


@st.composite
def any_cases(draw: st.DrawFn) -> list[Case]:
    names = draw(st.lists(WORDS.filter(bool), min_size=1, max_size=4, unique=True))
    cases = []
    for name in names:
        labelled, healthy = draw(st.booleans()), draw(st.booleans())
        case = Case(
            name=name,
            image=Path("images") / draw(st.sampled_from(["a.png", "b.jpg"])),
            labels=Path("images") / "a_mask.png" if labelled else None,
            format=LabelFormat.BITMASK if labelled else LabelFormat.NONE,
            split=draw(st.sampled_from(SPLITS)) if labelled or healthy else "unlabelled",
            source=draw(WORDS), sex=draw(WORDS), view=draw(WORDS), finding=draw(WORDS),
            age=draw(st.none() | st.floats(0, 130)), survival=draw(WORDS), went_icu=draw(WORDS),
            has_lung=labelled and draw(st.booleans()), normal=healthy,
            has_opacity=labelled and draw(st.booleans()), licence=draw(WORDS.filter(bool)),
        )  # fmt: skip
        cases.append(replace(case, patient=f"{case.split}{draw(WORDS)}"))
    return cases


@given(cases=any_cases())
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read(
    cases: list[Case], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("manifest", numbered=True)
    folder_with(folder, "")
    placed = [
        replace(c, image=folder / c.image, labels=c.labels and folder / c.labels) for c in cases
    ]
    write_manifest(placed, folder / "manifest.csv")
    assert read_manifest(folder / "manifest.csv") == placed


def test_the_tables_and_the_manifest_written_from_them_are_the_same(
    data_root: Path, tmp_path: Path
) -> None:
    cases = load_manifest(data_root)
    (tmp_path / "cxr").symlink_to(data_root / "cxr")
    here = load_manifest(tmp_path)
    write_manifest(here, tmp_path / "manifest.csv")
    assert load_manifest(tmp_path) == here
    expected = cases_sha256(reversed(cases), data_root)
    assert manifest_sha256(data_root) == manifest_sha256(tmp_path) == expected
    assert cases_sha256(cases[1:], data_root) != expected


def test_the_hash_can_cover_what_the_files_hold(tmp_path: Path) -> None:
    text = "case,image,labels\na,images/a.png,images/a_mask.png\nb,images/b.jpg,\n"
    cases = read_manifest(folder_with(tmp_path, text))
    listed = cases_sha256(cases, tmp_path)
    held = cases_sha256(cases, tmp_path, contents=True)
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "images" / "a_mask.png")
    assert cases_sha256(cases, tmp_path) == listed != held
    assert cases_sha256(cases, tmp_path, contents=True) != held


def document(repository: Path) -> str:
    return (repository / "docs" / "training-data.md").read_text(encoding="utf-8")


def test_the_document_names_every_column_and_format(repository: Path) -> None:
    text = document(repository)
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == COLUMNS
    formats = re.findall(r"^\*\*([a-z-]+)\*\*: ", text, re.MULTILINE)
    assert {*formats, "none"} == set(LabelFormat)


def test_the_manifest_of_the_document_is_legal(repository: Path, tmp_path: Path) -> None:
    text = document(repository).split("```csv\n")[1].split("```")[0]
    for name in re.findall(r"(?:images|labels)/[\w.]+", text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8")
    first, second, third = read_manifest(tmp_path / "manifest.csv")
    assert (first.format, second.format) == (LabelFormat.DICOM_SEG, LabelFormat.COCO)
    assert third.normal


def test_the_labels_of_the_document_are_legal(repository: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```json\n(.*?)```", document(repository), re.DOTALL)
    for kind, block in zip(("labelme", "coco", "darwin"), blocks, strict=True):
        path = tmp_path / f"{kind}.json"
        path.write_text(json.dumps(json.loads(block)), encoding="utf-8")
        image = tmp_path / "example.png"
        left, right, opacity = read_labels(LabelFormat(kind), path, (40, 30), image)
        expected = np.zeros((40, 30), dtype=bool)
        expected[5:35, 17:27] = True
        assert np.array_equal(left, expected)
        assert np.array_equal(right, expected[:, ::-1])
        assert 0 < opacity.sum() < 40
        assert not (opacity & ~left).any()
