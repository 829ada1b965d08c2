"""What `audit verify` can find."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class FindingKind(StrEnum):
    """Each is a trace of somebody who changed the audit, or of something that is broken."""

    EVENT_CHANGED = "event_changed"
    EVENT_DELETED = "event_deleted"
    EVENT_UNSEALED = "event_unsealed"  # written among sealed ones, or nobody seals
    PATIENT_CHANGED = "patient_changed"
    PATIENT_REMOVED = "patient_removed"  # without a redaction that a holder of the key made
    SEAL_CHANGED = "seal_changed"  # or made without the key
    SEAL_MISSING = "seal_missing"
    SEAL_UNKNOWN_KEY = "seal_unknown_key"
    MARKS_MISSING = "marks_missing"
    MARKS_UNSEALED = "marks_unsealed"
    TAIL_CUT = "tail_cut"
    ANCHOR_DIFFERS = "anchor_differs"
    ANCHOR_INCOMPLETE = "anchor_incomplete"
    ANCHOR_UNREADABLE = "anchor_unreadable"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where. A range of events has a last one."""

    kind: FindingKind
    what: str
    seal: int | None = None
    event_id: int | None = None
    last_event_id: int | None = None
    at: datetime | str | None = None  # of the event, else of the seal

    def row(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        at = (
            self.at.isoformat(timespec="milliseconds") if isinstance(self.at, datetime) else self.at
        )
        return {
            "kind": self.kind.value,
            "seal": self.seal,
            "event_id": self.event_id,
            "last_event_id": self.last_event_id,
            "at": at,
            "what": self.what,
        }
