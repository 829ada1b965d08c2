"""Who the patient of a stored image is: name, birth date and sex are read from its header alone.

No database and no log holds them. The text is a sender's and may be hostile: it is cut, and shown
as text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from pydicom.dataset import Dataset
from sqlalchemy.orm import Session

from dicom_node.header import read_head
from dicom_node.receive import data_set_offset
from models.imaging import Instance
from models.storage import Store

_LAST_TAG: Final = 0x00100040  # Patient's Sex
_LONGEST: Final = 200  # of a name; PS3.5 6.2 allows 64 characters in each of three groups
_SHORT: Final = 16
_MOST_HEADERS: Final = 3


@dataclass(frozen=True)
class StoredHeader:
    """Where the header of a stored image is, and what an operator put over it."""

    storage_key: str
    transfer_syntax_uid: str
    purged_at: datetime | None
    correction: Mapping[str, str] | None


@dataclass(frozen=True)
class Patient:
    """What the header says; None: nothing."""

    name: str | None = None
    birth_date: str | None = None
    sex: str | None = None

    @classmethod
    def of(cls, ds: Dataset, correction: Mapping[str, str]) -> Self:
        """Return what stands in the header, with a correction over it; an empty text takes away."""

        def value(keyword: str, length: int) -> str | None:
            text = correction[keyword] if keyword in correction else _text(ds, keyword)
            return text.strip()[:length] or None

        return cls(
            name=_readable(value("PatientName", _LONGEST)),
            birth_date=value("PatientBirthDate", _SHORT),
            sex=value("PatientSex", _SHORT),
        )


def read_patient(images: Store, header: StoredHeader) -> Patient:
    """Return who the patient is, from at most the first 4 MiB of the file.

    Nothing is known of a file that is gone or damaged.
    """
    try:
        path = images.path_of(header.storage_key, header.purged_at)
        ds = read_head(path, data_set_offset(path), header.transfer_syntax_uid, _LAST_TAG)
    except OSError:
        ds = Dataset()
    return Patient.of(ds, header.correction or {})


def patient_of(session: Session, images: Store, instance_ids: Sequence[int]) -> Patient:
    """Return who the patient of these images is, by the first of them whose header says a name.

    At most three headers are read.
    """
    found = Patient()
    for instance_id in instance_ids[:_MOST_HEADERS]:
        row = session.get(Instance, instance_id)
        if row is None:
            continue
        stored = StoredHeader(
            row.storage_key, row.transfer_syntax_uid, row.purged_at, row.correction
        )
        found = read_patient(images, stored)
        if found.name is not None:
            break
    return found


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value = ds.get(keyword)
    except Exception:  # noqa: BLE001  a broken element says as little as a missing one
        return ""
    return "" if value is None else str(value).replace("\0", "")


def _readable(name: str | None) -> str | None:
    """Return a Person Name (PS3.5 6.2, PN) as `Family, Given Middle`, other writings behind it."""
    if name is None:
        return None
    groups = [_of_group(group) for group in name.split("=")]
    first, *others = [group for group in groups if group] or [""]
    return f"{first} ({', '.join(others)})" if others else first or None


def _of_group(group: str) -> str:
    family, *given = (part.strip() for part in group.split("^"))
    rest = " ".join(part for part in given if part)
    return f"{family}, {rest}" if family and rest else family or rest
