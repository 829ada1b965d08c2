"""A sealed audit for tests, and what somebody with SQL does to it."""

import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select, text, update

from dicom_node.audit.anchor import anchor_path
from dicom_node.audit.columns import events_by_id
from dicom_node.audit.findings import Finding
from dicom_node.audit.keys import key_path, load_keys
from dicom_node.audit.macs import NOTHING_BEFORE, Mark, SealHead, event_mac, patient_mac, seal_mac
from dicom_node.audit.seals import Sealer
from dicom_node.audit.verify import Verification
from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.seal import AuditMark, AuditSeal
from models.session import Database
from models.settings import Settings, load_settings


@dataclass
class SealedAudit:
    """A database, its key and its anchor."""

    database: Database
    settings: Settings
    sealer: Sealer = field(init=False)

    def __post_init__(self) -> None:
        self.sealer = Sealer(self.settings, self.database)

    @classmethod
    def of(cls, database: Database, folder: Path) -> "SealedAudit":
        """Return one with its files in a folder."""
        return cls(database, load_settings(None, data_dir=folder / "data"))

    @property
    def anchor(self) -> Path:
        """The file of the anchor."""
        return anchor_path(self.settings)

    @property
    def key(self) -> Path:
        """The file of the key."""
        return key_path(self.settings)

    def add(self, number: int = 1, *, patient_id: str | None = "P1", **values: Any) -> None:
        """Write events, an hour old."""
        with self.database.write() as session:
            for _ in range(number):
                record(
                    session,
                    values.get("action", AuditAction.INSTANCE_STORED),
                    values.get("outcome", "stored"),
                    at=values.get("at", utc_now() - timedelta(hours=1)),
                    calling_aet="CR1",
                    study_instance_uid=values.get("study", "1.2.3"),
                    details={"size_bytes": 17, "data_set_sha256": "é" * 3},
                    patient={"patient_id": patient_id} if patient_id else None,
                )
                session.flush()

    def seal(self) -> int:
        """Seal one batch."""
        return self.sealer.seal_batch()

    def sealed(self, *numbers: int) -> None:
        """Write and seal batches of so many events."""
        for number in numbers:
            self.add(number)
            assert self.seal() == number

    def sql(self, statement: str, **values: Any) -> None:
        """Do something past the node."""
        with self.database.write() as session:
            session.execute(text(statement), values)

    def findings(self, *, anchor: bool = True) -> list[Finding]:
        """Verify."""
        with self.database.read() as session:
            keys = load_keys(self.key)
            return list(Verification(session, keys, self.anchor if anchor else None).findings())

    def found(self, **options: Any) -> list[tuple[str, int | None, int | None]]:
        """Verify; return kind, seal and event of each finding."""
        return [(it.kind.value, it.seal, it.event_id) for it in self.findings(**options)]

    def hash_again(self) -> None:
        """Make all marks and seals anew, by the code of the node, with a key of one's own."""
        key = secrets.token_bytes(32)
        previous = NOTHING_BEFORE
        with self.database.write() as session:
            for seal in session.scalars(select(AuditSeal).order_by(AuditSeal.number)).all():
                query = select(AuditMark).where(AuditMark.seal_number == seal.number)
                marks = []
                for mark in session.scalars(query.order_by(AuditMark.event_id)).all():
                    row = events_by_id(session, [mark.event_id])[mark.event_id]
                    assert row is not None
                    mark.event_mac = event_mac(key, row)
                    mark.patient_mac = patient_mac(key, mark.patient_salt or b"", row)
                    marks.append(Mark(mark.event_id, mark.event_mac, mark.patient_mac))
                head = SealHead(
                    *(seal.number, seal.first_event_id, seal.last_event_id, seal.events),
                    *(seal.sealed_at, seal.key_id, previous),
                )
                seal.previous_mac, seal.mac = previous, seal_mac(key, head, marks)
                previous = seal.mac


def events_in(database: Database) -> list[AuditEvent]:
    """Return all events by id."""
    with database.read() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.id)))


def backdated(database: Database, event_id: int) -> None:
    """Insert an event past the node, with an id and a time of one's own."""
    with database.write() as session:
        old = utc_now() - timedelta(hours=2)
        values = {"id": event_id, "at": old, "action": AuditAction.QUERY, "outcome": "success"}
        session.execute(insert(AuditEvent).values(**values, details={}))


def set_time_of_seals(database: Database, age: timedelta) -> None:
    """Make every seal older, as far as a test that looks at their age needs it."""
    with database.write() as session:
        session.execute(update(AuditSeal).values(sealed_at=utc_now() - age))
