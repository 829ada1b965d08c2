"""Study, Series, Instance: what was received, by the names of the standard."""

from datetime import datetime
from typing import Final

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import (
    AETitle,
    Base,
    Key,
    Primary,
    Sha256,
    Timestamp,
    Uid,
    UtcDateTime,
    enum_column,
    utc_now,
)
from models.states import InstanceState, ReadingState, StudyState

# A row in one of these leaves its SOP Instance UID to another row.
SET_ASIDE: Final = (InstanceState.QUARANTINED, InstanceState.SUPERSEDED)
# Written out in index and query, so that the one serves the other.
IN_QUARANTINE: Final = "instance.state = 'quarantined'"
# Written out in index and query, as WITHOUT_REPORT is.
IS_UNUSUAL: Final = "state <> 'analysed'"
# Radiographs: most series are, and an index of the others costs them nothing.
USUAL_MODALITIES: Final = ("CR", "DX")
# Behind every figure: those are minus the percentage.
WITHOUT_FIGURE: Final = 1.0
# Written out in index and query, so that the one serves the other.
WITHOUT_REPORT: Final = "state IN ('open', 'settled') AND reading_order > 0"


class Study(Base):
    """One imaging study and how far it is.

    Patient attributes are those of the first instance that was accepted; a quarantined instance
    never sets them. `revision` is the number of the newest report (0: none yet).

    `reading_order` ascends in the worklist: minus the percentage, or WITHOUT_FIGURE. `exam_at` is
    when the study was made, by its Study Date and Study Time; None where it does not say.
    `model_version_id` is the network that gave the figure (`models.result.ModelVersion`).
    """

    __tablename__ = "study"
    __table_args__ = (
        Index("ix_study_state_last_received_at", "state", "last_received_at"),
        Index("ix_study_patient_id", "patient_id"),
        Index("ix_study_accession_number", "accession_number"),
        Index("ix_study_created_at", "created_at"),
        # Orders of the list of studies, with what is related to the time: a filter by that would
        # have to pass most rows of the table.
        Index(
            "ix_study_study_date",
            *("study_date", "id", "created_at", "model_version_id", "reading_state"),
        ),
        Index("ix_study_model_version_id", "model_version_id", "created_at"),
        # The order of the worklist, with what its filters ask of every row on the way.
        Index("ix_study_worklist", "reading_state", "reading_order", "id", "severity", "state"),
        Index(
            "ix_study_reading_order",
            *("reading_order", "id", "state", "model_version_id", "created_at"),
        ),
        *(
            Index(f"ix_study_{each}_reading_order", each, "reading_order", "id", "reading_state")
            for each in ("severity", "calling_aet")
        ),
        Index(
            "ix_study_without_report",
            *("reading_state", "last_received_at", "id"),
            sqlite_where=text(WITHOUT_REPORT),
            postgresql_where=text(WITHOUT_REPORT),
        ),
    )

    id: Mapped[Primary]
    study_instance_uid: Mapped[Uid] = mapped_column(unique=True)
    state: Mapped[StudyState] = mapped_column(enum_column(StudyState), default=StudyState.OPEN)
    patient_id: Mapped[str | None] = mapped_column(String(64))
    issuer_of_patient_id: Mapped[str | None] = mapped_column(String(64))
    accession_number: Mapped[str | None] = mapped_column(String(64))
    study_date: Mapped[str | None] = mapped_column(String(8))
    exam_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    calling_aet: Mapped[AETitle]
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    last_received_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    revision: Mapped[int] = mapped_column(default=0)
    opacity_percent: Mapped[float | None]
    severity: Mapped[str | None] = mapped_column(String(16))
    model_version_id: Mapped[int | None]
    reading_state: Mapped[ReadingState] = mapped_column(
        enum_column(ReadingState),
        default=ReadingState.UNREAD,
        server_default=ReadingState.UNREAD.value,
    )
    reading_order: Mapped[float] = mapped_column(
        default=WITHOUT_FIGURE, server_default=str(WITHOUT_FIGURE)
    )

    series: Mapped[list["Series"]] = relationship(back_populates="study")


