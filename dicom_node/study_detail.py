"""One study with all that became of it, read from the rows: `study_values` says what there is."""

from collections.abc import Iterable, Sequence
from typing import Final, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from dicom_node.studies import Model, study_rows
from dicom_node.study_values import (
    AnalysisDetail,
    ArtifactDetail,
    DeliveryDetail,
    FeedbackDetail,
    ImageDetail,
    JobDetail,
    ReadingDetail,
    RevisionDetail,
    SideFigures,
    StudyDetail,
    ZoneFigures,
)
from models.account import Account
from models.delivery import Delivery, Destination
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reading import Feedback, Reading
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact, ReportedAnalysis, of_the_patient

MAX_IMAGES: Final = 200  # of a study that is shown at once; the results list the others
_MAX_REVISIONS: Final = 100
_MAX_FEEDBACK: Final = 200
_SIDES: Final = ("total", "left", "right")
_ZONES: Final = (
    *("right_upper", "right_middle", "right_lower"),
    *("left_upper", "left_middle", "left_lower"),
)
Key = TypeVar("Key")
Value = TypeVar("Value")


def study_detail(session: Session, study_instance_uid: str) -> StudyDetail | None:
    """Return the study of that UID, or None."""
    query = select(Study).where(Study.study_instance_uid == study_instance_uid)
    study = session.scalar(query)
    if study is None:
        return None
    row = study_rows(session, [study])[0]
    images = _images(session, study.id)
    return StudyDetail(
        study=row,
        images=images,
        images_left_out=sum(row.images.values()) - len(images),
        revisions=_revisions(session, study.id),
        reading=_reading(session, study.id),
        feedback=_feedback(session, study.id),
    )


def _images(session: Session, study_id: int) -> tuple[ImageDetail, ...]:
    query = (
        select(Instance, Series, of_the_patient())
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .where(Series.study_id == study_id)
        .order_by(Instance.id.desc())
        .limit(MAX_IMAGES)
    )
    found = session.execute(query).all()
    ids = [row[0].id for row in found]
    analyses = _grouped(
        (row.instance_id, row)
        for row in session.scalars(
            select(Analysis)
            .where(Analysis.instance_id.in_(ids))
            .order_by(Analysis.is_replaced, Analysis.id.desc())
            .options(selectinload(Analysis.caveats), selectinload(Analysis.model_version))
        )
    )
    artifacts = _artifacts(session, [row.id for rows in analyses.values() for row in rows])
    jobs = _grouped(
        (row.instance_id, _job(row))
        for row in session.scalars(
            select(Job).where(Job.instance_id.in_(ids)).order_by(Job.id.desc())
        )
    )
    return tuple(
        _image(instance, series, is_of_patient, analyses, artifacts, jobs.get(instance.id, []))
        for instance, series, is_of_patient in reversed(found)
    )


def _image(
    instance: Instance,
    series: Series,
    is_of_patient: bool,  # noqa: FBT001  a column of the row
    analyses: dict[int, list[Analysis]],
    artifacts: dict[int, list[ArtifactDetail]],
    jobs: Sequence[JobDetail],
) -> ImageDetail:
    of_image = analyses.get(instance.id, [])
    return ImageDetail(
        id=instance.id,
        sop_instance_uid=instance.sop_instance_uid,
        sop_class_uid=instance.sop_class_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        series_instance_uid=series.series_instance_uid,
        modality=series.modality,
        presentation_intent=instance.presentation_intent,
        state=instance.state,
        reason=instance.reason,
        detail=instance.detail,
        is_of_patient=bool(is_of_patient),
        patient_id=instance.patient_id,
        issuer_of_patient_id=instance.issuer_of_patient_id,
        calling_aet=instance.calling_aet,
        received_at=instance.received_at,
        purged_at=instance.purged_at,
        data_set_sha256=instance.data_set_sha256,
        size_bytes=instance.size_bytes,
        analyses=tuple(
            _analysis(row, counts=number == 0 and not row.is_replaced)
            for number, row in enumerate(of_image)
        ),
        artifacts=tuple(each for row in of_image for each in artifacts.get(row.id, [])),
        jobs=tuple(jobs),
    )


def _analysis(row: Analysis, *, counts: bool) -> AnalysisDetail:
    def side(name: str) -> SideFigures:
        return SideFigures(
            opacity_percent=getattr(row, f"opacity_percent_{name}"),
            severity=row.severity if name == "total" else getattr(row, f"severity_{name}"),
            lung_pixels=getattr(row, f"lung_pixels_{name}"),
            opacity_pixels=getattr(row, f"opacity_pixels_{name}"),
            lung_area_mm2=getattr(row, f"lung_area_mm2_{name}"),
            opacity_area_mm2=getattr(row, f"opacity_area_mm2_{name}"),
        )

    model = row.model_version
    return AnalysisDetail(
        id=row.id,
        counts=counts,
        model=Model(model.name, model.version, model.sha256),
        configuration_hash=row.configuration_hash,
        total=side("total"),
        left=side("left"),
        right=side("right"),
        zones={
            zone: ZoneFigures(
                getattr(row, f"zone_percent_{zone}"), getattr(row, f"zone_grade_{zone}")
            )
            for zone in _ZONES
        },
        zone_score={name: getattr(row, f"zone_score_{name}") for name in _SIDES},
        caveats=tuple(each.caveat for each in row.caveats),
        notes=tuple(map(str, row.notes)),
        spacing_row_mm=row.spacing_row_mm,
        spacing_column_mm=row.spacing_column_mm,
        spacing_basis=row.spacing_basis,
        orientation_assumed=row.orientation_assumed,
        classification=row.classification,
        device=row.device,
        seconds=row.seconds,
        created_at=row.created_at,
    )


