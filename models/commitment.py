"""Storage Commitment (PS3.4 Annex J): what we asked receivers, and what senders asked us."""

from datetime import datetime

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import (
    AETitle,
    Base,
    Primary,
    Timestamp,
    Uid,
    UtcDateTime,
    enum_column,
    utc_now,
)
from models.delivery import Delivery
from models.states import CommitmentState, EventReportState


class CommitmentRequest(Base):
    """One question of ours to one destination, about some deliveries; written before it is asked.

    Kept for `delivery.commitment_keep_days`: an answer may come days later, and still counts.
    """

    __tablename__ = "commitment_request"
    __table_args__ = (
        Index("ix_commitment_request_destination_id_state", "destination_id", "state"),
    )

    id: Mapped[Primary]
    transaction_uid: Mapped[Uid] = mapped_column(unique=True)
    destination_id: Mapped[int] = mapped_column(ForeignKey("destination.id"))
    state: Mapped[CommitmentState] = mapped_column(
        enum_column(CommitmentState), default=CommitmentState.REQUESTED
    )
    requested_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    expires_at: Mapped[Timestamp]
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    status: Mapped[int | None]  # of the N-ACTION, when it failed
    error: Mapped[str | None] = mapped_column(String(400))

    items: Mapped[list["CommitmentItem"]] = relationship()


class CommitmentItem(Base):
    """One delivery in one question. `committed` is None until the receiver has said it."""

    __tablename__ = "commitment_item"
    __table_args__ = (Index("ix_commitment_item_delivery_id", "delivery_id"),)

    request_id: Mapped[int] = mapped_column(ForeignKey("commitment_request.id"), primary_key=True)
    delivery_id: Mapped[int] = mapped_column(ForeignKey("delivery.id"), primary_key=True)
    committed: Mapped[bool | None]
    failure_reason: Mapped[int | None]  # PS3.3 C.14.1.1

    delivery: Mapped[Delivery] = relationship()


class CommitmentOrder(Base):
    """One question of a sender to us, and how far its answer is.

    `instances` are pairs of SOP Class UID and SOP Instance UID. `is_duplicate` says that its
    Transaction UID was in use for another question of the same sender. Kept as long as ours, after
    its answer.
    """

    __tablename__ = "commitment_order"
    __table_args__ = (
        Index("ix_commitment_order_transaction_uid", "transaction_uid"),
        Index("ix_commitment_order_state_next_attempt_at", "state", "next_attempt_at"),
    )

    id: Mapped[Primary]
    transaction_uid: Mapped[Uid]
    calling_aet: Mapped[AETitle]
    instances: Mapped[list[list[str]]] = mapped_column(JSON)
    is_duplicate: Mapped[bool] = mapped_column(default=False)
    state: Mapped[EventReportState] = mapped_column(
        enum_column(EventReportState), default=EventReportState.DUE
    )
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    error: Mapped[str | None] = mapped_column(String(400))
    asked_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    reported_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
