"""Seals over the audit: what makes a changed, deleted or added event show (`dicom_node.audit`).

A batch of events gets a mark each and one seal over the marks and the seal before. All are made
with a key that the database does not have.
"""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Sha256, Timestamp, UtcDateTime, utc_now

_EVENT_ID = BigInteger().with_variant(Integer, "sqlite")


class AuditSeal(Base):
    """One sealed batch. Rows are inserted, never changed.

    `number` counts from 1 without a gap: two sealers at once would both insert the same, and one of
    them fails. `mac` is keyed and covers this row and its marks; `previous_mac` is that of the seal
    before, 64 zeros for the first. A batch is in the order of ids, but need not be contiguous.
    """

    __tablename__ = "audit_seal"
    __table_args__ = (Index("ix_audit_seal_sealed_at", "sealed_at"),)

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    first_event_id: Mapped[int] = mapped_column(_EVENT_ID)
    last_event_id: Mapped[int] = mapped_column(_EVENT_ID)
    events: Mapped[int]
    sealed_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    key_id: Mapped[str] = mapped_column(String(16))
    previous_mac: Mapped[Sha256]
    mac: Mapped[Sha256]


class AuditMark(Base):
    """What is sealed of one event: a keyed hash of it, and another one of its patient payload.

    `patient_mac` is salted, so that it says nothing about a redacted payload: redaction deletes
    `patient_salt`, the only column that ever changes and the only one that the seal leaves out.
    Both are None where the event had no payload.
    """

    __tablename__ = "audit_mark"
    __table_args__ = (Index("ix_audit_mark_seal_number_event_id", "seal_number", "event_id"),)

    event_id: Mapped[int] = mapped_column(_EVENT_ID, primary_key=True, autoincrement=False)
    seal_number: Mapped[int] = mapped_column(ForeignKey("audit_seal.number"))
    event_mac: Mapped[bytes] = mapped_column(LargeBinary(32))
    patient_mac: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    patient_salt: Mapped[bytes | None] = mapped_column(LargeBinary(16))


class AuditForwarding(Base):
    """How far the audit repository has the events: those below this seal, at least once.

    Who sends has the lease, so that of several dispatchers one does.
    """

    __tablename__ = "audit_forwarding"

    repository: Mapped[str] = mapped_column(String(270), primary_key=True)  # host:port
    seal_number: Mapped[int] = mapped_column(default=0)
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failing_since: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(String(400))
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
