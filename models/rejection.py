"""Rejection notes (IHE RAD TF-3 4.66): what a sender took back, and what that took back of ours."""

from datetime import datetime
from typing import Final

from sqlalchemy import ColumnElement, ForeignKey, Index, String, select
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column, relationship

from models.audit import AuditAction, record
from models.base import Base, Primary, Timestamp, Uid, UtcDateTime, utc_now
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.reasons import Reason
from models.result import Artifact
from models.states import MESSAGES, DeliveryState, InstanceState

KEY_OBJECT: Final = "1.2.840.10008.5.1.4.1.1.88.59"  # Key Object Selection Document Storage
_MAY_BE_THERE = (DeliveryState.SENDING, DeliveryState.SENT, DeliveryState.COMMITTED)
_AFTER_AN_ATTEMPT = (DeliveryState.DUE, DeliveryState.DEAD, DeliveryState.WITHDRAWN)


class KeyObject(Base):
    """A received Key Object Selection Document that is to be read, or was at `read_at`.

    `reason` is None where its title makes it no rejection note, or it could not be read.
    """

    __tablename__ = "key_object"
    __table_args__ = (
        Index("ix_key_object_read_at", "read_at"),
        Index("ix_key_object_study_id", "study_id"),
    )

    id: Mapped[Primary]
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"), unique=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    reason: Mapped[str | None] = mapped_column(String(40))
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    instance: Mapped[Instance] = relationship()
    study: Mapped[Study] = relationship()


class RejectedReference(Base):
    """One object that a rejection note names. It may arrive after the note."""

    __tablename__ = "rejected_reference"
    __table_args__ = (Index("ix_rejected_reference_sop_instance_uid", "sop_instance_uid"),)

    key_object_id: Mapped[int] = mapped_column(ForeignKey("key_object.id"), primary_key=True)
    sop_instance_uid: Mapped[Uid] = mapped_column(primary_key=True)


class WithdrawnArtifact(Base):
    """An object of ours that speaks of a withdrawn or replaced image: it is not sent any more.

    `reason` says why the image was withdrawn; `updated`: it was corrected or replaced, so a newer
    report replaces what was made of it. `note_id` is our rejection note that names the object; None
    while there is none, and for good where no receiver can have it or a newer report replaces it.
    """

    __tablename__ = "withdrawn_artifact"
    __table_args__ = (
        Index("ix_withdrawn_artifact_study_id", "study_id"),
        Index("ix_withdrawn_artifact_note_id", "note_id"),
    )

    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"), primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    reason: Mapped[str] = mapped_column(String(40))
    note_id: Mapped[int | None] = mapped_column(ForeignKey("artifact.id"))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)

    artifact: Mapped[Artifact] = relationship(foreign_keys=[artifact_id])


def register_arrival(session: Session, study: Study, instance: Instance) -> None:
    """Have a new instance read if it is a key object; audit it if a note withdrew it before."""
    if instance.state is InstanceState.WITHDRAWN:
        record_withdrawal(session, study, instance, {"was": None})
    elif instance.reason == Reason.SOP_CLASS.value and instance.sop_class_uid == KEY_OBJECT:
        session.add(KeyObject(instance=instance, study=study))


def record_withdrawal(
    session: Session, study: Study, instance: Instance, details: dict[str, object]
) -> None:
    """Write the audit event of one withdrawn instance; its outcome is the reason."""
    record(
        session,
        AuditAction.INSTANCE_WITHDRAWN,
        str(instance.reason),
        study_instance_uid=study.study_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        details=details,
    )


def rejected_before(session: Session, study_id: int, sop_instance_uid: str) -> Reason | None:
    """Return why an object of a study is rejected by a note that came before it, if any did.

    Not by one about expired retention: who sends the object again has lawfully got it back.
    """
    query = (
        select(KeyObject.reason)
        .join(RejectedReference, RejectedReference.key_object_id == KeyObject.id)
        .where(
            RejectedReference.sop_instance_uid == sop_instance_uid,
            KeyObject.study_id == study_id,
            KeyObject.reason.is_not(None),
            KeyObject.reason != Reason.REJECTED_RETENTION.value,
        )
        .order_by(KeyObject.id)
        .limit(1)
    )
    found = session.scalar(query)
    return None if found is None else Reason(found)


def _may_be_there() -> ColumnElement[bool]:
    """Return the condition that a receiver has the object, or had it sent without an answer."""
    return Delivery.state.in_(_MAY_BE_THERE) | (
        Delivery.state.in_(_AFTER_AN_ATTEMPT) & (Delivery.attempts > 0)
    )


def untold(session: Session, study_id: int, *, with_reports: bool) -> list[WithdrawnArtifact]:
    """Return what receivers may have of a study's withdrawn objects and no note of ours names yet.

    `with_reports`: reports count too, because no newer one replaces them.
    """
    query = (
        select(WithdrawnArtifact)
        .join(Artifact, WithdrawnArtifact.artifact_id == Artifact.id)
        .where(
            WithdrawnArtifact.study_id == study_id,
            WithdrawnArtifact.note_id.is_(None),
            WithdrawnArtifact.reason != Reason.UPDATED.value,
            Artifact.sop_instance_uid.is_not(None),  # a note names no message
            WithdrawnArtifact.artifact_id.in_(select(Delivery.artifact_id).where(_may_be_there())),
        )
        .order_by(WithdrawnArtifact.artifact_id)
    )
    if not with_reports:
        query = query.where(Artifact.study_id.is_(None))
    return list(session.scalars(query))


def has_untold_message(session: Session, study_id: int) -> bool:
    """Say whether a receiver may have a message of a study that stands no more, and the last word.

    Its images were withdrawn or replaced since, and no newer message says so.
    """
    newer = aliased(Artifact)
    stands = (
        select(newer.id)
        .where(
            newer.study_id == Artifact.study_id,
            newer.kind == Artifact.kind,
            newer.revision > Artifact.revision,
            newer.id.not_in(select(WithdrawnArtifact.artifact_id)),
        )
        .correlate(Artifact)
    )
    query = (
        select(Artifact.id)
        .join(WithdrawnArtifact, WithdrawnArtifact.artifact_id == Artifact.id)
        .where(
            Artifact.study_id == study_id,
            Artifact.kind.in_(MESSAGES),
            Artifact.id.in_(select(Delivery.artifact_id).where(_may_be_there())),
            ~stands.exists(),
        )
        .limit(1)
    )
    return session.scalar(query) is not None


def receivers_of_note(session: Session, note_id: int) -> set[int]:
    """Return the ids of the destinations that may have an object that this note of ours names."""
    named = select(WithdrawnArtifact.artifact_id).where(WithdrawnArtifact.note_id == note_id)
    query = select(Delivery.destination_id).where(Delivery.artifact_id.in_(named), _may_be_there())
    return set(session.scalars(query))
