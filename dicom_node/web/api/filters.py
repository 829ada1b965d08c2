"""The filters of the listings, as the node's own filters have them.

Those of GET are free of patient data; those of a search, in a body, are not.
"""

from dataclasses import replace
from typing import Any, Final, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dicom_node.audit.log import AuditFilter
from dicom_node.deliveries import DeliveryFilter
from dicom_node.results import ResultFilter, ResultSort
from dicom_node.studies import StudyFilter, StudySort
from dicom_node.web.api.parameters import (
    Direction,
    Moment,
    Paging,
    Percent,
    Severity,
    ShortText,
    Text,
    Uid,
)
from dicom_node.worklist.rows import WorklistFilter
from models.audit import AuditAction
from models.fields import Priority
from models.reasons import Reason
from models.states import DeliveryState, InstanceState, ReadingState, StudyState

_OF_PATIENTS: Final = ("patient_id", "issuer_of_patient_id", "accession_number")


class Filter(Paging):
    """What every listing has: a range of time, and what it is filtered by."""

    since: Moment | None = Field(None, description="At or after.")
    until: Moment | None = Field(None, description="Before.")

    def chosen(self) -> dict[str, Any]:
        """Return what is filtered by, without what pages are about."""
        return self.model_dump(exclude={*Paging.model_fields, "sort", "order"}, exclude_none=True)

    def of_patient(self) -> dict[str, str]:
        """Return what of the filter identifies a patient."""
        return {name: value for name, value in self.chosen().items() if name in _OF_PATIENTS}

    def described(self) -> dict[str, Any]:
        """Return the filter and its order as JSON values, free of what identifies a patient."""
        hidden = {"cursor", "format", *_OF_PATIENTS}
        return self.model_dump(mode="json", exclude=hidden, exclude_none=True)


class Ordered(Filter):
    """A listing in either direction."""

    order: Direction = Field(Direction.DESCENDING, description="`desc`: the highest first.")

    @property
    def descends(self) -> bool:
        """Whether the highest comes first."""
        return self.order is Direction.DESCENDING


class _OfImages(Ordered):
    """What studies and images are both filtered by."""

    study_instance_uid: Uid | None = None
    calling_aet: ShortText | None = Field(None, description="Who sent it.")
    severity: Severity | None = None
    min_percent: Percent | None = None
    max_percent: Percent | None = None
    model: Text | None = Field(None, description="Name of the model of the figure.")
    model_version: Text | None = None
    modality: ShortText | None = None
    reason: Reason | None = Field(None, description="Why an image has no figure.")
    caveat: Text | None = Field(None, description="Why a figure deserves a second look.")


class StudyQuery(_OfImages):
    """Which studies. What is said of images holds if one of its images is so."""

    state: StudyState | None = None
    reading_state: ReadingState | None = None
    sort: StudySort = StudySort.RECEIVED

    @property
    def wanted(self) -> StudyFilter:
        """The filter of the node."""
        return StudyFilter(**self.chosen())


class ResultQuery(_OfImages):
    """Which images. Figures are those of analysed images: no other state goes with them."""

    sop_instance_uid: Uid | None = None
    state: InstanceState | None = None
    sort: ResultSort = ResultSort.RECEIVED

    @model_validator(mode="after")
    def _figures_are_of_analysed_images(self) -> Self:
        has_none = self.reason is not None or self.state not in {None, InstanceState.ANALYSED}
        if self._is_about_figures and has_none:
            raise PydanticCustomError(
                "contradiction",  # noqa: EM101  a type, which is no message
                "only analysed images have figures: leave out reason and state, or the figure",
            )
        return self

    @property
    def _is_about_figures(self) -> bool:
        named = {"severity", "min_percent", "max_percent", "model", "model_version", "caveat"}
        return self.sort is ResultSort.PERCENT or bool(named & {*self.chosen()})

    @property
    def wanted(self) -> ResultFilter:
        """The filter of the node."""
        wanted = ResultFilter(**self.chosen())
        return replace(wanted, state=InstanceState.ANALYSED) if self._is_about_figures else wanted


class StudySearch(StudyQuery):
    """Which studies, also by patient."""

    patient_id: Text | None = None
    issuer_of_patient_id: Text | None = None
    accession_number: Text | None = None


class ResultSearch(ResultQuery):
    """Which images, also by patient."""

    patient_id: Text | None = None
    issuer_of_patient_id: Text | None = None
    accession_number: Text | None = None


class EventQuery(Ordered):
    """Which events of the audit. `ae_title` is that of the other side, whoever called."""

    study_instance_uid: Uid | None = None
    ae_title: ShortText | None = None
    user: Text | None = Field(None, description="Account, API token or user of the system.")
    model: Text | None = Field(None, description="Name, version, or both with a space between.")
    action: AuditAction | None = None
    outcome: Text | None = None

    @property
    def wanted(self) -> AuditFilter:
        """The filter of the node."""
        return AuditFilter(**self.chosen())


class EventSearch(EventQuery):
    """Which events, also by patient."""

    patient_id: Text | None = None
    accession_number: Text | None = None


class DeliveryQuery(Ordered):
    """Which deliveries, by when they were planned."""

    state: DeliveryState | None = None
    destination: Text | None = Field(None, description="As the settings name it.")
    study_instance_uid: Uid | None = None

    @property
    def wanted(self) -> DeliveryFilter:
        """The filter of the node."""
        return DeliveryFilter(**self.chosen())


class WorklistQuery(Filter):
    """Which studies of the worklist, by when they were received. The order is that of reading."""

    reading_state: ReadingState | None = ReadingState.UNREAD
    late: bool | None = Field(None, description="Whether the result is late: read it anyway.")
    study_instance_uid: Uid | None = None
    min_percent: Percent | None = None
    state: StudyState | None = None
    severity: Severity | None = None
    priority: Priority | None = None
    calling_aet: ShortText | None = None
    reader: Text | None = Field(None, description="Who has claimed or read it.")

    @property
    def wanted(self) -> WorklistFilter:
        """The filter of the node."""
        return WorklistFilter(**{"reading_state": None, **self.chosen()})


class WorklistSearch(WorklistQuery):
    """Which studies of the worklist, also by patient."""

    patient_id: Text | None = None
    accession_number: Text | None = None
