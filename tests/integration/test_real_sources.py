"""SEG and SR of every real CR and DX file before dciodvfy: no error that its source does not carry.

The masks are drawn, so that hips and skulls count too: what is judged is what a header can do to an
object. An error is the source's own when dciodvfy finds the same UID or attribute wrong there.
"""

import re
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path

from builders import analysed_image, lung_masks, object_context
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from worker.equipment import to_bytes
from worker.header import read_data_set
from worker.pixels import chest_image, decode_pixels
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation

FILES = 39


def _errors(dciodvfy: Path, path: Path) -> set[str]:
    done = subprocess.run(
        [dciodvfy, path], capture_output=True, check=False, encoding="utf-8", errors="replace"
    )
    assert done.stdout + done.stderr
    return set(re.findall(r"^Error.*", done.stdout + done.stderr, re.MULTILINE))


def _subject(error: str) -> str:
    """Return what an error is about: an illegal UID, an attribute, or what its words say."""
    found = re.search(r'["<](\d+(?:\.\d+)+)[">]', error) or re.search(r"Element=<(\w+)>", error)
    return found[1] if found else error


def _objects(source: Dataset) -> tuple[Dataset, Dataset]:
    image = chest_image(source, decode_pixels(source))
    analysed = analysed_image(image, lung_masks(*image.pixels.shape))
    seg = build_segmentation(analysed, object_context())
    return seg, build_report([ReportImage.of(analysed, seg)], object_context(), 1)


def _bare(source: Dataset, folder: Path) -> Path:
    """Write the header of a source as a file of its own, so that dciodvfy can judge it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its values may be illegal: that is the question
        header = Dataset({tag: source[tag] for tag in source.keys() if tag.group != 0x7FE0})  # noqa: SIM118  pixel data; a Dataset yields elements
        header.ensure_file_meta()
        header.file_meta.MediaStorageSOPClassUID = source.SOPClassUID
        header.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path = folder / "source.dcm"
        header.save_as(path, enforce_file_format=True)
    return path


def test_no_object_has_an_error_that_its_source_has_not(
    data_root: Path, tmp_path: Path, dcmtk: Callable[[str], Path]
) -> None:
    own: dict[str, set[str]] = {}
    paths = sorted((data_root / "dicom" / "crdx").glob("*.dcm"))
    assert len(paths) == FILES
    for path in paths:
        source = read_data_set(path)
        of_source = {
            _subject(error) for error in _errors(dcmtk("dciodvfy"), _bare(source, tmp_path))
        }
        for kind, made in zip(("seg", "sr"), _objects(source), strict=True):
            target = tmp_path / f"{kind}.dcm"
            target.write_bytes(to_bytes(made))
            errors = _errors(dcmtk("dciodvfy"), target)
            new = {error for error in errors if _subject(error) not in of_source}
            if new:
                own[f"{path.name} {kind}"] = new
    assert own == {}


def test_an_error_of_ours_is_told_from_one_of_the_source() -> None:
    of_source = 'Error - Illegal root for UID - "999.1.2" in (0x0008,0x0018) SOP Instance UID'
    carried = (
        "Error - Value invalid for this VR - (0x0008,0x1155) UI  UI [1] = <999.999.1> - Zeroes"
    )
    ours = "Error - Missing attribute Type 1 Required Element=<SegmentationType> Module=<Image>"
    assert _subject(of_source) == "999.1.2"
    assert _subject(carried) == "999.999.1"
    assert _subject(ours) == "SegmentationType"
