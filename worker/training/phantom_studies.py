"""Phantoms as DICOM studies with known percentages, in the encodings that machines send.

The same seed gives the same bytes. Everything is synthetic: PatientName starts with PHANTOM.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from worker.training.jpeg_lossless import encode_sv1
from worker.training.phantom import Phantom, View, make_phantom

_NAMESPACE: Final = uuid.UUID("6c1f7b7e-6d8e-5d0b-9a54-0d1e5b0f7c11")
_IMPLEMENTATION: Final = UID("2.25.143733459436284915823410948571612376493")
_BITS: Final = 12
_FIELD_HEIGHT_MM: Final = 430.0


@dataclass(frozen=True)
class Plan:
    """One file to write; `percent` is what the phantom is asked for, None for a lateral."""

    file: str
    sop_class: UID
    syntax: UID
    view: View
    percent: float | None
    rows: int
    monochrome1: bool = False


@dataclass(frozen=True)
class PhantomImage:
    """One file written. Percentages are of the drawn masks; None for a view without lung fields."""

    path: Path
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    view: View
    percent: dict[str, float | None]


@dataclass(frozen=True)
class PhantomStudy:
    """One study and its files."""

    patient_id: str
    study_instance_uid: str
    images: tuple[PhantomImage, ...]


_CR, _DX = UID(ComputedRadiographyImageStorage), UID(DigitalXRayImageStorageForPresentation)
PLANS: Final[tuple[tuple[Plan, ...], ...]] = (
    (Plan("cr-pa-explicit.dcm", _CR, ExplicitVRLittleEndian, "PA", 22.0, 1400),),
    (
        Plan("dx-pa-jpeg2000.dcm", _DX, JPEG2000Lossless, "PA", 8.0, 1600),
        Plan("dx-lateral-rle.dcm", _DX, RLELossless, "LL", None, 1200),
    ),
    (Plan("dx-ap-jpegls-mono1.dcm", _DX, JPEGLSLossless, "AP", 60.0, 1500, monochrome1=True),),
    (Plan("cr-pa-implicit-clear.dcm", _CR, ImplicitVRLittleEndian, "PA", 0.0, 1024),),
    (
        Plan("cr-ap-jpeg-lossless.dcm", _CR, JPEGLosslessSV1, "AP", 40.0, 1200),
        Plan("dx-ap-explicit.dcm", _DX, ExplicitVRLittleEndian, "AP", 30.0, 1800),
    ),
)


def write_phantom_studies(
    out: Path, seed: int = 0, plans: Sequence[Sequence[Plan]] = PLANS
) -> list[PhantomStudy]:
    """Write the planned studies under `out`, one folder each, and `manifest.json`.

    Raises OSError when `out` cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    studies = []
    for number, study in enumerate(plans, start=1):
        patient = f"PHANTOM-{seed * 100 + number:04d}"
        folder = out / patient
        folder.mkdir(exist_ok=True)
        images = tuple(
            _write(folder, plan, _Place(seed, number, image, patient))
            for image, plan in enumerate(study, start=1)
        )
        studies.append(PhantomStudy(patient, _uid(seed, number), images))
    manifest = json.dumps(_manifest(out, seed, studies), indent=2) + "\n"
    (out / "manifest.json").write_text(manifest, encoding="utf-8")
    return studies


@dataclass(frozen=True)
class _Place:
    """Where an image stands: all identifiers follow from it."""

    seed: int
    study: int
    image: int
    patient: str


def _uid(*parts: int | str) -> str:
    """Derive a UID from the seed and a place (PS3.5 B.2)."""
    return f"2.25.{uuid.uuid5(_NAMESPACE, '/'.join(map(str, parts))).int}"


def _write(folder: Path, plan: Plan, place: _Place) -> PhantomImage:
    number = place.seed * 1000 + place.study * 10 + place.image
    phantom = make_phantom(number, plan.rows, plan.percent, plan.view)
    ds = _header(plan, place, phantom)
    _set_pixels(ds, plan, phantom)
    path = folder / plan.file
    dcmwrite(path, ds, enforce_file_format=True)
    return PhantomImage(
        path=path,
        sop_instance_uid=ds.SOPInstanceUID,
        sop_class_uid=plan.sop_class,
        transfer_syntax_uid=plan.syntax,
        view=plan.view,
        percent={
            "total": phantom.percent,
            "left": phantom.left_percent,
            "right": phantom.right_percent,
        },
    )


def _header(plan: Plan, place: _Place, phantom: Phantom) -> Dataset:
    ds = Dataset()
    for part in (_patient(place), _study_and_series(plan, place), _image(plan, place, phantom)):
        ds.update(part)
    if plan.sop_class == _DX:
        ds.update(_digital_xray(plan))
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = plan.sop_class
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = plan.syntax
    ds.file_meta.ImplementationClassUID = _IMPLEMENTATION
    ds.file_meta.ImplementationVersionName = "PHANTOM"
    return ds


def _patient(place: _Place) -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.PatientName = f"PHANTOM^{('ANNA', 'BELA', 'CARO', 'DORA', 'EDDA')[place.study - 1]}"
    ds.PatientID = place.patient
    ds.PatientBirthDate = f"19{50 + place.study}0{place.study}15"
    ds.PatientSex = "F"
    return ds


