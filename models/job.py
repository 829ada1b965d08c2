"""Job: a unit of work that a worker leases; the queue carries its id only."""

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, Primary, Timestamp, UtcDateTime, enum_column, utc_now
from models.imaging import Instance, Study
from models.states import JobKind, JobState

SHADOW, ROUTINE, STAT = -10, 0, 10


class Job(Base):
    """One analyse job per instance, selector and identity; one report job per study and revision.

    A shadow job is about an analysis, once per model selector: it has no instance, so nothing that
    becomes of it can move one. A compare job is about an instance in quarantine and only looks at
    files. `identity_revision` is that of the instance when the job was made; of a compare job that
    of the instance with which it is compared.
    """

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("instance_id", "model_selector", "identity_revision"),
        UniqueConstraint("study_id", "revision"),
        UniqueConstraint("analysis_id", "model_selector"),
        CheckConstraint(
            "(kind = 'analyse' AND instance_id IS NOT NULL AND model_selector IS NOT NULL"
            " AND study_id IS NULL AND revision IS NULL AND analysis_id IS NULL)"
            " OR (kind = 'report' AND study_id IS NOT NULL AND revision IS NOT NULL"
            " AND instance_id IS NULL AND model_selector IS NULL AND analysis_id IS NULL)"
            " OR (kind = 'shadow' AND analysis_id IS NOT NULL AND model_selector IS NOT NULL"
            " AND instance_id IS NULL AND study_id IS NULL AND revision IS NULL)"
            " OR (kind = 'compare' AND instance_id IS NOT NULL AND model_selector IS NULL"
            " AND study_id IS NULL AND revision IS NULL AND analysis_id IS NULL)",
            name="subject",
        ),
        Index("ix_job_state_published_at", "state", "published_at"),
        Index("ix_job_state_lease_until", "state", "lease_until"),
    )

    id: Mapped[Primary]
    kind: Mapped[JobKind] = mapped_column(enum_column(JobKind))
    state: Mapped[JobState] = mapped_column(enum_column(JobState), default=JobState.PENDING)
    priority: Mapped[int] = mapped_column(default=ROUTINE)
    instance_id: Mapped[int | None] = mapped_column(ForeignKey("instance.id"))
    model_selector: Mapped[str | None] = mapped_column(String(64))
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int | None]
    analysis_id: Mapped[int | None] = mapped_column(ForeignKey("analysis.id"))
    identity_revision: Mapped[int] = mapped_column(default=0, server_default="0")
    attempts: Mapped[int] = mapped_column(default=0)
    lease_owner: Mapped[str | None] = mapped_column(String(120))
    lease_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    not_before: Mapped[Timestamp] = mapped_column(default=utc_now)
    published_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    error: Mapped[str | None] = mapped_column(String(400))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    instance: Mapped[Instance | None] = relationship()
    study: Mapped[Study | None] = relationship()
