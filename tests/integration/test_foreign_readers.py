"""Our objects in the hands of programs that nobody here wrote: the same masks, the same numbers."""

import gzip
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom.config
import pytest
from dicomweb import WebOrthanc
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite
from study import Study, write_study

from dicom_node.demo.pacs import OrthancPacs
from dicom_node.senders.base import Parcel, Receiver
from dicom_node.senders.cstore import CStoreSender
from worker.types import AnalysedImage, Measurements

_AREA, _PERCENT = "Area of defined region", "Lung opacity area as percent of lung field area"
_NUMBER = re.compile(
    rf'<contains NUM:\(,,"({_AREA}|{_PERCENT})"\)="([0-9.]+)" \((mm2|%),UCUM,"[^"]+"\)>'
)
_TRACKING = re.compile(r'TEXT:\(,,"Tracking Identifier"\)="([^"]+)"')
Figures = list[tuple[str, list[tuple[str, float]]]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return write_study(tmp_path_factory.mktemp("study"))


def _expected(measured: Measurements) -> Figures:
    """What the report must say of one image, group by group, rounded as it is written."""

    def area(value: float | None) -> tuple[str, float]:
        assert value is not None
        return _AREA, round(value, 1)

    def percent(value: float | None) -> tuple[str, float]:
        assert value is not None
        return _PERCENT, round(value, 2)

    left, right, total = measured.left, measured.right, measured.total
    return [
        ("Left lung", [area(left.lung_area_mm2), percent(left.percent)]),
        ("Right lung", [area(right.lung_area_mm2), percent(right.percent)]),
        ("Lung opacity", [area(total.opacity_area_mm2)]),
        ("Both lungs", [percent(total.percent), area(total.opacity_area_mm2)]),
    ]


def _all_expected(study: Study) -> Figures:
    """Of every image, in a stable order: readers need not keep that of the document."""
    return sorted(group for each in study.analysed for group in _expected(each.measurements))


def _counts(analysed: AnalysedImage) -> list[int]:
    masks = analysed.masks
    opacity = masks.opacity & (masks.left | masks.right)
    return [int(mask.sum()) for mask in (masks.left, masks.right, opacity)]


def _run(program: Path, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def test_dsrdump_prints_the_numbers(study: Study, dcmtk: Callable[[str], Path]) -> None:
    said = _run(dcmtk("dsrdump"), study.reports[-1])
    assert said.returncode == 0
    figures: Figures = []
    for line in said.stdout.splitlines():
        if (name := _TRACKING.search(line)) is not None:
            figures.append((name[1], []))
        elif (number := _NUMBER.search(line)) is not None:
            figures[-1][1].append((number[1], float(number[2])))
    assert sorted(figures) == _all_expected(study)


def test_highdicom_reads_the_numbers(study: Study) -> None:
    content = hd.sr.srread(study.reports[-1]).content
    groups = content.get_planar_roi_measurement_groups()
    groups += [
        group
        for group in content.get_image_measurement_groups()
        if group.tracking_identifier == "Both lungs"  # planar groups are image groups, too
    ]
    figures = sorted(
        (group.tracking_identifier, [(m.name.meaning, m.value) for m in group.get_measurements()])
        for group in groups
    )
    assert figures == _all_expected(study)


def test_highdicom_reads_the_masks(study: Study) -> None:
    for path, analysed in zip(study.segmentations, study.analysed, strict=True):
        seg = hd.seg.segread(path)
        masks = analysed.masks
        inside = masks.opacity & (masks.left | masks.right)
        assert list(seg.segment_numbers) == [1, 2, 3]
        for number, mask in enumerate((masks.left, masks.right, inside)):
            assert np.array_equal(seg.pixel_array[number].astype(bool), mask)


def test_pydicom_finds_every_value_valid(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading and writing with every check on and every warning an error (PS3.5 6.2)."""
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", pydicom.config.RAISE)
    monkeypatch.setattr(pydicom.config.settings, "writing_validation_mode", pydicom.config.RAISE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in study.made:
            ds = dcmread(path)
            assert len(list(ds.iterall())) > 50  # every value is converted here
            dcmwrite(tmp_path / "again.dcm", ds, enforce_file_format=True)
            assert dcmread(tmp_path / "again.dcm") == ds
        with pytest.raises(ValueError, match="Invalid value for VR UI"):
            ds.SOPInstanceUID = "no uid"  # the gate of this test works


@pytest.fixture
def dcmqi() -> Callable[[str], Path]:
    """Gives a program of the dcmqi package, which the lock installs beside Python."""
    return lambda name: Path(sys.executable).with_name(name)


def _in_space(path: Path, out: Path) -> Path:
    """Copy a SEG and invent a geometry for it, which a projection has not: for this test only."""
    seg = dcmread(path)
    seg.FrameOfReferenceUID, seg.PositionReferenceIndicator = "1.2.3.4", ""
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]
    measures.PixelSpacing, measures.SliceThickness = [1.4, 1.4], 1
    measures.SpacingBetweenSlices = 1
    shared = seg.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    for frame in seg.PerFrameFunctionalGroupsSequence:
        position = Dataset()
        position.ImagePositionPatient = [0, 0, 0]
        frame.PlanePositionSequence = [position]
    seg.save_as(out)
    return out


def _nrrd(path: Path) -> np.ndarray[Any, Any]:
    """Read what dcmqi writes: a text header, an empty line, gzip of little-endian int16."""
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields = dict(line.split(b": ", 1) for line in head.splitlines() if b": " in line)
    assert (fields[b"type"], fields[b"encoding"]) == (b"short", b"gzip")
    columns, rows, slices = map(int, fields[b"sizes"].split())
    return np.frombuffer(gzip.decompress(body), "<i2").reshape(slices, rows, columns)


def test_dcmqi_reads_the_masks(study: Study, tmp_path: Path, dcmqi: Callable[[str], Path]) -> None:
    for number, (path, analysed) in enumerate(
        zip(study.segmentations, study.analysed, strict=True)
    ):
        out = tmp_path / f"itk{number}"
        out.mkdir()
        copy = _in_space(path, tmp_path / "in-space.dcm")
        options = ("--inputDICOM", copy, "--outputDirectory", out, "-t", "nrrd")
        done = _run(dcmqi("segimage2itkimage"), *options)
        assert done.returncode == 0, done.stdout + done.stderr
        masks = [_nrrd(out / f"{segment}.nrrd") for segment in (1, 2, 3)]
        assert [int((mask > 0).sum()) for mask in masks] == _counts(analysed)
        assert np.array_equal(masks[0][0] > 0, analysed.masks.left)
        told = json.loads((out / "meta.json").read_text())["segmentAttributes"]
        sides = "SegmentedPropertyTypeModifierCodeSequence"
        assert [group[0]["SegmentLabel"] for group in told] == [
            *("Left lung", "Right lung", "Lung opacity")
        ]
        assert [group[0][sides]["CodeMeaning"] for group in told[:2]] == ["Left", "Right"]


def test_dcmqi_wants_a_geometry_that_a_projection_has_not(
    study: Study, tmp_path: Path, dcmqi: Callable[[str], Path]
) -> None:
    """Why the test above invents one. If this fails, dcmqi has learned it: take that away."""
    options = ("--inputDICOM", study.segmentations[0], "--outputDirectory", tmp_path, "-t", "nrrd")
    done = _run(dcmqi("segimage2itkimage"), *options)
    assert done.returncode != 0
    assert "Plane Orientation (Patient) is missing" in done.stdout + done.stderr


def test_dcmqi_reads_the_numbers(
    study: Study, tmp_path: Path, dcmqi: Callable[[str], Path]
) -> None:
    out = tmp_path / "sr.json"
    done = _run(dcmqi("tid1500reader"), "--inputDICOM", study.reports[-1], "--outputMetadata", out)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = sorted(
        (
            group["TrackingIdentifier"],
            [
                (item["quantity"]["CodeMeaning"], float(item["value"]))
                for item in group["measurementItems"]
            ],
        )
        for group in json.loads(out.read_text())["Measurements"]
    )
    assert figures == _all_expected(study)


def _send(pacs: OrthancPacs, paths: tuple[Path, ...]) -> dict[str, Dataset]:
    """Store the files as the node does and return them by SOP Instance UID."""
    made = {path: dcmread(path) for path in paths}
    parcels = [
        Parcel(number, path, str(ds.SOPClassUID), str(ds.SOPInstanceUID))
        for number, (path, ds) in enumerate(made.items())
    ]
    receiver = Receiver("orthanc", pacs.ae_title, "127.0.0.1", pacs.port)
    answers = [each.status for each in CStoreSender("NODE", 60.0).send(receiver, parcels)]
    assert answers == [0] * len(parcels)
    return {str(ds.SOPInstanceUID): ds for ds in made.values()}


def test_orthanc_gives_back_what_it_got(study: Study, orthanc: OrthancPacs) -> None:
    made = _send(orthanc, study.made)
    stored = {each.sop_instance_uid: orthanc.fetch(each.key) for each in orthanc.objects()}
    assert {uid: dcmread(BytesIO(data)) for uid, data in stored.items()} == made


def test_dicomweb_gives_back_what_it_got(study: Study, web_orthanc: WebOrthanc) -> None:
    made = _send(web_orthanc, study.all)
    study_instance_uid = str(dcmread(study.images[0]).StudyInstanceUID)
    got = {str(ds.SOPInstanceUID): ds for ds in web_orthanc.retrieve(study_instance_uid)}
    assert got == made
