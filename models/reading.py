"""What people do with results: who claimed and read a study, and what they think of the figure."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.account import Account
from models.base import Base, Primary, Timestamp, Uid, UtcDateTime, enum_column, utc_now
from models.imaging import Study
from models.result import Analysis
from models.states import Verdict


class Reading(Base):
    """How far the reading of a study is; the state itself is `Study.reading_state`.

    A study that nobody has touched has no row. `revision` is the report that was claimed or read: a
    newer one opens the reading again. `workitem_uid` and `transaction_uid` are those of the Unified
    Procedure Step (PS3.4 CC); `claimed_by` and `read_by` are account names or, over DIMSE, AE
    titles.
    """

    __tablename__ = "reading"

    id: Mapped[Primary]
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), unique=True)
    workitem_uid: Mapped[Uid | None] = mapped_column(unique=True)
    transaction_uid: Mapped[Uid | None]
    revision: Mapped[int] = mapped_column(default=0)
    claimed_by: Mapped[str | None] = mapped_column(String(64))
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    read_by: Mapped[str | None] = mapped_column(String(64))
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    study: Mapped[Study] = relationship()


class Feedback(Base):
    """What a radiologist says of the figure of one image. Rows are inserted, never changed.

    `corrected_percent` is the opacity percentage as the reader sees it, with verdict `correct`.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index("ix_feedback_study_id", "study_id"),
        Index("ix_feedback_created_at", "created_at"),
    )

    id: Mapped[Primary]
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    analysis_id: Mapped[int | None] = mapped_column(ForeignKey("analysis.id"))
    revision: Mapped[int]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    verdict: Mapped[Verdict] = mapped_column(enum_column(Verdict))
    corrected_percent: Mapped[float | None]
    comment: Mapped[str | None] = mapped_column(String(2000))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)

    study: Mapped[Study] = relationship()
    analysis: Mapped[Analysis | None] = relationship()
    account: Mapped[Account] = relationship()
