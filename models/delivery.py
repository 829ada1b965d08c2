"""Destination and Delivery: where results go, and how far each one is."""

from datetime import datetime

from sqlalchemy import ColumnElement, ForeignKey, Index, String, UniqueConstraint, and_, select
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import AETitle, Base, Primary, Timestamp, UtcDateTime, enum_column, utc_now
from models.result import Artifact
from models.states import CircuitState, DeliveryState


class Destination(Base):
    """A receiver of results, as the settings name it. Never deleted, only disabled.

    `state` is its circuit breaker: `failures` in a row to reach it, the last of them in `problem`;
    nothing is tried before `retry_at`. `opened_at` says since when it is away.
    """

    __tablename__ = "destination"

    id: Mapped[Primary]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    ae_title: Mapped[AETitle]
    host: Mapped[str] = mapped_column(String(255))
    port: Mapped[int]
    enabled: Mapped[bool] = mapped_column(default=True)
    state: Mapped[CircuitState] = mapped_column(
        "circuit",
        enum_column(CircuitState),
        default=CircuitState.CLOSED,
        server_default=CircuitState.CLOSED.value,
    )
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    opened_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    problem: Mapped[str | None] = mapped_column(String(400))


class Delivery(Base):
    """One artifact on its way to one destination; the pair can exist only once.

    `commitment_due_at` says when to ask the destination (again) whether it is committed; None: not
    asked, because it was sent while the destination's `commitment` was off, or it is settled.
    """

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("artifact_id", "destination_id"),
        Index("ix_delivery_state_next_attempt_at", "state", "next_attempt_at"),
        Index("ix_delivery_commitment_due_at", "commitment_due_at"),
        Index("ix_delivery_created_at", "created_at"),
        Index("ix_delivery_destination_id", "destination_id", "id"),
    )

    id: Mapped[Primary]
    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"))
    destination_id: Mapped[int] = mapped_column(ForeignKey("destination.id"))
    state: Mapped[DeliveryState] = mapped_column(
        enum_column(DeliveryState), default=DeliveryState.DUE
    )
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(String(400))
    sent_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    commitment_due_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    commitment_attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)

    artifact: Mapped[Artifact] = relationship()
    destination: Mapped[Destination] = relationship()


def waits_for_commitment(destinations: frozenset[str]) -> ColumnElement[bool]:
    """Return the condition that a delivery was sent and is not yet committed.

    `destinations` are the names of those whose commitment counts: a setting that is switched off
    lets go of what waited.
    """
    return and_(
        Delivery.state == DeliveryState.SENT,
        Delivery.commitment_due_at.is_not(None),
        Delivery.destination_id.in_(
            select(Destination.id).where(Destination.name.in_(destinations))
        ),
    )
