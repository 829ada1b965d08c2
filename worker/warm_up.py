"""The first SEG, SR and pictures of a process, made of nothing, so that no study waits for them.

What is read or built at first use stays in memory: tables of highdicom and pydicom, codes, fonts.
"""

from datetime import UTC, datetime

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from models.settings import Settings
from worker.capture import Findings, display_png, layer_png, overlay, overlay_png
from worker.equipment import ObjectContext, to_bytes
from worker.measurements import measure
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage, ChestImage, LungMasks, ModelIdentity, Orientation

_SIDE = 64


def warm_up_objects(settings: Settings) -> None:
    """Make the objects and pictures of an empty image, and drop them."""
    result = _nothing(settings)
    context = ObjectContext(datetime(1970, 1, 1, tzinfo=UTC), settings.objects)
    seg = build_segmentation(result, context)
    to_bytes(seg)
    to_bytes(build_report([ReportImage.of(result, seg)], context, 1))
    findings = Findings.of(result)
    display_png(result.image)
    overlay_png(result, overlay(result, findings))
    layer_png(findings)


def _nothing(settings: Settings) -> AnalysedImage:
    """Return a black image with two square lungs."""
    left, right = np.zeros((2, _SIDE, _SIDE), np.bool_)
    left[16:48, 36:56] = right[16:48, 8:28] = True
    masks = LungMasks(left, right, opacity=left & (np.arange(_SIDE) > 48))  # noqa: PLR2004  a part
    return AnalysedImage(
        image=ChestImage(np.zeros((_SIDE, _SIDE), np.uint16), _header(), None, Orientation()),
        masks=masks,
        measurements=measure(masks, None, settings.analysis),
        model=ModelIdentity("warm-up", "0", "0" * 64),
        configuration_hash="",
        data_set_sha256="",
        seconds=0.0,
        device="cpu",
    )


def _header() -> Dataset:
    ds = Dataset()
    ds.SOPClassUID, ds.Modality = DigitalXRayImageStorageForPresentation, "DX"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = "1.2.3", "1.2.3.4", "1.2.3.4.5"
    ds.PatientID = ds.PatientName = ds.StudyDate = ds.StudyTime = ds.AccessionNumber = ""
    ds.PatientBirthDate = ds.PatientSex = ds.StudyID = ds.ReferringPhysicianName = ""
    ds.Rows = ds.Columns = _SIDE
    return ds
