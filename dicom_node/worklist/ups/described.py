"""The data set of a workitem: one table of its attributes, made part by part as they are asked for.

What costs a file (the patient's name, the series of a report) is read only when it is wanted.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from dicom_node.query.stored import read_stored, texts_of
from dicom_node.worklist.readings import AE_PREFIX
from dicom_node.worklist.ups.names import DISCONTINUED, INTERPRETATION, PUSH
from models.imaging import Instance, Series, Study
from models.rejection import WithdrawnArtifact
from models.result import Artifact, of_the_patient
from models.settings import Settings
from models.states import ArtifactKind, InstanceState, WorkitemState
from models.workitem import Workitem

_HIDDEN: Final = (InstanceState.QUARANTINED, InstanceState.SUPERSEDED, InstanceState.WITHDRAWN)
_UTF_8: Final = "ISO_IR 192"  # PS3.3 C.12.1.1.2
_PATIENT: Final = ("PatientName", "PatientBirthDate", "PatientSex")
_SEX: Final = tag_for_keyword("PatientSex") or 0
_SERIES_UID: Final = tag_for_keyword("SeriesInstanceUID") or 0
_CODE_LENGTH: Final = 16  # VR SH
_NOTICE: Final = "Figure of an AI. Research use only; not a medical device."

# Of type 2, and unknown here.
_EMPTY_SCHEDULE: Final = (
    "ScheduledStationNameCodeSequence",
    "ScheduledStationClassCodeSequence",
    "ScheduledStationGeographicLocationCodeSequence",
    "ScheduledProcessingParametersSequence",
)
_EMPTY_RELATIONSHIP: Final = (
    "AdmissionID",
    "IssuerOfAdmissionIDSequence",
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
)
_EMPTY_REQUEST: Final = (
    "ReferencedStudySequence",
    "IssuerOfAccessionNumberSequence",
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)

# Every attribute of a workitem, by the part that it is made with (PS3.4 Table CC.2.5-3).
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "identity": ("SOPClassUID", "SOPInstanceUID"),
    "schedule": (
        "ScheduledProcedureStepPriority",
        "ScheduledProcedureStepModificationDateTime",
        "ProcedureStepLabel",
        "WorklistLabel",
        "ScheduledWorkitemCodeSequence",
        "CommentsOnTheScheduledProcedureStep",
        "InputReadinessState",
        *_EMPTY_SCHEDULE,
        "ScheduledProcedureStepStartDateTime",
    ),
    "relationship": (
        "PatientID",
        "IssuerOfPatientID",
        *_EMPTY_RELATIONSHIP,
        "ReferencedRequestSequence",
    ),
    "patient": _PATIENT,
    "input": ("InputInformationSequence",),
    "progress": ("ProcedureStepState", "ProcedureStepProgressInformationSequence"),
    "performed": ("UnifiedProcedureStepPerformedProcedureSequence",),
}
KEYWORDS: Final = tuple(keyword for part in PARTS.values() for keyword in part)


@dataclass(frozen=True)
class Describer:
    """Makes the data sets of workitems, within one transaction."""

    settings: Settings
    session: Session

    def describe(self, workitem: Workitem, wanted: Collection[str] = KEYWORDS) -> Dataset:
        """Return these attributes of a workitem; never its Transaction UID (PS3.4 CC.2.7.3)."""
        ds = Dataset()
        makers: dict[str, Callable[[Dataset, Workitem], None]] = {
            "identity": self._identity,
            "schedule": self._schedule,
            "relationship": self._relationship,
            "patient": self._patient,
            "input": self._input,
            "progress": self._progress,
            "performed": self._performed,
        }
        for part, keywords in PARTS.items():
            if not set(keywords).isdisjoint(wanted):
                makers[part](ds, workitem)
        for keyword in KEYWORDS:
            if keyword not in wanted and keyword in ds:
                del ds[keyword]
        if not _is_ascii(ds):
            ds.SpecificCharacterSet = _UTF_8
        return ds

    def _identity(self, ds: Dataset, workitem: Workitem) -> None:
        ds.SOPClassUID, ds.SOPInstanceUID = PUSH, workitem.workitem_uid

    def _schedule(self, ds: Dataset, workitem: Workitem) -> None:
        study, worklist = workitem.study, self.settings.worklist
        ds.ScheduledProcedureStepPriority = worklist.priorities.of(study.severity)
        ds.ScheduledProcedureStepModificationDateTime = _dt(workitem.changed_at)
        ds.ProcedureStepLabel = f"Chest radiograph, {_figure(study)}"
        ds.WorklistLabel = worklist.ups.worklist_label
        ds.ScheduledWorkitemCodeSequence = [_code(*INTERPRETATION)]
        ds.CommentsOnTheScheduledProcedureStep = _NOTICE
        ds.InputReadinessState = "READY"
        ds.ScheduledProcedureStepStartDateTime = _dt(workitem.created_at)
        _set_empty(ds, _EMPTY_SCHEDULE)

    def _relationship(self, ds: Dataset, workitem: Workitem) -> None:
        study = workitem.study
        ds.PatientID, ds.IssuerOfPatientID = study.patient_id, study.issuer_of_patient_id
        _set_empty(ds, _EMPTY_RELATIONSHIP)
        request = Dataset()
        request.StudyInstanceUID = study.study_instance_uid
        request.AccessionNumber = study.accession_number
        _set_empty(request, _EMPTY_REQUEST)
        ds.ReferencedRequestSequence = [request]

    def _patient(self, ds: Dataset, workitem: Workitem) -> None:
        """Set what the newest image says of its patient, with an operator's correction over it."""
        image = self.session.scalars(
            self._images(workitem).order_by(Instance.id.desc()).limit(1)
        ).first()
        head = Dataset()
        correction: dict[str, str] = {}
        if image is not None:
            images = self.settings.image_store
            head = read_stored(images.path_of(image.storage_key, image.purged_at), _SEX)
            correction = image.correction or {}
        for keyword in _PATIENT:
            texts = texts_of(head, keyword)
            setattr(ds, keyword, correction.get(keyword, texts[0] if texts else "") or None)

    def _input(self, ds: Dataset, workitem: Workitem) -> None:
        by_series: dict[str, list[Dataset]] = {}
        query = self._images(workitem).where(Instance.purged_at.is_(None)).order_by(Instance.id)
        for image in self.session.scalars(query):
            reference = _reference(image.sop_class_uid, image.sop_instance_uid)
            by_series.setdefault(image.series.series_instance_uid, []).append(reference)
        for series_uid, reference in self._report(workitem.study):
            by_series.setdefault(series_uid, []).append(reference)
        ds.InputInformationSequence = [
            self._series(workitem.study, series_uid, references)
            for series_uid, references in by_series.items()
        ]

    def _series(self, study: Study, series_uid: str, references: Sequence[Dataset]) -> Dataset:
        item = Dataset()
        item.TypeOfInstances = "DICOM"
        item.StudyInstanceUID, item.SeriesInstanceUID = study.study_instance_uid, series_uid
        item.ReferencedSOPSequence = list(references)
        if self.settings.query_retrieve.enabled:
            source = Dataset()
            source.RetrieveAETitle = self.settings.dicom.ae_title
            item.DICOMRetrievalSequence = [source]
        return item

    def _images(self, workitem: Workitem) -> Select[Instance]:
        return (
            select(Instance)
            .join(Series, Instance.series_id == Series.id)
            .join(Study, Series.study_id == Study.id)
            .where(Study.id == workitem.study_id, Instance.state.not_in(_HIDDEN), of_the_patient())
        )

    def _report(self, study: Study) -> list[tuple[str, Dataset]]:
        """Return the newest report; its Series Instance UID stands in its file alone."""
        report = self.session.scalar(
            select(Artifact)
            .where(
                Artifact.study_id == study.id,
                Artifact.kind == ArtifactKind.SR,
                Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)),
            )
            .order_by(Artifact.revision.desc())
            .limit(1)
        )
        if report is None or report.sop_class_uid is None or report.sop_instance_uid is None:
            return []
        head = read_stored(self.settings.artifact_store.path(report.storage_key), _SERIES_UID)
        reference = _reference(report.sop_class_uid, report.sop_instance_uid)
        return [(uid, reference) for uid in texts_of(head, "SeriesInstanceUID")[:1]]

    def _progress(self, ds: Dataset, workitem: Workitem) -> None:
        ds.ProcedureStepState = workitem.state.value
        items = _set_by_performer(workitem, "ProcedureStepProgressInformationSequence")
        item = items[0] if items else Dataset()
        if workitem.state is WorkitemState.COMPLETED:
            _default(item, ProcedureStepProgress="100")
        if workitem.state is WorkitemState.CANCELED:
            _default(
                item,
                ProcedureStepCancellationDateTime=_dt(workitem.ended_at),
                ProcedureStepDiscontinuationReasonCodeSequence=[_code(*DISCONTINUED)],
            )
            if workitem.reason:
                _default(item, ReasonForCancellation=workitem.reason)
        ds.ProcedureStepProgressInformationSequence = [item] if len(item) else []

    def _performed(self, ds: Dataset, workitem: Workitem) -> None:
        """Set what was performed; what its performer left out is filled as far as it is known."""
        items = _set_by_performer(workitem, "UnifiedProcedureStepPerformedProcedureSequence")
        if not items and workitem.state is WorkitemState.COMPLETED:
            items = [Dataset()]
        for item in items:
            _default(
                item,
                PerformedStationNameCodeSequence=[self._station(workitem)],
                PerformedProcedureStepStartDateTime=_dt(workitem.started_at),
                PerformedWorkitemCodeSequence=[_code(*INTERPRETATION)],
                OutputInformationSequence=[],
            )
            if workitem.state is WorkitemState.COMPLETED:
                _default(item, PerformedProcedureStepEndDateTime=_dt(workitem.ended_at))
            person = workitem.performer
            if person is not None and not person.startswith(AE_PREFIX):
                _default(item, ActualHumanPerformersSequence=[_human(person)])
        ds.UnifiedProcedureStepPerformedProcedureSequence = items

    def _station(self, workitem: Workitem) -> Dataset:
        performer = workitem.performer or ""
        is_ae = performer.startswith(AE_PREFIX)
        title = performer.removeprefix(AE_PREFIX) if is_ae else self.settings.dicom.ae_title
        return _code(title[:_CODE_LENGTH], "L", title)


