"""What is known of one study: the frozen values behind its page and the API."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dicom_node.studies import Model, StudyRow
from models.states import (
    ArtifactKind,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    Verdict,
)


@dataclass(frozen=True)
class SideFigures:
    """What was measured of one lung, or of both; None where there is no lung or no spacing."""

    opacity_percent: float | None
    severity: str | None
    lung_pixels: int
    opacity_pixels: int
    lung_area_mm2: float | None
    opacity_area_mm2: float | None


@dataclass(frozen=True)
class ZoneFigures:
    """A third of one lung's height; None without lung in it, or where the setting was off."""

    percent: float | None
    grade: int | None


@dataclass(frozen=True)
class AnalysisDetail:
    """What one model said of one image, and under which configuration.

    `counts`: of several of an image, this is the one that reports speak of.
    """

    id: int
    counts: bool
    model: Model
    configuration_hash: str
    total: SideFigures
    left: SideFigures
    right: SideFigures
    zones: dict[str, ZoneFigures]
    zone_score: dict[str, int | None]
    caveats: tuple[str, ...]
    notes: tuple[str, ...]
    spacing_row_mm: float | None
    spacing_column_mm: float | None
    spacing_basis: str | None
    orientation_assumed: bool
    classification: dict[str, Any] | None
    device: str
    seconds: float
    created_at: datetime


@dataclass(frozen=True)
class DeliveryDetail:
    """One object on its way to one destination. `status` is the DIMSE or HTTP status."""

    id: int
    destination: str
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    created_at: datetime
    next_attempt_at: datetime
    sent_at: datetime | None


@dataclass(frozen=True)
class ArtifactDetail:
    """One stored result. Pictures have no SOP UIDs. `withdrawn` says why it is sent no more."""

    id: int
    analysis_id: int | None
    kind: ArtifactKind
    revision: int | None
    sop_class_uid: str | None
    sop_instance_uid: str | None
    sha256: str
    size_bytes: int
    created_at: datetime
    purged_at: datetime | None
    withdrawn: str | None
    deliveries: tuple[DeliveryDetail, ...]


@dataclass(frozen=True)
class JobDetail:
    """One unit of work: how often it was tried, and how it ended."""

    id: int
    kind: JobKind
    state: JobState
    model_selector: str | None
    revision: int | None
    attempts: int
    error: str | None
    created_at: datetime
    not_before: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class ImageDetail:
    """One received object. `detail` is the sentence of the reason.

    `is_of_patient`: it has the study's PatientID; where not, it must not be shown as the patient's.
    `analyses` has those that do not count too, newest first.
    """

    id: int
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    series_instance_uid: str
    modality: str | None
    presentation_intent: str | None
    state: InstanceState
    reason: str | None
    detail: str | None
    is_of_patient: bool
    patient_id: str | None
    issuer_of_patient_id: str | None
    calling_aet: str
    received_at: datetime
    purged_at: datetime | None
    data_set_sha256: str
    size_bytes: int
    analyses: tuple[AnalysisDetail, ...]
    artifacts: tuple[ArtifactDetail, ...]
    jobs: tuple[JobDetail, ...]

    @property
    def analysis(self) -> AnalysisDetail | None:
        """What counts of an analysed image."""
        if self.state is not InstanceState.ANALYSED:
            return None
        return next((each for each in self.analyses if each.counts), None)

    def artifact(self, kind: ArtifactKind) -> ArtifactDetail | None:
        """Return the object of that kind that was made by the analysis that counts."""
        made = self.analysis.id if self.analysis else None
        found = (each for each in self.artifacts if (each.kind, each.analysis_id) == (kind, made))
        return next(found, None)


@dataclass(frozen=True)
class RevisionDetail:
    """One revision of the report: its objects, the images it speaks of, and its job."""

    revision: int
    artifacts: tuple[ArtifactDetail, ...]
    sop_instance_uids: tuple[str, ...]
    jobs: tuple[JobDetail, ...]


@dataclass(frozen=True)
class FeedbackDetail:
    """What a reader said of a figure."""

    id: int
    sop_instance_uid: str | None
    revision: int
    account: str
    verdict: Verdict
    corrected_percent: float | None
    comment: str | None
    created_at: datetime


@dataclass(frozen=True)
class ReadingDetail:
    """Who has claimed the study, who has read it, and of which revision."""

    revision: int
    claimed_by: str | None
    claimed_at: datetime | None
    read_by: str | None
    read_at: datetime | None


@dataclass(frozen=True)
class StudyDetail:
    """One study with all that became of it.

    `images` are the newest, in the order of arrival; `images_left_out` says how many older ones
    there are, which the results list.
    """

    study: StudyRow
    images: tuple[ImageDetail, ...]
    images_left_out: int
    revisions: tuple[RevisionDetail, ...]  # newest first
    reading: ReadingDetail | None
    feedback: tuple[FeedbackDetail, ...]  # newest first
