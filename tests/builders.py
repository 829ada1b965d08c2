"""Builders of inputs: every parameter has a legal default, each test names what it is about."""

import hashlib
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from models.analysis_sections import AnalysisSettings, ObjectSettings
from models.identity import make_uid
from worker.equipment import ObjectContext
from worker.header import normalised_header
from worker.measurements import measure
from worker.types import (
    AnalysedImage,
    ChestImage,
    LungMasks,
    ModelIdentity,
    Orientation,
    Spacing,
    SpacingBasis,
)

CR = "1.2.840.10008.5.1.4.1.1.1"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
MODEL = ModelIdentity("test-net", "1.0", hashlib.sha256(b"weights").hexdigest())
CONFIGURATION_HASH = AnalysisSettings().configuration_hash()


def chest_pixels(rows: int = 256, columns: int = 240, bits: int = 12) -> NDArray[np.uint16]:
    """A drawn frontal chest, bright = dense: body, two dark lungs, a brighter spot in the left."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    y, x = y / rows, x / columns
    level = 0.05 + 0.75 * (((x - 0.5) / 0.46) ** 2 + ((y - 0.55) / 0.6) ** 2 < 1)
    for centre in (0.31, 0.69):
        level = np.where(((x - centre) / 0.15) ** 2 + ((y - 0.48) / 0.3) ** 2 < 1, 0.25, level)
    spot = ((x - 0.69) / 0.07) ** 2 + ((y - 0.6) / 0.07) ** 2 < 1
    level = np.where(spot, 0.6, level) + 0.04 * np.sin(37 * x + 23 * y)
    pixels: NDArray[np.uint16] = np.rint(np.clip(level, 0, 1) * ((1 << bits) - 1)).astype(np.uint16)
    return pixels


def chest_dataset(**overrides: Any) -> FileDataset:
    """A legal frontal chest CR (or another class) in memory; None removes an attribute.

    Keyword arguments are DICOM keywords; `pixels=` (stored values) and `bits=` set the pixel
    module, `seed=` makes other UIDs, `transfer_syntax=` sets the encoding.
    """
    seed = str(overrides.pop("seed", "1"))
    bits = int(overrides.pop("bits", 12))
    pixels = overrides.pop("pixels", None)
    syntax = overrides.pop("transfer_syntax", ExplicitVRLittleEndian)
    stored = chest_pixels(bits=bits) if pixels is None else np.asarray(pixels)
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    for keyword, value in (_defaults(seed) | _pixel_module(stored, bits) | overrides).items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.file_meta.TransferSyntaxUID = syntax
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", CR)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    return ds


def write_part10(path: Path, ds: Dataset | None = None, *, preamble: bool = True) -> Path:
    """Write `ds` (default: `chest_dataset()`) as a file; without preamble: Implicit VR, bare."""
    ds = chest_dataset() if ds is None else ds
    path.parent.mkdir(parents=True, exist_ok=True)
    if preamble:
        ds.save_as(path, enforce_file_format=True)
        return path
    bare = Dataset()
    bare.update(ds)
    bare.save_as(path, implicit_vr=True, little_endian=True)
    return path


def lung_masks(rows: int = 256, columns: int = 240, opacity: float = 0.25) -> LungMasks:
    """Two elliptic lungs, the patient's left at the image's right; opacity at the left's base."""
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float64)
    y, x = y / rows, x / columns
    right, left = (
        ((x - centre) / 0.15) ** 2 + ((y - 0.48) / 0.3) ** 2 < 1 for centre in (0.31, 0.69)
    )
    return LungMasks(left=left, right=right, opacity=left & (y > 0.78 - 0.6 * opacity))


def chest_image(**overrides: Any) -> ChestImage:
    """A ChestImage of `chest_dataset()`, calibrated at 1.4 mm, orientation stated."""
    ds = overrides.pop("ds", None) or chest_dataset()
    rows, columns = int(ds.Rows), int(ds.Columns)
    fields: dict[str, Any] = {
        "pixels": chest_pixels(rows, columns, bits=16),
        "header": normalised_header(ds),
        "spacing": Spacing(1.4, 1.4, SpacingBasis.CALIBRATED),
        "orientation": Orientation(),
    }
    return ChestImage(**(fields | overrides))


def analysed_image(
    image: ChestImage | None = None,
    masks: LungMasks | None = None,
    **overrides: Any,
) -> AnalysedImage:
    """An AnalysedImage whose measurements follow from its masks."""
    image = image or chest_image()
    masks = masks or lung_masks(*image.pixels.shape)
    fields: dict[str, Any] = {
        "image": image,
        "masks": masks,
        "measurements": measure(masks, image.spacing, AnalysisSettings()),
        "model": MODEL,
        "configuration_hash": CONFIGURATION_HASH,
        "data_set_sha256": hashlib.sha256(b"data set").hexdigest(),
        "seconds": 0.5,
        "device": "cpu",
    }
    return AnalysedImage(**(fields | overrides))


def object_context(uid_root: str = "") -> ObjectContext:
    """A context with a fixed clock."""
    return ObjectContext(
        created=datetime(2026, 1, 2, 3, 4, 5),  # noqa: DTZ001  DICOM local time
        objects=ObjectSettings(uid_root=uid_root),
        software_version="0.0.0",
    )


def _defaults(seed: str) -> dict[str, Any]:
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "SOPClassUID": CR,
        "SOPInstanceUID": make_uid("", "instance", seed),
        "StudyInstanceUID": make_uid("", "study", seed),
        "SeriesInstanceUID": make_uid("", "series", seed),
        "Modality": "CR",
        "PatientName": "Phantom^Chest",
        "PatientID": f"P-{seed}",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "StudyID": "1",
        "StudyDate": "20260101",
        "StudyTime": "120000",
        "AccessionNumber": f"A-{seed}",
        "ReferringPhysicianName": "",
        "Manufacturer": "Phantom Maker",
        "ManufacturerModelName": "Phantom",
        "SeriesNumber": 1,
        "InstanceNumber": 1,
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "PatientOrientation": ["L", "F"],
        "ImagerPixelSpacing": [1.4, 1.4],
    }


def _pixel_module(stored: NDArray[Any], bits: int) -> dict[str, Any]:
    return {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": stored.dtype.itemsize * 8,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.tobytes(),
    }
