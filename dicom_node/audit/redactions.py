"""Redaction by law: what identifies a patient goes out of the audit; events and seals stay.

Payload and PatientID of an event become NULL, and so does the salt of its mark, without which the
keyed hash of the payload says nothing even to a holder of the key. An event of its own names the
redacted ones and carries a keyed hash: `verify` accepts a missing payload for that alone.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, Text, cast, false, func, or_, select, text, update
from sqlalchemy.orm import Session

from dicom_node.audit.columns import events_by_id
from dicom_node.audit.keys import Keys, key_path, load_keys
from dicom_node.audit.macs import is_same, redaction_mac
from dicom_node.audit.seals import Sealer
from dicom_node.errors import OperatorError
from models.audit import RARE_ACTION, AuditAction, AuditEvent, record
from models.imaging import Study
from models.seal import AuditMark
from models.session import Database
from models.settings import Settings

_BLOCK: Final = 500  # events that one redaction names
_SEAL_SECONDS: Final = 60.0  # within which another sealer must have let us
_HAS_PAYLOAD: Final = or_(AuditEvent.patient.is_not(None), AuditEvent.patient_id.is_not(None))


@dataclass(frozen=True)
class Redaction:
    """Whose payload goes: that of a patient, or of events by their ids. Who does it, and why.

    `study_instance_uids` narrows it: patients of two sources may share a PatientID.
    """

    by: str
    why: str
    patient_id: str | None = None
    study_instance_uids: tuple[str, ...] = ()
    event_ids: tuple[int, ...] = ()


def events_to_redact(session: Session, wanted: Redaction) -> list[int]:
    """Return the events with a payload that are meant, in order.

    Of a patient: those that name it anywhere, and those of its studies that name no other.
    """
    found = set(session.scalars(select(AuditEvent.id).where(_is_meant(session, wanted))))
    if wanted.patient_id is not None:
        found |= _naming(session, wanted)
    return sorted(found)


def _is_meant(session: Session, wanted: Redaction) -> ColumnElement[bool]:
    by_id = AuditEvent.id.in_(wanted.event_ids) & _HAS_PAYLOAD if wanted.event_ids else false()
    if wanted.patient_id is None:
        return by_id
    of_patient = Study.patient_id == wanted.patient_id
    studies = session.scalars(select(Study.study_instance_uid).where(of_patient)).all()
    is_of_study = AuditEvent.study_instance_uid.in_(studies)
    is_unnamed = AuditEvent.patient_id.is_(None) & AuditEvent.patient.is_not(None)
    named = or_(AuditEvent.patient_id == wanted.patient_id, is_of_study & is_unnamed)
    return or_(by_id, named & _narrowed(wanted))


def _narrowed(wanted: Redaction) -> ColumnElement[bool]:
    if not wanted.study_instance_uids:
        return AuditEvent.id.is_not(None)
    return AuditEvent.study_instance_uid.in_(wanted.study_instance_uids)


def _naming(session: Session, wanted: Redaction) -> set[int]:
    """Return the events whose payload names the patient in another place than the first."""
    written = json.dumps(wanted.patient_id)[1:-1]
    holds = cast(AuditEvent.patient, Text).contains(written, autoescape=True)
    query = select(AuditEvent.id, AuditEvent.patient).where(text(RARE_ACTION), holds)
    rows = session.execute(query.where(_narrowed(wanted)).execution_options(yield_per=_BLOCK))
    return {event_id for event_id, patient in rows if _names(patient, wanted.patient_id or "")}


def _names(value: object, patient_id: str, *, is_prose: bool = False) -> bool:
    if isinstance(value, dict):
        pairs = value.items()
        return any(_names(each, patient_id, is_prose=key == "why") for key, each in pairs)
    if isinstance(value, list):
        return any(_names(each, patient_id) for each in value)
    return patient_id in value if is_prose and isinstance(value, str) else value == patient_id


def redact(database: Database, settings: Settings, wanted: Redaction) -> int:
    """Empty the payload of the events that are meant; return how many these were.

    They are sealed before. Interrupted and run again it does the rest. Raises AuditKeyError,
    OperatorError.
    """
    with database.read() as session:
        ids = events_to_redact(session, wanted)
    if not ids:
        return 0
    _seal(database, settings, ids)
    keys = load_keys(key_path(settings))
    for start in range(0, len(ids), _BLOCK):
        with database.write() as session:
            _empty(session, keys, wanted, ids[start : start + _BLOCK])
    return len(ids)


def _seal(database: Database, settings: Settings, ids: Sequence[int]) -> None:
    """Have every one of the events sealed: a mark that comes later would bring a salt again."""
    sealer, deadline = Sealer(settings, database), time.monotonic() + _SEAL_SECONDS
    while not _are_sealed(database, ids):
        if sealer.seal_batch():
            deadline = time.monotonic() + _SEAL_SECONDS
        elif time.monotonic() > deadline:
            msg = "events cannot be sealed, so nothing was redacted: see `dicom-node audit verify`"
            raise OperatorError(msg)
        else:
            time.sleep(0.1)  # another process seals just now


def _are_sealed(database: Database, ids: Sequence[int]) -> bool:
    with database.read() as session:
        marked = 0
        for start in range(0, len(ids), _BLOCK):
            of_block = AuditMark.event_id.in_(ids[start : start + _BLOCK])
            marked += session.scalar(select(func.count()).where(of_block)) or 0
    return marked == len(ids)


def _empty(session: Session, keys: Keys, wanted: Redaction, ids: list[int]) -> None:
    session.execute(
        update(AuditEvent).where(AuditEvent.id.in_(ids)).values(patient=None, patient_id=None)
    )
    session.execute(update(AuditMark).where(AuditMark.event_id.in_(ids)).values(patient_salt=None))
    mac = redaction_mac(keys[keys.newest], wanted.by, ids)
    record(
        session,
        AuditAction.AUDIT_REDACTED,
        "redacted",
        actor=wanted.by[:64],
        details={"by": wanted.by, "events": ids, "key_id": keys.newest, "mac": mac},
        patient={"why": wanted.why},
    )


def redacted_events(session: Session, keys: Keys) -> set[int]:
    """Return the events that a holder of the key redacted; who else says so is not believed."""
    is_redaction = AuditEvent.action == AuditAction.AUDIT_REDACTED
    found: set[int] = set()
    for event_id in session.scalars(select(AuditEvent.id).where(is_redaction)).all():
        row = events_by_id(session, [event_id]).get(event_id)
        found.update(_proved(keys, row["details"]) if row is not None else ())
    return found


def _proved(keys: Keys, said: Any) -> Sequence[int]:  # noqa: ANN401  what stands in the row
    try:
        ids, key_id, mac = list(map(int, said["events"])), str(said["key_id"]), str(said["mac"])
        if key_id not in keys:
            return ()
        expected = redaction_mac(keys[key_id], str(said["by"]), ids)
        return ids if is_same(expected.encode(), mac.encode()) else ()
    except (TypeError, ValueError, KeyError):
        return ()
