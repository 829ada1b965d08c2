"""ModelVersion, Analysis, Artifact: which network said what of which image, and the bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ColumnElement,
    ForeignKey,
    Index,
    String,
    Text,
    UniqueConstraint,
    and_,
    false,
    func,
    select,
    text,
    update,
)
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.base import (
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
from models.imaging import WITHOUT_FIGURE, Instance, Series, Study
from models.job import Job
from models.states import ArtifactKind, InstanceState


class ModelVersion(Base):
    """A network that a worker has loaded: name, version and the hash of its weights.

    `card` is its model card, Markdown, and `metrics` are the figures of its evaluation, as they
    were installed on the worker; None where it had none.
    """

    __tablename__ = "model_version"
    __table_args__ = (UniqueConstraint("name", "version", "sha256"),)

    id: Mapped[Primary]
    name: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[Sha256]
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    card: Mapped[str | None] = mapped_column(Text)
    metrics: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))


class Figures:
    """The columns of what one model under one configuration measured on one image.

    Percentages are of the lung field of that side (None when the side has no lung); areas are mm²
    and None without a pixel spacing. `severity` is the band of the total. Zone columns are None
    where the setting was off; a zone without lung has no grade, and a sum over it no score.
    `seconds` is from the file to the figures, in stages; SEG and pictures (`objects_seconds`) are
    made after it. Older rows have no stages.
    """

    configuration_hash: Mapped[Sha256]
    severity: Mapped[str] = mapped_column(String(16))
    severity_left: Mapped[str | None] = mapped_column(String(16))
    severity_right: Mapped[str | None] = mapped_column(String(16))
    opacity_percent_total: Mapped[float | None]
    opacity_percent_left: Mapped[float | None]
    opacity_percent_right: Mapped[float | None]
    lung_pixels_total: Mapped[int]
    lung_pixels_left: Mapped[int]
    lung_pixels_right: Mapped[int]
    opacity_pixels_total: Mapped[int]
    opacity_pixels_left: Mapped[int]
    opacity_pixels_right: Mapped[int]
    lung_area_mm2_total: Mapped[float | None]
    lung_area_mm2_left: Mapped[float | None]
    lung_area_mm2_right: Mapped[float | None]
    opacity_area_mm2_total: Mapped[float | None]
    opacity_area_mm2_left: Mapped[float | None]
    opacity_area_mm2_right: Mapped[float | None]
    zone_percent_right_upper: Mapped[float | None]
    zone_percent_right_middle: Mapped[float | None]
    zone_percent_right_lower: Mapped[float | None]
    zone_percent_left_upper: Mapped[float | None]
    zone_percent_left_middle: Mapped[float | None]
    zone_percent_left_lower: Mapped[float | None]
    zone_grade_right_upper: Mapped[int | None]
    zone_grade_right_middle: Mapped[int | None]
    zone_grade_right_lower: Mapped[int | None]
    zone_grade_left_upper: Mapped[int | None]
    zone_grade_left_middle: Mapped[int | None]
    zone_grade_left_lower: Mapped[int | None]
    zone_score_total: Mapped[int | None]
    zone_score_left: Mapped[int | None]
    zone_score_right: Mapped[int | None]
    spacing_row_mm: Mapped[float | None]
    spacing_column_mm: Mapped[float | None]
    spacing_basis: Mapped[str | None] = mapped_column(String(40))
    orientation_assumed: Mapped[bool]
    notes: Mapped[list[Any]] = mapped_column(JSON, default=list)
    device: Mapped[str] = mapped_column(String(40))
    seconds: Mapped[float]
    decode_seconds: Mapped[float | None]
    gate_seconds: Mapped[float | None]
    inference_seconds: Mapped[float | None]
    measure_seconds: Mapped[float | None]
    objects_seconds: Mapped[float | None]
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)


class Analysis(Figures, Base):
    """The result of one image: what SEG, SR and deliveries are made from.

    Of several of an image the one counts that is not `is_replaced`; a replay with an earlier model
    lets its analysis count again.
    `classification` is what the experimental classifier said; None where the setting was off.
    """

    __tablename__ = "analysis"
    __table_args__ = (
        UniqueConstraint("instance_id", "model_version_id", "configuration_hash"),
        # Of several of an image one counts.
        Index(
            "uq_analysis_counts",
            "instance_id",
            unique=True,
            sqlite_where=text("is_replaced IS 0"),
            postgresql_where=text("is_replaced IS FALSE"),
        ),
        # The orders in which images are listed.
        Index("ix_analysis_opacity_percent_total", "opacity_percent_total", "instance_id"),
        Index("ix_analysis_severity", "severity", "opacity_percent_total", "instance_id"),
        Index("ix_analysis_model_version_id", "model_version_id", "instance_id"),
    )

    id: Mapped[Primary]
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))
    classification: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    is_replaced: Mapped[bool] = mapped_column(default=False, server_default=false())

    instance: Mapped[Instance] = relationship()
    model_version: Mapped[ModelVersion] = relationship()
    artifacts: Mapped[list["Artifact"]] = relationship(back_populates="analysis")
    caveats: Mapped[list["AnalysisCaveat"]] = relationship(order_by="AnalysisCaveat.caveat")


class AnalysisCaveat(Base):
    """One reason why the figures of an analysis deserve a second look."""

    __tablename__ = "analysis_caveat"
    __table_args__ = (Index("ix_analysis_caveat_caveat", "caveat"),)

    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"), primary_key=True)
    caveat: Mapped[str] = mapped_column(String(40), primary_key=True)


class ShadowAnalysis(Figures, Base):
    """What a second model measured on the image of an analysis; it is compared, never sent.

    A table of its own: an artifact, a report or a delivery cannot refer to it.
    """

    __tablename__ = "shadow_analysis"

    id: Mapped[Primary]
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), unique=True)
    model_version_id: Mapped[int] = mapped_column(ForeignKey("model_version.id"))

    job: Mapped[Job] = relationship()
    model_version: Mapped[ModelVersion] = relationship()


class Artifact(Base):
    """Stored bytes of one result: of an analysis (SEG, pictures) or of a study revision (SR).

    The last four columns mean what they mean of an Instance.
    """

    __tablename__ = "artifact"
    __table_args__ = (
        UniqueConstraint("analysis_id", "kind"),
        UniqueConstraint("study_id", "kind", "revision"),
        CheckConstraint(
            "(analysis_id IS NOT NULL AND study_id IS NULL AND revision IS NULL)"
            " OR (analysis_id IS NULL AND study_id IS NOT NULL AND revision IS NOT NULL)",
            name="subject",
        ),
    )

    id: Mapped[Primary]
    kind: Mapped[ArtifactKind] = mapped_column(enum_column(ArtifactKind))
    analysis_id: Mapped[int | None] = mapped_column(ForeignKey("analysis.id"))
    study_id: Mapped[int | None] = mapped_column(ForeignKey("study.id"))
    revision: Mapped[int | None]
    sop_class_uid: Mapped[Uid | None]
    sop_instance_uid: Mapped[Uid | None] = mapped_column(unique=True)
    storage_key: Mapped[Key] = mapped_column(unique=True)
    sha256: Mapped[Sha256]
    size_bytes: Mapped[int]
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    promised_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    damaged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    scrubbed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    analysis: Mapped[Analysis | None] = relationship(back_populates="artifacts")
    study: Mapped[Study | None] = relationship()


class ReportedAnalysis(Base):
    """Which analyses one SR speaks of."""

    __tablename__ = "reported_analysis"
    __table_args__ = (Index("ix_reported_analysis_analysis_id", "analysis_id"),)

    artifact_id: Mapped[int] = mapped_column(ForeignKey("artifact.id"), primary_key=True)
    analysis_id: Mapped[int] = mapped_column(ForeignKey("analysis.id"), primary_key=True)


def unanalysed_instances(session: Session, study_id: int) -> Sequence[Instance]:
    """Return the instances of a study that ended without a figure, by SOP Instance UID.

    What waits has no reason yet, and what is in quarantine belongs to no study: it may be another
    patient's. The same holds for what a correction of the study's identity has not reached.
    """
    ended = (InstanceState.NOT_ANALYSED, InstanceState.FAILED, InstanceState.WITHDRAWN)
    query = select(Instance).join(Series).join(Study).where(Series.study_id == study_id)
    query = query.where(Instance.state.in_(ended), of_the_patient())
    return session.scalars(query.order_by(Instance.sop_instance_uid)).all()


def of_the_patient() -> ColumnElement[bool]:
    """Return the condition that an instance has its study's PatientID, as far as both are known."""
    return and_(
        func.coalesce(Instance.patient_id, Study.patient_id, "")
        == func.coalesce(Study.patient_id, Instance.patient_id, ""),
        func.coalesce(Instance.issuer_of_patient_id, Study.issuer_of_patient_id, "")
        == func.coalesce(Study.issuer_of_patient_id, Instance.issuer_of_patient_id, ""),
    )