def _study_and_series(plan: Plan, place: _Place) -> Dataset:
    """General Study, General Series, CR or DX Series, General Equipment (PS3.3 C.7, C.8)."""
    ds = Dataset()
    ds.StudyInstanceUID = _uid(place.seed, place.study)
    ds.StudyDate = ds.SeriesDate = f"202401{10 + place.study:02d}"
    ds.StudyTime, ds.SeriesTime = "101500", f"10{15 + place.image}00"
    ds.ReferringPhysicianName = None
    ds.StudyID = f"{place.study}"
    ds.AccessionNumber = f"PH{place.seed * 100 + place.study:06d}"
    ds.StudyDescription = "Synthetic chest phantom"
    ds.Modality = "DX" if plan.sop_class == _DX else "CR"
    ds.SeriesInstanceUID = _uid(place.seed, place.study, "series", place.image)
    ds.SeriesNumber = place.image
    ds.SeriesDescription = f"Chest {plan.view}"
    ds.BodyPartExamined = "CHEST"
    ds.ViewPosition = plan.view
    ds.Manufacturer = "Synthetic"
    ds.ManufacturerModelName = "Chest phantom"
    ds.DeviceSerialNumber = "1"
    ds.SoftwareVersions = "1"
    return ds


def _image(plan: Plan, place: _Place, phantom: Phantom) -> Dataset:
    """General Image, Image Pixel, VOI LUT, SOP Common (PS3.3 C.7.6, C.11.2, C.12.1)."""
    ds = Dataset()
    ds.SOPClassUID = plan.sop_class
    ds.SOPInstanceUID = _uid(place.seed, place.study, "image", place.image)
    ds.InstanceNumber = place.image
    ds.PatientOrientation = ["P", "F"] if plan.view == "LL" else ["L", "F"]
    ds.AcquisitionDate = ds.ContentDate = f"202401{10 + place.study:02d}"
    ds.AcquisitionTime = ds.ContentTime = f"10{15 + place.image}30"
    ds.ImageType = ["ORIGINAL", "PRIMARY", ""]
    ds.BurnedInAnnotation = "NO"
    ds.LossyImageCompression = "00"
    ds.PresentationLUTShape = "INVERSE" if plan.monochrome1 else "IDENTITY"
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME1" if plan.monochrome1 else "MONOCHROME2"
    ds.Rows, ds.Columns = phantom.pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, _BITS, _BITS - 1
    ds.PixelRepresentation = 0
    spacing = round(_FIELD_HEIGHT_MM / plan.rows, 4)
    ds.ImagerPixelSpacing = [spacing, spacing]
    ds.WindowCenter, ds.WindowWidth = 1 << (_BITS - 1), 1 << _BITS
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "US"
    return ds


def _digital_xray(plan: Plan) -> Dataset:
    """DX Series, Anatomy Imaged, Image, Detector, Positioning (PS3.3 C.8.11)."""
    ds = Dataset()
    ds.PresentationIntentType = "FOR PRESENTATION"
    ds.ImageLaterality = "U"
    ds.AnatomicRegionSequence = [_code(codes.cid4031.Chest)]
    ds.PixelIntensityRelationship = "LOG"
    ds.PixelIntensityRelationshipSign = 1 if plan.monochrome1 else -1
    ds.DetectorType = "DIRECT"
    ds.DetectorConfiguration = "AREA"
    ds.DetectorActiveShape = "RECTANGLE"
    ds.AcquisitionContextSequence = []
    ds.PositionerType = "NONE"
    views = {
        "PA": codes.cid4010.PosteroAnterior,
        "AP": codes.cid4010.AnteroPosterior,
        "LL": codes.cid4010.LeftLateral,
    }
    view = _code(views[plan.view])
    view.ViewModifierCodeSequence = []
    ds.ViewCodeSequence = [view]
    return ds


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def _set_pixels(ds: Dataset, plan: Plan, phantom: Phantom) -> None:
    """Store 12 of 16 bits in the plan's photometric interpretation and transfer syntax."""
    stored = (phantom.pixels >> (16 - _BITS)).astype(np.uint16)
    if plan.monochrome1:
        stored = np.uint16((1 << _BITS) - 1) - stored
    if plan.syntax == JPEGLosslessSV1:
        encode_sv1(ds, stored)
    elif plan.syntax.is_encapsulated:
        ds.compress(plan.syntax, stored, generate_instance_uid=False)
    else:
        ds.PixelData = stored.tobytes()
        ds["PixelData"].VR = "OW"


def _manifest(out: Path, seed: int, studies: list[PhantomStudy]) -> dict[str, Any]:
    return {
        "seed": seed,
        "studies": [
            {
                "patient_id": study.patient_id,
                "study_instance_uid": study.study_instance_uid,
                "files": [image.path.relative_to(out).as_posix() for image in study.images],
            }
            for study in studies
        ],
        "instances": {
            image.sop_instance_uid: {
                "file": image.path.relative_to(out).as_posix(),
                "study_instance_uid": study.study_instance_uid,
                "sop_class_uid": image.sop_class_uid,
                "transfer_syntax_uid": image.transfer_syntax_uid,
                "view": image.view,
                "percent": image.percent,
            }
            for study in studies
            for image in study.images
        },
    }