class Series(Base):
    """One series of a study."""

    __tablename__ = "series"
    __table_args__ = (
        UniqueConstraint("study_id", "series_instance_uid"),
        Index(
            "ix_series_modality",
            *("modality", "study_id"),
            sqlite_where=text(f"modality NOT IN {USUAL_MODALITIES}"),
            postgresql_where=text(f"modality NOT IN {USUAL_MODALITIES}"),
        ),
    )

    id: Mapped[Primary]
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    series_instance_uid: Mapped[Uid]
    modality: Mapped[str | None] = mapped_column(String(16))

    study: Mapped[Study] = relationship(back_populates="series")
    instances: Mapped[list["Instance"]] = relationship(back_populates="series")


class Instance(Base):
    """One received object: bytes under `storage_key`, identity, and what became of it.

    The same bytes can have one row only, and of all rows with one SOP Instance UID only one can be
    live, which is neither quarantined nor superseded: both by constraint, so that a race cannot
    make a second. `supersedes_id` is the row whose place a live one took.

    `patient_id` and `issuer_of_patient_id` are those under which results are made. `correction`
    holds what an operator put over the file's attributes, by keyword of the standard; an empty
    text takes an attribute away. `identity_revision` counts the corrections.

    `pixel_sha256` and `header_sha256` say what a worker found in the file when it had to be
    compared with another; the header is the corrected one, that of the file is in
    `file_header_sha256`. `decided_at` is when a `uid_conflict` was told from an update.

    `purged_at`: retention took the bytes, the row stays; the elements in front of the pixels are
    kept beside (`models.storage.Store.path_of`). `stored_at` is when the bytes came that are here
    now, where they came again later than at `received_at`. `promised_at`: a sender was told that
    this node keeps it (Storage Commitment). `damaged_at`, `scrubbed_at`: what the last scrub found.
    """

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid", "data_set_sha256"),
        Index(
            "uq_instance_live_sop_instance_uid",
            "sop_instance_uid",
            unique=True,
            sqlite_where=text("state NOT IN ('quarantined', 'superseded')"),
            postgresql_where=text("state NOT IN ('quarantined', 'superseded')"),
        ),
        Index("ix_instance_series_id_state", "series_id", "state"),
        Index("ix_instance_received_at", "received_at"),
        Index(
            "ix_instance_quarantined",
            "id",
            sqlite_where=text("state = 'quarantined'"),
            postgresql_where=text("state = 'quarantined'"),
        ),
        Index(
            "ix_instance_reason",
            *("reason", "id", "decided_at"),
            sqlite_where=text("reason IS NOT NULL"),
            postgresql_where=text("reason IS NOT NULL"),
        ),
        Index("ix_instance_patient_id", "patient_id"),
        Index("ix_instance_calling_aet", "calling_aet", "id"),
        Index(
            "ix_instance_state",
            *("state", "id"),
            sqlite_where=text(IS_UNUSUAL),
            postgresql_where=text(IS_UNUSUAL),
        ),
        Index(
            "ix_instance_kept_received_at",
            "received_at",
            sqlite_where=text("purged_at IS NULL"),
            postgresql_where=text("purged_at IS NULL"),
        ),
    )

    id: Mapped[Primary]
    series_id: Mapped[int] = mapped_column(ForeignKey("series.id"))
    sop_instance_uid: Mapped[Uid]
    sop_class_uid: Mapped[Uid]
    transfer_syntax_uid: Mapped[Uid]
    data_set_sha256: Mapped[Sha256]
    size_bytes: Mapped[int]
    storage_key: Mapped[Key] = mapped_column(unique=True)
    state: Mapped[InstanceState] = mapped_column(
        enum_column(InstanceState), default=InstanceState.RECEIVED
    )
    reason: Mapped[str | None] = mapped_column(String(40))
    detail: Mapped[str | None] = mapped_column(String(400))
    patient_id: Mapped[str | None] = mapped_column(String(64))
    issuer_of_patient_id: Mapped[str | None] = mapped_column(String(64))
    presentation_intent: Mapped[str | None] = mapped_column(String(16))
    calling_aet: Mapped[AETitle]
    called_aet: Mapped[AETitle]
    received_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    supersedes_id: Mapped[int | None] = mapped_column(ForeignKey("instance.id"))
    correction: Mapped[dict[str, str] | None] = mapped_column(JSON(none_as_null=True))
    identity_revision: Mapped[int] = mapped_column(default=0, server_default="0")
    pixel_sha256: Mapped[str | None] = mapped_column(String(64))
    header_sha256: Mapped[str | None] = mapped_column(String(64))
    file_header_sha256: Mapped[str | None] = mapped_column(String(64))
    decided_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    promised_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    damaged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    scrubbed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    stored_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    series: Mapped[Series] = relationship(back_populates="instances")