def newest_analyses(session: Session, study_id: int) -> Sequence[Analysis]:
    """Return the analysis that counts of every analysed instance of a study, in instance order.

    Instances that are still under another patient than the study are left out: no report may speak
    of two patients.
    """
    newest = (
        select(func.max(Analysis.id))
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series)
        .join(Study)
        .where(Series.study_id == study_id, Instance.state == InstanceState.ANALYSED)
        .where(of_the_patient(), Analysis.is_replaced.is_(False))
        .group_by(Analysis.instance_id)
    )
    query = select(Analysis).where(Analysis.id.in_(newest)).order_by(Analysis.instance_id)
    return session.scalars(query).all()


def counts_again(
    session: Session, instance_id: int, model_version_id: int, configuration_hash: str
) -> bool:
    """Let no other analysis of the image count; say whether this very one is there, and does."""
    of_image = Analysis.instance_id == instance_id
    session.execute(update(Analysis).where(of_image).values(is_replaced=True))
    known = session.scalar(
        select(Analysis).where(
            of_image,
            Analysis.model_version_id == model_version_id,
            Analysis.configuration_hash == configuration_hash,
        )
    )
    if known is not None:
        known.is_replaced = False
    return known is not None


def set_figure(study: Study, analyses: Sequence[Analysis]) -> None:
    """Set the highest total percentage of the study's images, and its band; none without images."""
    worst = max(analyses, key=lambda row: row.opacity_percent_total or 0.0, default=None)
    study.opacity_percent = worst.opacity_percent_total if worst else None
    study.severity = worst.severity if worst else None
    study.model_version_id = worst.model_version_id if worst else None
    percent = study.opacity_percent
    study.reading_order = WITHOUT_FIGURE if percent is None else 0.0 - percent


def study_of(session: Session, artifact: Artifact) -> Study | None:
    """Return the study of a result: of its report, or of the image it was made of."""
    if artifact.study_id is not None:
        return session.get(Study, artifact.study_id)
    of_image = select(Study).join(Series).join(Instance).join(Analysis)
    return session.scalar(of_image.where(Analysis.id == artifact.analysis_id))