def _figure(study: Study) -> str:
    if study.opacity_percent is None:
        return "no figure"
    return f"opacity {study.opacity_percent:.1f} %, {study.severity}"


def _set_empty(ds: Dataset, keywords: Sequence[str]) -> None:
    for keyword in keywords:
        setattr(ds, keyword, [] if dictionary_VR(keyword) == "SQ" else None)


def _set_by_performer(workitem: Workitem, keyword: str) -> list[Dataset]:
    ds = Dataset.from_json(workitem.attributes or {})
    return [*(ds.get(keyword) or [])]


def _default(item: Dataset, **values: object) -> None:
    for keyword, value in values.items():
        if item.get(keyword) in (None, ""):
            setattr(item, keyword, value)


def _human(name: str) -> Dataset:
    item = Dataset()
    item.HumanPerformerCodeSequence = []
    item.HumanPerformerName = name
    return item


def _reference(sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class_uid, sop_instance_uid
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _dt(moment: datetime | None) -> str | None:
    return None if moment is None else moment.astimezone(UTC).strftime("%Y%m%d%H%M%S+0000")


def _is_ascii(ds: Dataset) -> bool:
    for element in ds:
        if element.VR == "SQ":
            if not all(map(_is_ascii, element.value)):
                return False
        elif not str(element.value).isascii():
            return False
    return True
