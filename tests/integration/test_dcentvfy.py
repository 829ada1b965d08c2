"""dcentvfy over a whole study: patient, study and series say the same in every file.

One warning remains, and it is the validator's own. PS3.3 C.7.2.1 puts Accession Number into the
General Study Module, and every file here has the same value. dicom3tools counts the attribute to
the Series of an image or a SEG, and to the Study of an SR (which its definition knows at the top
level, too), and says that the two differ. It says so for an image and an SR of anybody.
"""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from study import Study, write_study

_REMAINS = re.compile(
    r"Warning - Different information entities for attribute - Element=<AccessionNumber> "
    r"IE <Series> versus <Study> for file <(?P<image>\S+)> versus <(?P<report>\S+\.sr\.dcm)>"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"))


def _said(program: Path, paths: tuple[Path, ...]) -> list[str]:
    """Return every line that dcentvfy prints about these files."""
    done = subprocess.run([program, *paths], capture_output=True, text=True, check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]


def test_only_the_known_warning_remains(study: Study, dcmtk: Callable[[str], Path]) -> None:
    said = _said(dcmtk("dcentvfy"), study.all)
    found = [_REMAINS.fullmatch(line) for line in said]
    assert [line for line, match in zip(said, found, strict=True) if match is None] == []
    named = {match["image"] for match in found if match is not None}
    assert named == {str(path) for path in study.all if path not in study.reports}


def test_the_images_and_what_is_drawn_of_them_agree(
    study: Study, dcmtk: Callable[[str], Path]
) -> None:
    assert _said(dcmtk("dcentvfy"), study.images + study.segmentations + study.captures) == []


def test_the_two_reports_agree(study: Study, dcmtk: Callable[[str], Path]) -> None:
    assert _said(dcmtk("dcentvfy"), study.reports) == []


def test_the_known_warning_is_no_fault_of_ours(
    study: Study, dcmtk: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same value everywhere, and an SR that is only its identity: it is said all the same."""
    values = {dcmread(path, stop_before_pixels=True).AccessionNumber for path in study.all}
    assert len(values) == 1
    bare = dcmread(study.reports[0])
    for tag in [element.tag for element in bare if element.tag.group > 0x0020]:
        del bare[tag]
    bare.save_as(tmp_path / "bare.sr.dcm")
    (said,) = _said(dcmtk("dcentvfy"), (study.images[0], tmp_path / "bare.sr.dcm"))
    assert _REMAINS.fullmatch(said)


@pytest.mark.parametrize(
    ("keyword", "value"), [("PatientSex", "F"), ("StudyDate", "20260102"), ("StudyID", "2")]
)
def test_a_contradiction_is_noticed(
    study: Study, dcmtk: Callable[[str], Path], tmp_path: Path, keyword: str, value: str
) -> None:
    """The gate of this test works: one file that differs is found."""
    ds = dcmread(study.segmentations[0])
    setattr(ds, keyword, value)
    ds.save_as(tmp_path / "other.dcm")
    said = _said(dcmtk("dcentvfy"), (study.images[0], tmp_path / "other.dcm"))
    assert any(keyword in line for line in said)