def _artifacts(session: Session, analysis_ids: Sequence[int]) -> dict[int, list[ArtifactDetail]]:
    """Return the objects made by these analyses, by analysis."""
    query = select(Artifact).where(Artifact.analysis_id.in_(analysis_ids)).order_by(Artifact.id)
    return _grouped(
        (each.analysis_id, each) for each in _described(session, session.scalars(query).all())
    )


def _described(session: Session, rows: Sequence[Artifact]) -> list[ArtifactDetail]:
    """Return objects with where they went, and why they are sent no more."""
    ids = [row.id for row in rows]
    sent = _grouped(
        (delivery.artifact_id, _delivery(delivery, name))
        for delivery, name in session.execute(
            select(Delivery, Destination.name)
            .join(Destination, Delivery.destination_id == Destination.id)
            .where(Delivery.artifact_id.in_(ids))
            .order_by(Delivery.id)
        )
    )
    query = select(WithdrawnArtifact).where(WithdrawnArtifact.artifact_id.in_(ids))
    withdrawn = {row.artifact_id: row.reason for row in session.scalars(query)}
    return [
        ArtifactDetail(
            id=row.id,
            analysis_id=row.analysis_id,
            kind=row.kind,
            revision=row.revision,
            sop_class_uid=row.sop_class_uid,
            sop_instance_uid=row.sop_instance_uid,
            sha256=row.sha256,
            size_bytes=row.size_bytes,
            created_at=row.created_at,
            purged_at=row.purged_at,
            withdrawn=withdrawn.get(row.id),
            deliveries=tuple(sent.get(row.id, ())),
        )
        for row in rows
    ]


def _delivery(row: Delivery, destination: str) -> DeliveryDetail:
    return DeliveryDetail(
        id=row.id,
        destination=destination,
        state=row.state,
        attempts=row.attempts,
        status=row.status,
        error=row.error,
        created_at=row.created_at,
        next_attempt_at=row.next_attempt_at,
        sent_at=row.sent_at,
    )


def _job(row: Job) -> JobDetail:
    return JobDetail(
        id=row.id,
        kind=row.kind,
        state=row.state,
        model_selector=row.model_selector,
        revision=row.revision,
        attempts=row.attempts,
        error=row.error,
        created_at=row.created_at,
        not_before=row.not_before,
        finished_at=row.finished_at,
    )


def _revisions(session: Session, study_id: int) -> tuple[RevisionDetail, ...]:
    jobs = _grouped(
        (row.revision, _job(row))
        for row in session.scalars(
            select(Job)
            .where(Job.study_id == study_id)
            .order_by(Job.revision.desc())
            .limit(_MAX_REVISIONS)
        )
    )
    rows = session.scalars(
        select(Artifact)
        .where(Artifact.study_id == study_id)
        .order_by(Artifact.revision.desc(), Artifact.id)
        .limit(_MAX_REVISIONS)
    ).all()
    artifacts = _grouped((each.revision, each) for each in _described(session, rows))
    query = (
        select(Artifact.revision, Instance.sop_instance_uid)
        .join(ReportedAnalysis, ReportedAnalysis.artifact_id == Artifact.id)
        .join(Analysis, ReportedAnalysis.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .where(Artifact.id.in_([row.id for row in rows]))
        .order_by(Instance.id)
    )
    images = _grouped((revision, uid) for revision, uid in session.execute(query))
    return tuple(
        RevisionDetail(
            revision=revision,
            artifacts=tuple(artifacts.get(revision, ())),
            sop_instance_uids=tuple(images.get(revision, ())),
            jobs=tuple(jobs.get(revision, ())),
        )
        for revision in sorted({*jobs, *artifacts}, reverse=True)
    )


def _reading(session: Session, study_id: int) -> ReadingDetail | None:
    row = session.scalar(select(Reading).where(Reading.study_id == study_id))
    if row is None:
        return None
    return ReadingDetail(
        revision=row.revision,
        claimed_by=row.claimed_by,
        claimed_at=row.claimed_at,
        read_by=row.read_by,
        read_at=row.read_at,
    )


def _feedback(session: Session, study_id: int) -> tuple[FeedbackDetail, ...]:
    query = (
        select(Feedback, Account.name, Instance.sop_instance_uid)
        .join(Account, Feedback.account_id == Account.id)
        .outerjoin(Analysis, Feedback.analysis_id == Analysis.id)
        .outerjoin(Instance, Analysis.instance_id == Instance.id)
        .where(Feedback.study_id == study_id)
        .order_by(Feedback.id.desc())
        .limit(_MAX_FEEDBACK)
    )
    return tuple(
        FeedbackDetail(
            id=row.id,
            sop_instance_uid=sop_instance_uid,
            revision=row.revision,
            account=account,
            verdict=row.verdict,
            corrected_percent=row.corrected_percent,
            comment=row.comment,
            created_at=row.created_at,
        )
        for row, account, sop_instance_uid in session.execute(query)
    )


def _grouped(pairs: Iterable[tuple[Key | None, Value]]) -> dict[Key, list[Value]]:
    found: dict[Key, list[Value]] = {}
    for key, value in pairs:
        if key is not None:
            found.setdefault(key, []).append(value)
    return found
