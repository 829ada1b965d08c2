"""AuditEvent: what happened, append-only.

`details` is free of patient data; what identifies a patient stands in `patient`, so that it can be
redacted by law without touching the event.
"""

from enum import StrEnum
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Index, Integer, String
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, Timestamp, enum_column, utc_now

_PEER_LENGTH: Final = 64


class AuditAction(StrEnum):
    """What an event is about (vocabulary after PS3.15 A.5.3)."""

    CONNECTION_REFUSED = "connection_refused"  # by its address, or in the TLS handshake
    ASSOCIATION_REJECTED = "association_rejected"
    INSTANCE_STORED = "instance_stored"
    INSTANCE_REFUSED = "instance_refused"
    INSTANCE_RECOVERED = "instance_recovered"
    INSTANCE_ANALYSED = "instance_analysed"
    SHADOW_ANALYSED = "shadow_analysed"
    REPORT_STORED = "report_stored"
    REPORT_DUE_AGAIN = "report_due_again"  # by an operator, after it was given up
    LEDGER_REPAIRED = "ledger_repaired"  # by an operator: one row, due again; the outcome says why
    ARTIFACT_LEFT_OUT = "artifact_left_out"  # its making broke; the outcome says which kind
    DELIVERIES_PLANNED = "deliveries_planned"
    ARTIFACT_SENT = "artifact_sent"
    DELIVERIES_DUE_AGAIN = "deliveries_due_again"  # by an operator, after they were given up
    DESTINATION_CIRCUIT = "destination_circuit"  # it cannot be reached any more, or can again
    REJECTION_NOTE = "rejection_note"  # of a sender, read
    INSTANCE_WITHDRAWN = "instance_withdrawn"
    REJECTION_NOTE_STORED = "rejection_note_stored"  # ours, made
    INSTANCE_COMPARED = "instance_compared"  # update, conflict after all, or outdated
    QUARANTINE_ENDED = "quarantine_ended"  # released, corrected, rejected; or identity_matches
    STUDY_REPLAYED = "study_replayed"  # by an operator: analysed again
    PATIENT_MERGED = "patient_merged"
    COMMITMENT_REQUESTED = "commitment_requested"  # by us, of a receiver
    ARTIFACT_COMMITTED = "artifact_committed"  # or not: the outcome says which
    COMMITMENT_ASKED = "commitment_asked"  # of us, by a sender
    COMMITMENT_REPORTED = "commitment_reported"  # our answer to that
    QUERY = "query"  # C-FIND
    BEGIN_TRANSFERRING = "begin_transferring"  # C-MOVE or C-GET, one event per study
    INSTANCES_TRANSFERRED = "instances_transferred"
    INSTANCE_PURGED = "instance_purged"  # by retention; the outcome says why: age or floor
    INSTANCE_RESTORED = "instance_restored"  # its bytes came again: were purged, missing or damaged
    ARTIFACT_PURGED = "artifact_purged"
    PATIENT_DATA_READ = "patient_data_read"  # by a user; the outcome says what was read
    LOGIN = "login"  # the outcome says how
    LOGIN_FAILED = "login_failed"
    LOGOUT = "logout"
    ACCESS_DENIED = "access_denied"
    ACCOUNT_CHANGED = "account_changed"
    TOKEN_CREATED = "token_created"  # noqa: S105  the name of an event
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  the same
    STORAGE_SCRUBBED = "storage_scrubbed"  # every stored file of a portion was read


class AuditEvent(Base):
    """One event. Rows are inserted, never changed.

    `actor` is the account, the API token or the operating system's user who did it; None: the node,
    or the AE in `calling_aet`. `model` is the network that was used, as `name version`.
    """

    __tablename__ = "audit_event"
    __table_args__ = (
        Index("ix_audit_event_action_outcome", "action", "outcome"),
        Index("ix_audit_event_at", "at"),
        Index("ix_audit_event_study_instance_uid", "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    at: Mapped[Timestamp] = mapped_column(default=utc_now)
    action: Mapped[AuditAction] = mapped_column(enum_column(AuditAction))
    outcome: Mapped[str] = mapped_column(String(40))
    calling_aet: Mapped[str | None] = mapped_column(String(16))
    called_aet: Mapped[str | None] = mapped_column(String(16))
    peer: Mapped[str | None] = mapped_column(String(_PEER_LENGTH))
    study_instance_uid: Mapped[str | None] = mapped_column(String(64))
    sop_instance_uid: Mapped[str | None] = mapped_column(String(64))
    status: Mapped[int | None]
    actor: Mapped[str | None] = mapped_column(String(64))
    model: Mapped[str | None] = mapped_column(String(129))
    details: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    patient: Mapped[dict[str, Any] | None] = mapped_column(JSON)


def record(
    session: Session,
    action: AuditAction,
    outcome: str,
    *,
    peer: str | None = None,
    **values: object,
) -> None:
    """Append one event in the caller's transaction: it stands exactly when the act stands.

    `peer` is cut to its column: a host name may have 253 characters, and PostgreSQL refuses more
    than the column has, the act with it.
    """
    cut = peer[:_PEER_LENGTH] if peer else peer
    session.add(AuditEvent(action=action, outcome=outcome, peer=cut, **values))
