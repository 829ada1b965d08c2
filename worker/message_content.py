"""What the messages of one study revision are made of, whatever their syntax."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

from pydicom.dataset import Dataset

from models.identity import make_uid
from models.message_sections import MessageSettings
from worker.equipment import ObjectContext
from worker.report_groups import ReportImage
from worker.types import UnanalysedImage

NOTICE: Final = (
    "Research use only, not for diagnosis. Made by software and verified by nobody. "
    "Opacity is the share of the lung fields, the region behind the heart included."
)
_OBSERVED: Final = (
    ("AcquisitionDate", "AcquisitionTime"),
    ("ContentDate", "ContentTime"),
    ("StudyDate", "StudyTime"),
)


@dataclass(frozen=True, order=True)
class Moment:
    """A date and, as far as it is known, a time of the source, and the zone that it names."""

    date: str
    time: str
    zone: str

    @classmethod
    def of(cls, header: Dataset) -> Self:
        """Return when an image was acquired, or when its study was; empty where nothing says it."""
        zone = str(header.get("TimezoneOffsetFromUTC") or "")
        for date, time in _OBSERVED:
            if header.get(date):
                return cls(str(header[date].value), str(header.get(time) or ""), zone)
        return cls("", "", "")


@dataclass(frozen=True)
class MessageContent:
    """A study revision: whose it is, its images with figures and without, and the SR about them.

    `header` is the normalised header of an image, or what the rows know of the study.
    `known_issuer` is who assigned the PatientID by the rows; empty where an operator took the
    issuer away, None where they do not say. Images of one patient may leave it out or come later,
    and the patient of the messages must not change with them.
    """

    header: Dataset
    images: tuple[ReportImage, ...]
    rest: tuple[UnanalysedImage, ...]
    context: ObjectContext
    settings: MessageSettings
    report_uid: str | None = None
    known_issuer: str | None = None

    @classmethod
    def of_report(
        cls,
        images: Sequence[ReportImage],
        rest: Iterable[UnanalysedImage],
        context: ObjectContext,
        settings: MessageSettings,
        report_uid: str,
        known_issuer: str | None = None,
    ) -> Self:
        """Return the content of a report, in the order of its SR; there is at least one image."""
        ordered = tuple(sorted(images, key=lambda image: image.key))
        listed = tuple(sorted({image for image in rest if image.is_listed}))
        return cls(ordered[0].header, ordered, listed, context, settings, report_uid, known_issuer)

    @property
    def study_uid(self) -> str:
        """Study Instance UID."""
        return str(self.header.StudyInstanceUID)

    @property
    def created(self) -> datetime:
        """When it was made, with a zone: that of the source where it names one."""
        created = self.context.beside(self.header).created
        return created if created.tzinfo else created.astimezone()

    @property
    def observed(self) -> Moment:
        """When its first image was acquired, as far as that is known."""
        moments = [Moment.of(image.header) for image in self.images]
        return min((it for it in moments if it.date), default=Moment.of(self.header))

    @property
    def issuer(self) -> str:
        """Who assigned the PatientID, as far as it is known."""
        if self.known_issuer is not None:
            return self.known_issuer or self.settings.assigning_authority
        headers = (self.header, *(image.header for image in self.images))
        said = (str(each.get("IssuerOfPatientID") or "") for each in headers)
        return next(filter(None, said), self.settings.assigning_authority)

    def uid(self, *parts: str) -> str:
        """Return the identifier of something in this study: the same in every revision."""
        return make_uid(self.context.objects.uid_root, *parts, self.study_uid)


def digest(*parts: str, length: int) -> str:
    """Return a short name for these parts, in capitals and digits."""
    text = "\x1f".join(parts)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:length].upper()
