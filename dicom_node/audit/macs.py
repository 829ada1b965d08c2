"""What a seal covers, byte by byte. Pure: values in, keyed hashes out (HMAC-SHA-256).

These bytes are a promise: a seal that was made with an earlier release must still be proved. A
column that is None is left out, so that a later column does not change what was sealed before.
"""

import hashlib
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

EVENT_COLUMNS: Final = (
    *("id", "at", "action", "outcome", "calling_aet", "called_aet", "peer", "study_instance_uid"),
    *("sop_instance_uid", "status", "actor", "model", "details"),
)
PATIENT_COLUMNS: Final = ("patient_id", "patient")  # what redaction empties
NOTHING_BEFORE: Final = "0" * 64
SALT_BYTES: Final = 16
UNREADABLE: Final = bytes(32)  # the hash of no event: one that could not be read when it was sealed


@dataclass(frozen=True)
class Mark:
    """What is sealed of one event."""

    event_id: int
    event_mac: bytes
    patient_mac: bytes | None

    @property
    def sealed(self) -> bytes:
        """The bytes that the seal covers."""
        return b"%d %b %b\n" % (
            self.event_id,
            self.event_mac.hex().encode(),
            (self.patient_mac or b"").hex().encode(),
        )


@dataclass(frozen=True)
class SealHead:
    """A seal without its own hash."""

    number: int
    first_event_id: int
    last_event_id: int
    events: int
    sealed_at: datetime
    key_id: str
    previous_mac: str


def event_mac(key: bytes, event: Mapping[str, Any]) -> bytes:
    """Return the keyed hash of all columns but those of the patient."""
    values = {name: event[name] for name in EVENT_COLUMNS if event[name] is not None}
    return _mac(key, b"event", _canonical(values))


def patient_mac(key: bytes, salt: bytes, event: Mapping[str, Any]) -> bytes:
    """Return the keyed hash of what identifies the patient of an event."""
    values = {name: event[name] for name in PATIENT_COLUMNS if event[name] is not None}
    return _mac(key, b"patient", salt + _canonical(values | {"id": event["id"]}))


def has_patient(event: Mapping[str, Any]) -> bool:
    """Say whether an event has something that redaction could empty."""
    return any(event[name] is not None for name in PATIENT_COLUMNS)


def seal_mac(key: bytes, head: SealHead, marks: Iterable[Mark]) -> str:
    """Return the keyed hash of a seal over its marks, which come in the order of event ids."""
    digest = hashlib.sha256()
    for mark in marks:
        digest.update(mark.sealed)
    values = vars(head) | {"marks": digest.hexdigest()}
    return _mac(key, b"seal", _canonical(values)).hex()


def redaction_mac(key: bytes, by: str, event_ids: list[int]) -> str:
    """Return the keyed hash by which a redaction is known to be one of a holder of the key."""
    return _mac(key, b"redaction", _canonical({"by": by, "events": event_ids})).hex()


def is_same(one: bytes, other: bytes) -> bool:
    """Compare two hashes in a time that says nothing of where they differ."""
    return hmac.compare_digest(one, other)


def _mac(key: bytes, kind: bytes, data: bytes) -> bytes:
    return hmac.digest(key, kind + b"\0" + data, "sha256")


def _canonical(values: Mapping[str, Any]) -> bytes:
    return json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=_text
    ).encode()


def _text(value: object) -> str:
    """Write a time, the one thing of an event that JSON has no word for."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds")
    raise TypeError(type(value).__name__)
