"""The two tasks: take an id, lease the row, do the work, write the outcome. Safe to repeat."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from pydicom import dcmread
from sqlalchemy import select
from sqlalchemy.orm import Session

from models.job import Job
from models.reasons import SENTENCES, Reason
from models.result import Analysis, Artifact, newest_analyses
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, InstanceState
from worker.capture import display_png, overlay_png
from worker.equipment import ObjectContext, to_bytes
from worker.errors import AnalysisFailed, NotAnalysable
from worker.leases import LeaseLostError, claim, heartbeat
from worker.loading import LoadedModels
from worker.pipeline import analyse_image
from worker.report import ReportImage, build_report
from worker.results import Product, ResultStore
from worker.sandbox import Sandbox
from worker.segmentation import build_segmentation
from worker.types import (
    AnalysedImage,
    Measurements,
    ModelIdentity,
    Severity,
    SideMeasurement,
    Spacing,
    SpacingBasis,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Runtime:
    """What one worker process keeps between jobs: the loaded model first of all."""

    settings: Settings
    database: Database
    store: ResultStore
    sandbox: Sandbox
    models: LoadedModels


def analyse(job_id: int, runtime: Runtime) -> None:
    """Analyse one instance and store SEG and pictures, or the reason why there are none."""
    with _leased(job_id, runtime) as job:
        if job is None:
            return
        try:
            model = runtime.models.get(job.model_selector or "")
            result = analyse_image(
                _source(runtime, job), runtime.sandbox, model.segmenter, runtime.settings
            )
            products = _products(result, _context(runtime, job))
            runtime.store.store_analysis(job_id, model.model_version_id, result, products)
            log.info("job %d: analysed in %.2f s", job_id, result.seconds)
        except NotAnalysable as outcome:
            _no_result(runtime, job_id, InstanceState.NOT_ANALYSED, outcome.reason, outcome.detail)
        except AnalysisFailed as outcome:
            _no_result(runtime, job_id, InstanceState.FAILED, outcome.reason, outcome.detail)
        except SoftTimeLimitExceeded:
            reason = Reason.TIME_LIMIT
            _no_result(runtime, job_id, InstanceState.FAILED, reason, SENTENCES[reason])


def report(job_id: int, runtime: Runtime) -> None:
    """Write the SR of one study revision, unless a newer revision waits to be written."""
    with _leased(job_id, runtime) as job:
        if job is None or runtime.store.end_if_outdated(job_id):
            return
        analyses, product = _report_product(runtime, job)
        runtime.store.store_report(job_id, analyses, product)
        log.info("job %d: report over %d images", job_id, len(analyses))


@contextmanager
def _leased(job_id: int, runtime: Runtime) -> Iterator[Job | None]:
    """Have the job while the block runs; what breaks in it gives the job back."""
    lease_seconds = runtime.settings.worker.lease_seconds
    job = claim(runtime.database, job_id, lease_seconds)
    if job is None:
        log.info("job %d: not pending, message dropped", job_id)
        yield None
        return
    with heartbeat(runtime.database, job_id, lease_seconds):
        try:
            try:
                yield job
            except LeaseLostError:
                raise
            except Exception as error:
                log.exception("job %d: attempt %d broke", job_id, job.attempts)
                runtime.store.give_back(job_id, runtime.settings.dispatch.max_attempts, error)
        except LeaseLostError:
            log.warning("job %d: the lease was taken back, nothing stored", job_id)


def _no_result(
    runtime: Runtime, job_id: int, state: InstanceState, reason: Reason, detail: str
) -> None:
    log.info("job %d: %s: %s", job_id, state.value, reason.value)
    runtime.store.store_no_result(job_id, state, reason, detail)


def _source(runtime: Runtime, job: Job) -> Path:
    with runtime.database.read() as session:
        instance = session.get_one(Job, job.id).instance
        if instance is None:
            msg = f"job {job.id} is no analyse job"
            raise TypeError(msg)
        return runtime.settings.spool_dir / instance.storage_key


def _context(runtime: Runtime, job: Job) -> ObjectContext:
    """Take the times in the objects from the job's creation: a retry writes the same bytes."""
    created = job.created_at.astimezone()  # DICOM times without an offset are local times
    return ObjectContext(created=created, objects=runtime.settings.objects)


def _products(result: AnalysedImage, context: ObjectContext) -> list[Product]:
    segmentation = build_segmentation(result, context)
    return [
        Product(
            ArtifactKind.SEG,
            to_bytes(segmentation),
            ".dcm",
            str(segmentation.SOPClassUID),
            str(segmentation.SOPInstanceUID),
        ),
        Product(ArtifactKind.DISPLAY, display_png(result.image), ".png"),
        Product(ArtifactKind.OVERLAY, overlay_png(result), ".png"),
    ]


def _report_product(runtime: Runtime, job: Job) -> tuple[list[Analysis], Product]:
    with runtime.database.read() as session:
        study_id, revision = job.study_id or 0, job.revision or 0
        analyses = list(newest_analyses(session, study_id))
        images = [_report_image(runtime, session, analysis) for analysis in analyses]
        previous = session.scalar(
            select(Artifact.storage_key)
            .where(
                Artifact.study_id == study_id,
                Artifact.kind == ArtifactKind.SR,
                Artifact.revision < revision,
            )
            .order_by(Artifact.revision.desc())
        )
    predecessor = dcmread(runtime.settings.artifact_dir / previous) if previous else None
    document = build_report(images, _context(runtime, job), revision, predecessor)
    product = Product(
        ArtifactKind.SR,
        to_bytes(document),
        ".dcm",
        str(document.SOPClassUID),
        str(document.SOPInstanceUID),
    )
    return analyses, product


def _report_image(runtime: Runtime, session: Session, analysis: Analysis) -> ReportImage:
    """Rebuild what the report needs from the rows, the SEG on disk and the source's header."""
    settings, instance, model = runtime.settings, analysis.instance, analysis.model_version
    seg_key = session.scalars(
        select(Artifact.storage_key).where(
            Artifact.analysis_id == analysis.id, Artifact.kind == ArtifactKind.SEG
        )
    ).one()
    return ReportImage(
        header=runtime.sandbox.header(settings.spool_dir / instance.storage_key),
        seg=dcmread(settings.artifact_dir / seg_key, stop_before_pixels=True),
        measurements=_measurements(analysis),
        model=ModelIdentity(model.name, model.version, model.sha256),
        configuration_hash=analysis.configuration_hash,
        data_set_sha256=instance.data_set_sha256,
        spacing=_spacing(analysis),
        orientation_assumed=analysis.orientation_assumed,
        notes=tuple(analysis.notes),
    )


def _spacing(analysis: Analysis) -> Spacing | None:
    if analysis.spacing_row_mm is None or analysis.spacing_column_mm is None:
        return None
    basis = SpacingBasis(str(analysis.spacing_basis))
    return Spacing(analysis.spacing_row_mm, analysis.spacing_column_mm, basis)


def _measurements(analysis: Analysis) -> Measurements:
    def side(name: str) -> SideMeasurement:
        return SideMeasurement(
            lung_pixels=getattr(analysis, f"lung_pixels_{name}"),
            opacity_pixels=getattr(analysis, f"opacity_pixels_{name}"),
            percent=getattr(analysis, f"opacity_percent_{name}"),
            lung_area_mm2=getattr(analysis, f"lung_area_mm2_{name}"),
            opacity_area_mm2=getattr(analysis, f"opacity_area_mm2_{name}"),
        )

    return Measurements(
        total=side("total"),
        left=side("left"),
        right=side("right"),
        severity=Severity(analysis.severity),
    )
