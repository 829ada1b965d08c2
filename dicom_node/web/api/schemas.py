"""What answers are made of, where no frozen value of the node says it already."""

from datetime import datetime
from typing import Any, Final, Generic, TypeVar

from fastapi import status
from pydantic import BaseModel, ConfigDict, Field

from dicom_node.paging import Page
from dicom_node.studies import Model
from dicom_node.web.problems import MEDIA_TYPE
from models.audit import AuditAction
from models.states import (
    ArtifactKind,
    CircuitState,
    DeliveryState,
    InstanceState,
    StudyState,
)

Row = TypeVar("Row")
Value = TypeVar("Value")


class Answer(BaseModel):
    """Base of the answers."""

    model_config = ConfigDict(frozen=True)


class Wrong(Answer):
    """One field that was not understood."""

    where: str
    what: str
    type: str


class Problem(Answer):
    """What went wrong (RFC 9457). Nothing of what was sent is repeated."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[Wrong] | None = None


class PageOf(Answer, Generic[Row]):
    """Some rows. `next` is the cursor of the page after; null: there is none."""

    items: list[Row]
    next: str | None

    @classmethod
    def of(cls, page: Page[Any]) -> "PageOf[Row]":
        """Return the answer of a page; its rows are checked against the schema."""
        return cls.model_validate({"items": page.rows, "next": page.next})


class Sides(Answer, Generic[Value]):
    """One value of both lungs together and of each; null without lung, or where not measured."""

    total: Value | None
    left: Value | None
    right: Value | None


class Zones(Answer, Generic[Value]):
    """One value of each third of each lung, named from the patient's side."""

    right_upper: Value | None
    right_middle: Value | None
    right_lower: Value | None
    left_upper: Value | None
    left_middle: Value | None
    left_lower: Value | None


class FileDelivery(Answer):
    """How far one object is towards one destination. `status` is the last answer's."""

    id: int
    destination: str
    state: DeliveryState
    status: int | None
    attempts: int
    error: str | None


class StoredFile(Answer):
    """One stored object. Pictures have no SOP Instance UID and go nowhere."""

    kind: ArtifactKind
    sop_instance_uid: str | None
    sha256: str
    purged: bool
    deliveries: list[FileDelivery]


class Result(Answer):
    """One received image: what became of it, and its figures where it has some.

    Percentages are of the lung field of that side.
    """

    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str
    patient_id: str | None
    accession_number: str | None
    modality: str | None
    calling_aet: str
    received_at: datetime
    status: InstanceState
    reason: str | None
    detail: str | None
    purged: bool
    study_state: StudyState
    revision: int
    opacity_percent: Sides[float]
    lung_area_mm2: Sides[float]
    opacity_area_mm2: Sides[float]
    lung_pixels: Sides[int]
    opacity_pixels: Sides[int]
    severity: str | None
    severity_by_side: Sides[str]
    zone_percent: Zones[float]
    zone_grade: Zones[int]
    zone_score: Sides[int]
    caveats: list[str]
    model: Model | None
    seconds: float | None
    files: list[StoredFile]


class Event(Answer):
    """One event of the audit. `patient` is what identifies the patient, unless it was redacted.

    `seal` is the number of the seal over it; null: not sealed yet. A newer release, or somebody
    else, may have written an action that this one does not know.
    """

    id: int
    at: datetime
    action: AuditAction | str
    outcome: str
    calling_aet: str | None
    called_aet: str | None
    peer: str | None
    actor: str | None
    model: str | None
    study_instance_uid: str | None
    sop_instance_uid: str | None
    status: int | None
    details: dict[str, Any]
    patient_id: str | None
    patient: dict[str, Any] | None
    seal: int | None


class Delivery(Answer):
    """One object on its way to one destination, and why it is not there yet."""

    id: int
    kind: ArtifactKind
    sop_instance_uid: str | None
    study_instance_uid: str | None
    destination: str
    destination_circuit: CircuitState
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime | None
    status: int | None
    reason: str | None
    created_at: datetime
    sent_at: datetime | None


class Destination(Answer):
    """A receiver of results, its circuit breaker, and how many objects it has in which state."""

    name: str
    ae_title: str
    host: str
    port: int
    circuit: CircuitState
    failures: int
    away_since: datetime | None
    retry_at: datetime | None
    reason: str | None
    deliveries: dict[DeliveryState, int]


class LedgerLine(Answer):
    """Two counts from independent sources that must agree."""

    name: str
    left: int
    right: int
    balanced: bool
    parts: dict[str, int]


class Ledger(Answer):
    """Whether nothing is lost, as of `at`."""

    at: datetime
    balanced: bool
    lines: list[LedgerLine]


class Health(Answer):
    """Whether the node can take a study."""

    status: str = Field(description="`ok` or `unavailable`.")
    parts: dict[str, str]


class RegisteredModel(Answer):
    """A network that a worker has loaded, and how many images it measured until `counted_at`."""

    id: int
    name: str
    version: str
    sha256: str
    registered_at: datetime
    analyses: int
    counted_at: datetime
    has_card: bool


class ModelCard(Answer):
    """What a network is and is not for, and the figures of its evaluation."""

    id: int
    name: str
    version: str
    sha256: str
    card: str | None = Field(description="Markdown.")
    metrics: dict[str, Any] | None


_SAID: Final = {
    status.HTTP_400_BAD_REQUEST: "Not understood",
    status.HTTP_401_UNAUTHORIZED: "Nobody is logged in",
    status.HTTP_403_FORBIDDEN: "Not for this role, or out of the token's scope",
    status.HTTP_404_NOT_FOUND: "There is no such thing",
    status.HTTP_409_CONFLICT: "Not in this state",
    status.HTTP_413_CONTENT_TOO_LARGE: "The body is too large",
    status.HTTP_422_UNPROCESSABLE_CONTENT: "A value is none that is allowed",
    status.HTTP_426_UPGRADE_REQUIRED: "A stream needs HTTP/1.1",
    status.HTTP_503_SERVICE_UNAVAILABLE: "Not now: try again later",
}


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return what the schema says of the errors of a route: those of every one, and `codes`."""
    every = {400, 401, 403, 422, 503, *codes}
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {code: {"description": _SAID[code], "content": content} for code in sorted(every)}
