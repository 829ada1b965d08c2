"""Destination and Delivery: where results go, and how far each one is."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import AETitle, Base, Primary, Timestamp, UtcDateTime, enum_column, utc_now
from models.result import Artifact
from models.states import DeliveryState


class Destination(Base):
    """A receiver of results, as the settings name it. Never deleted, only disabled."""

    __tablename__ = "destination"

    id: Mapped[Primary]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    ae_title: Mapped[AETitle]
    host: Mapped[str] = mapped_column(String(255))
    port: Mapped[int]
    enabled: Mapped[bool] = mapped_column(default=True)


class Delivery(Base):
    """One artifact on its way to one destination; the pair can exist only once."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("artifact_id", "destination_id"),
        Index("ix_delivery_state_next_attempt_at", "state", "next_attempt_at"),
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
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)

    artifact: Mapped[Artifact] = relationship()
    destination: Mapped[Destination] = relationship()
