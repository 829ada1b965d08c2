"""What people do with results: who claimed and read a study, and what they think of the figure."""

from datetime import datetime

from sqlalchemy import ForeignKey, Index, String, select
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.account import Account
from models.audit import AuditAction, record
from models.base import (
    Base,
    Primary,
    Timestamp,
    UtcDateTime,
    advance,
    enum_column,
    utc_now,
)
from models.imaging import Study
from models.result import Analysis
from models.states import ReadingState, Verdict
from models.workitem import follow


class Reading(Base):
    """How far the reading of a study is; the state itself is `Study.reading_state`.

    A study that nobody has touched has no row. `revision`, `percent` and `severity` are those of
    the report that was there when the study was claimed or read; without a report 0, None, None.
    `claimed_by` and `read_by` are names of accounts or, over DIMSE, `AE:` and an AE title.
    `reopened_at` is when a newer report, or a reader, opened a reading again that had ended.
    """

    __tablename__ = "reading"
    __table_args__ = (
        Index("ix_reading_claimed_by", "claimed_by"),
        Index("ix_reading_read_by", "read_by"),
    )

    id: Mapped[Primary]
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"), unique=True)
    revision: Mapped[int] = mapped_column(default=0)
    percent: Mapped[float | None]
    severity: Mapped[str | None] = mapped_column(String(16))
    claimed_by: Mapped[str | None] = mapped_column(String(64))
    claimed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    read_by: Mapped[str | None] = mapped_column(String(64))
    read_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reopened_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    study: Mapped[Study] = relationship()

    @property
    def reader(self) -> str | None:
        """Who has the study, or has read it."""
        return self.read_by or self.claimed_by

    @property
    def since(self) -> datetime | None:
        """Since when."""
        return self.read_at or self.claimed_at


class Feedback(Base):
    """What a radiologist says of the figure of one image. Rows are inserted, never changed.

    `corrected_percent` is the opacity percentage as the reader sees it, with verdict `correct`.
    """

    __tablename__ = "feedback"
    __table_args__ = (
        Index("ix_feedback_study_id", "study_id"),
        Index("ix_feedback_analysis_id_account_id", "analysis_id", "account_id"),
        Index("ix_feedback_created_at", "created_at"),
    )

    id: Mapped[Primary]
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"))
    revision: Mapped[int]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    verdict: Mapped[Verdict] = mapped_column(enum_column(Verdict))
    corrected_percent: Mapped[float | None]
    comment: Mapped[str | None] = mapped_column(String(2000))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)

    study: Mapped[Study] = relationship()
    analysis: Mapped[Analysis] = relationship()
    account: Mapped[Account] = relationship()


def reading_of(session: Session, study: Study) -> Reading:
    """Return the row of a study, made when it has none. The study is locked by the caller."""
    reading = session.scalar(select(Reading).where(Reading.study_id == study.id))
    if reading is None:
        reading = Reading(study_id=study.id)
        session.add(reading)
    return reading


def open_reading(session: Session, study: Study, outcome: str, actor: str | None = None) -> bool:
    """Open a reading that was claimed or has ended; say whether it was.

    What the reader saw stays in the row. The study is locked by the caller.
    """
    was = study.reading_state
    if was is ReadingState.UNREAD:
        return False
    advance(session, study, ReadingState.UNREAD)
    follow(session, study)
    reading = reading_of(session, study)
    reader, reading.reopened_at = reading.reader, utc_now()
    reading.claimed_by = reading.claimed_at = reading.read_by = reading.read_at = None
    record(
        session,
        AuditAction.READING_REOPENED,
        outcome,
        actor=actor,
        study_instance_uid=study.study_instance_uid,
        details={"was": was.value, "reader": reader},
        patient={"patient_id": study.patient_id},
    )
    return True


def open_if_changed(session: Session, study: Study, revision: int) -> bool:
    """Open the reading of a study again whose new report gives another figure than was read.

    Called in the transaction that stores the report. With the figure that the reader saw, to a
    tenth of a percent, and the same band the reading stands, and counts for the new report too.
    """
    if study.reading_state is ReadingState.UNREAD:
        return False
    reading = reading_of(session, study)
    if reading.severity == study.severity and _shown(reading.percent) == _shown(
        study.opacity_percent
    ):
        reading.revision = revision
        return False
    return open_reading(session, study, "new_report")


def _shown(percent: float | None) -> float | None:
    return None if percent is None else round(percent, 1)
