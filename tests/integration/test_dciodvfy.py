"""Our objects before the validators that the field trusts."""

import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from builders import DX, analysed_image, chest_dataset, chest_image, lung_masks, object_context

from models.analysis_sections import AnalysisSettings
from models.reasons import SENTENCES, Reason
from worker.capture import overlay
from worker.document import build_document
from worker.equipment import to_bytes
from worker.grey_scale import GreyScale, Rescale, Window
from worker.measurements import measure
from worker.page import PageImage
from worker.presentation import build_presentation_state
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.types import (
    CAVEAT_SENTENCES,
    Caveat,
    Classification,
    ModelIdentity,
    Orientation,
    UnanalysedImage,
)

UNANALYSED = [
    UnanalysedImage(f"1.2.840.99.{number}", DX, reason)
    for number, reason in enumerate(Reason, start=1)
    if reason is not Reason.OWN_RESULT
]

SOURCES: dict[str, dict[str, Any]] = {
    "cr": {},
    "dx": {"SOPClassUID": DX, "Modality": "DX", "FrameOfReferenceUID": "1.2.3"},
    "bare": {"PatientOrientation": None, "ImagerPixelSpacing": None, "StudyDate": None},
    "japanese": {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎",
    },
    "lossy, clean": {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 8,
        "LossyImageCompressionMethod": "ISO_10918_1",
        "BurnedInAnnotation": "NO",
    },
    "no identity": {"PatientID": None, "PatientName": None, "AccessionNumber": None},
}


def _objects(folder: Path, attributes: dict[str, Any]) -> tuple[Path, ...]:
    """Write SEG, SR, SC, presentation state and PDF of one source; return their paths.

    SR and PDF are of revision 2, with a predecessor.
    """
    stated = "PatientOrientation" not in attributes
    image = chest_image(
        ds=chest_dataset(**attributes),
        orientation=Orientation(assumed=not stated),
        notes=("A note.",),
        grey_scale=GreyScale(Rescale(2.0, -100.0), Window(900.0, 1200.0), is_inverse=not stated),
        **({} if stated else {"spacing": None}),
    )
    masks = lung_masks(*image.pixels.shape)
    analysed = analysed_image(
        image,
        masks,
        measurements=measure(masks, image.spacing, AnalysisSettings(zone_score=True)),
        caveats=tuple(Caveat),
        classification=Classification(
            ModelIdentity("two-step", "0.1.0", "0" * 64), ("COVID-19", "no finding"), (0.6, 0.4)
        ),
    )
    seg = build_segmentation(analysed, object_context())
    report_image = ReportImage.of(analysed, seg)
    first = build_report([report_image], object_context(), 1)
    second = build_report([report_image], object_context(), 2, first, UNANALYSED)
    capture = build_secondary_capture(analysed, object_context())
    state = build_presentation_state(analysed, object_context())
    page = PageImage(report_image, partial(overlay, analysed))
    older = build_document([page], object_context(), 1)
    document = build_document([page], object_context(), 2, older, UNANALYSED)
    made = {"seg": seg, "sr": second, "sc": capture, "pr": state, "pdf": document}
    paths = tuple(folder / f"a.{name}.dcm" for name in made)
    for path, ds in zip(paths, made.values(), strict=True):
        path.write_bytes(to_bytes(ds))
    return paths


def _run(program: Path, *arguments: Path | str) -> tuple[int, str]:
    done = subprocess.run(
        [program, *arguments], capture_output=True, check=False, encoding="utf-8", errors="replace"
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error(source: str, tmp_path: Path, dcmtk: Callable[[str], Path]) -> None:
    kinds = ("Segmentation", "Comprehensive3DSR", "SCImage")
    kinds += ("GrayscaleSoftcopyPresentationState", "EncapsulatedPDF")
    for path, kind in zip(_objects(tmp_path, SOURCES[source]), kinds, strict=True):
        _, said = _run(dcmtk("dciodvfy"), path)
        assert re.search(f"^{kind}$", said, re.MULTILINE), said
        assert not re.findall(r"^Error.*", said, re.MULTILINE)


@pytest.mark.parametrize("source", SOURCES)
def test_dsrdump_reads_the_report(
    source: str, tmp_path: Path, dcmtk: Callable[[str], Path]
) -> None:
    _, report, *_ = _objects(tmp_path, SOURCES[source])
    code, said = _run(dcmtk("dsrdump"), "+Pl", report)  # long texts in full
    assert code == 0
    assert "Imaging Measurement Report" in said
    assert "Research use only, not for diagnosis" in said
    assert "experimental, not validated" in said
    assert "Upper zone of lung" in said
    assert "not the Brixia score" in said
    for sentence in CAVEAT_SENTENCES.values():
        assert f'"Why the figures deserve a second look")="{sentence}"' in said
    for image in UNANALYSED:
        assert f'="{image.sop_instance_uid}"' in said
        assert f'="{SENTENCES[image.reason]}"' in said
    problems = [line for line in said.splitlines() if re.match(r"[WEF]: ", line)]
    assert all("does not support this Specific Character Set" in line for line in problems)


def test_the_gate_of_this_test_works(tmp_path: Path, dcmtk: Callable[[str], Path]) -> None:
    """A SEG that lacks a type 1 attribute must be found wanting."""
    analysed = analysed_image()
    seg = build_segmentation(analysed, object_context())
    del seg.SegmentationType
    path = tmp_path / "bad.dcm"
    path.write_bytes(to_bytes(seg))
    assert "Error" in _run(dcmtk("dciodvfy"), path)[1]
