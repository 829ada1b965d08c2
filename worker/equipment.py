"""Product identity in derived objects, and what every one of them carries."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from highdicom import ContentQualificationValues, ContributingEquipment
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from models.analysis_sections import ObjectSettings
from models.identity import DEVICE_SERIAL_NUMBER, MANUFACTURER, NODE_MODEL_NAME, make_uid
from worker.types import ModelIdentity

_NO_DATE = datetime(1970, 1, 1)  # noqa: DTZ001  DICOM times of the source have no zone
_VALUE_MAX = 64  # PS3.5 6.2, VR LO


def installed_version() -> str:
    """Return the version of the installed package."""
    try:
        return version("dicom-node")
    except PackageNotFoundError:  # run from a source tree without installation
        return "unknown"


@dataclass(frozen=True)
class ObjectContext:
    """What an object's bytes depend on beside the image and its masks.

    `created` is to the second: the job's creation, so that a retry writes the same bytes, in local
    time; or `date_of_source` where there is no job, which has no zone.
    """

    created: datetime
    objects: ObjectSettings
    software_version: str = field(default_factory=installed_version)

    def beside(self, header: Dataset) -> "ObjectContext":
        """Return the context with its time in the zone that the header of a source names.

        Times of the source and ours stand in one object, and Timezone Offset From UTC (PS3.3
        C.12.1.1.8) governs them all.
        """
        zone = str(header.get("TimezoneOffsetFromUTC") or "")
        if not zone or self.created.tzinfo is None:
            return self
        offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
        there = timezone(-offset if zone[0] == "-" else offset)
        return replace(self, created=self.created.astimezone(there))

    def uid(self, *parts: str) -> str:
        """Return the deterministic UID of these parts under the configured root."""
        return make_uid(self.objects.uid_root, *parts)


def date_of_source(headers: Iterable[Dataset]) -> datetime:
    """Return the latest time that the normalised headers state; 1970-01-01 when none does."""
    pairs = (
        ("StudyDate", "StudyTime"),
        ("SeriesDate", "SeriesTime"),
        ("AcquisitionDate", "AcquisitionTime"),
        ("ContentDate", "ContentTime"),
    )
    stated = [
        datetime.strptime(  # noqa: DTZ007  DICOM times of the source have no zone
            f"{header.get(date)}{header.get(time) or ''!s:0<6}", "%Y%m%d%H%M%S"
        )
        for header in headers
        for date, time in pairs
        if header.get(date)
    ]
    return max(stated, default=_NO_DATE)


def device_uid(model: ModelIdentity, context: ObjectContext) -> str:
    """Return the Device UID of one model: another one for other weights (IHE AIR 6.5.3.1)."""
    return context.uid("device", model.name, model.version, model.sha256)


def algorithm_version(model: ModelIdentity) -> str:
    """Return the version and the weights hash, as Software Versions and Algorithm Version."""
    return f"{model.version}+sha256.{model.sha256[:16]}"[:_VALUE_MAX]


def contributing_equipment(model: ModelIdentity, context: ObjectContext) -> ContributingEquipment:
    """Return the algorithm's item of Contributing Equipment Sequence (IHE AIR 6.5.3.1)."""
    item = ContributingEquipment(
        manufacturer=MANUFACTURER,
        purpose_of_reference=codes.DCM.ProcessingEquipment,
        manufacturer_model_name=model.name,
        software_versions=algorithm_version(model),
        device_serial_number=DEVICE_SERIAL_NUMBER,
        contribution_description="Lung opacity segmentation model",
    )
    item.DeviceUID = device_uid(model, context)  # highdicom has no argument for it
    return item


def node_equipment(context: ObjectContext) -> dict[str, Any]:
    """Return the arguments of Enhanced General Equipment (PS3.3 C.7.5.2) for highdicom."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": NODE_MODEL_NAME,
        "software_versions": context.software_version,
        "device_serial_number": DEVICE_SERIAL_NUMBER,
    }


def acquisition_equipment(header: Dataset) -> list[ContributingEquipment]:
    """Return the item for the device that made the source image, where its header names one."""
    if not header.get("Manufacturer"):  # type 2 in the source, type 1 in the item
        return []
    return [ContributingEquipment.for_image_acquisition(header)]


def object_arguments(models: Iterable[ModelIdentity], context: ObjectContext) -> dict[str, Any]:
    """Return the arguments of highdicom that every object of ours gets: equipment, date, encoding.

    `content_arguments` has those of objects with a Content Date.
    """
    return {
        **node_equipment(context),
        "contributing_equipment": [contributing_equipment(model, context) for model in models],
        "content_qualification": ContentQualificationValues.RESEARCH,
        "series_date": context.created.date(),
        "series_time": context.created.time(),
        "transfer_syntax_uid": ExplicitVRLittleEndian,
    }


def content_arguments(context: ObjectContext) -> dict[str, Any]:
    """Return the arguments of highdicom for Content Date and Time."""
    return {"content_date": context.created.date(), "content_time": context.created.time()}


def finish(ds: Dataset, header: Dataset, context: ObjectContext) -> None:
    """Replace what highdicom takes from the clock and a random source, and add what it omits."""
    date, time = f"{context.created:%Y%m%d}", f"{context.created:%H%M%S}"
    ds.InstanceCreationDate = ds.SeriesDate = date
    ds.InstanceCreationTime = ds.SeriesTime = time
    if "ContentDate" in ds:  # in a presentation state they have other names
        ds.ContentDate, ds.ContentTime = date, time
    for keyword in (
        "StudyDescription",
        "IssuerOfPatientID",
        "PatientAge",
        "TimezoneOffsetFromUTC",
    ):
        if keyword in header and keyword not in ds:
            ds[keyword] = header[keyword]
    for item in ds.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            del item.ContributionDateTime


def to_bytes(ds: Dataset) -> bytes:
    """Return the Part 10 file of an object. The same object gives the same bytes."""
    buffer = DicomBytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # illegal UIDs of the source are referenced as they are
        ds.save_as(buffer, enforce_file_format=True)
    return bytes(buffer.getvalue())
