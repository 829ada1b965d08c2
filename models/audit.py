"""AuditEvent: what happened, append-only.

`details` is free of patient data; what identifies a patient stands in `patient`, so that it can be
redacted by law without touching the event.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Index, Integer, String, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from models.base import Base, Timestamp, enum_column, utc_now

_PEER_LENGTH: Final = 64
PATIENT_ID_LENGTH: Final = 64


class AuditAction(StrEnum):
    """What an event is about (vocabulary after PS3.15 A.5.3)."""

    CONNECTION_REFUSED = "connection_refused"  # by its address, or in the TLS handshake
    ASSOCIATION_ACCEPTED = "association_accepted"
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
    STUDY_CLAIMED = "study_claimed"
    STUDY_RELEASED = "study_released"  # by its reader, or by an operator: the outcome says which
    STUDY_READ = "study_read"
    READING_REOPENED = "reading_reopened"  # a newer report says something else, or by its reader
    FEEDBACK_GIVEN = "feedback_given"  # the outcome is the verdict
    FEEDBACK_EXPORTED = "feedback_exported"  # with the images that it is about
    WORKITEM_CANCEL_REQUESTED = "workitem_cancel_requested"  # canceled, or its performer asked
    WORKITEM_SUBSCRIPTION = "workitem_subscription"  # to one or all; the outcome says which
    WORKITEM_UPDATED = "workitem_updated"  # its performer says how far it is, or what it did
    WORKITEM_PUSHED = "workitem_pushed"  # to a manager, by N-CREATE
    PATIENT_DATA_READ = "patient_data_read"  # by a user; the outcome says what was read
    LOGIN = "login"  # the outcome says how
    LOGIN_FAILED = "login_failed"
    LOGOUT = "logout"
    ACCESS_DENIED = "access_denied"
    ACCOUNT_CHANGED = "account_changed"
    TOKEN_CREATED = "token_created"  # noqa: S105  the name of an event
    TOKEN_REVOKED = "token_revoked"  # noqa: S105  the same
    STORAGE_SCRUBBED = "storage_scrubbed"  # every stored file of a portion was read
    APPLICATION_STARTED = "application_started"  # a role of the node: the outcome says which
    APPLICATION_STOPPED = "application_stopped"  # in order
    CONFIGURATION_CHANGED = "configuration_changed"  # found when a role starts
    AUDIT_READ = "audit_read"  # listed, on a page or by a command
    AUDIT_EXPORTED = "audit_exported"
    AUDIT_VERIFIED = "audit_verified"  # the outcome: sound or findings
    AUDIT_REDACTED = "audit_redacted"  # the patient payload of the events that it names is gone
    AUDIT_KEY_CHANGED = "audit_key_changed"  # seals are made with another key from now on
    AUDIT_ALARM = "audit_alarm"  # the anchor knows more seals than the database, or others


# Written out in index and query, so that the one serves the other.
WE_CALLED: Final = "calling_aet IS NULL"
RARE_ACTION: Final = "action <> 'instance_stored'"
RARE_OUTCOME: Final = "outcome <> 'stored'"


def _partial(name: str, column: str, condition: str) -> Index:
    where = text(condition)
    return Index(name, column, "at", "id", sqlite_where=where, postgresql_where=where)


class AuditEvent(Base):
    """One event. Rows are inserted, never changed.

    `actor` is the account, the API token or the operating system's user who did it; None: the node,
    or the AE in `calling_aet`. `model` is the network that was used, as `name version`.

    `patient_id` and `patient` are the only columns that redaction empties; the seal covers them
    apart from all others (`models.seal`).
    """

    __tablename__ = "audit_event"
    # Each filter of a listing has an index in its order. Those with a condition cost the event of a
    # received object nothing.
    __table_args__ = (
        Index("ix_audit_event_action_outcome", "action", "outcome"),  # the ledger counts by it
        Index("ix_audit_event_at_id", "at", "id"),
        Index("ix_audit_event_study_instance_uid_at_id", "study_instance_uid", "at", "id"),
        Index("ix_audit_event_patient_id_at_id", "patient_id", "at", "id"),
        Index("ix_audit_event_calling_aet_at_id", "calling_aet", "at", "id"),
        _partial("ix_audit_event_called_aet_at_id", "called_aet", WE_CALLED),
        _partial("ix_audit_event_action_at_id", "action", RARE_ACTION),
        _partial("ix_audit_event_outcome_at_id", "outcome", RARE_OUTCOME),
        _partial("ix_audit_event_actor_at_id", "actor", "actor IS NOT NULL"),
        _partial("ix_audit_event_model_at_id", "model", "model IS NOT NULL"),
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
    patient_id: Mapped[str | None] = mapped_column(String(PATIENT_ID_LENGTH))
    patient: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


def record(
    session: Session,
    action: AuditAction,
    outcome: str,
    *,
    peer: str | None = None,
    patient: Mapping[str, Any] | None = None,
    **values: object,
) -> None:
    """Append one event in the caller's transaction: it stands exactly when the act stands.

    `patient` is what identifies a patient; its `patient_id`, or `PatientID`, is what the event is
    found by. Texts are cut to their columns: a host name may have 253 characters, and PostgreSQL
    refuses more than the column has, the act with it.
    """
    session.add(
        AuditEvent(
            action=action,
            outcome=outcome,
            peer=peer[:_PEER_LENGTH] if peer else peer,
            patient=dict(patient) if patient else None,
            patient_id=patient_id_in(patient),
            **values,
        )
    )


def patient_id_in(patient: Mapping[str, Any] | None) -> str | None:
    """Return the PatientID of a payload."""
    named = (patient or {}).get("patient_id") or (patient or {}).get("PatientID")
    return str(named)[:PATIENT_ID_LENGTH] if named else None
