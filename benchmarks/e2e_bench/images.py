"""The studies of the benchmark: phantoms of one size, each study with UIDs of its own."""

import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Final

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian
from pydicom.uid import generate_uid as new_uid

from worker.training.phantom_studies import Plan, write_phantom_studies

_DX: Final = UID(DigitalXRayImageStorageForPresentation)
_PERCENTS: Final = (10.0, 35.0)


def phantoms(rows: int, columns: int) -> list[Dataset]:
    """Return frontal chests of that size, 12 of 16 bits, not compressed."""
    plans = [
        (Plan("dx.dcm", _DX, ExplicitVRLittleEndian, "PA", percent, rows),) for percent in _PERCENTS
    ]
    with tempfile.TemporaryDirectory(prefix="e2e-phantoms-") as folder:
        studies = write_phantom_studies(Path(folder), 7, plans)
        return [_cut(dcmread(study.images[0].path), columns) for study in studies]


def _cut(ds: Dataset, columns: int) -> Dataset:
    """Return the image without what is left and right of its middle `columns`."""
    surplus = ds.Columns - columns
    if surplus < 0:
        msg = f"a phantom of {ds.Rows} rows has {ds.Columns} columns, fewer than {columns}"
        raise SystemExit(msg)
    first = surplus // 2
    ds.PixelData = np.ascontiguousarray(ds.pixel_array[:, first : first + columns]).tobytes()
    ds["PixelData"].VR = "OW"
    ds.Columns = columns
    return ds


def studies(images: list[Dataset]) -> Iterator[Dataset]:
    """Yield studies of one image without end, none of them twice."""
    while True:
        for image in images:
            ds = deepcopy(image)
            ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid()
            ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
            yield ds
