"""The tasks: take an id, lease the row, do the work, write the outcome. Safe to repeat."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from billiard.exceptions import SoftTimeLimitExceeded
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from models.imaging import SET_ASIDE, Instance, Study
from models.job import Job
from models.log import bind
from models.reasons import SENTENCES, Reason
from models.result import Analysis, Artifact, newest_analyses, unanalysed_instances
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, InstanceState, JobKind
from worker.capture import (
    Findings,
    display_png,
    layer_png,
    overlay,
    overlay_png,
    radiograph,
    without_caption,
)
from worker.correction import corrected_header, corrected_image, header_sha256
from worker.equipment import ObjectContext, to_bytes
from worker.errors import AnalysisFailed, ImageWithdrawnError, NotAnalysable
from worker.extras import audit_left_out, made_or_none
from worker.figures import measurements_of, spacing_of
from worker.leases import LeaseLostError, claim, heartbeat
from worker.loading import LoadedModel, LoadedModels
from worker.message_content import MessageContent
from worker.pipeline import StopWatch, analyse_image
from worker.presentation import build_presentation_state
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.results import Fingerprint, Product, ResultStore
from worker.sandbox import Sandbox
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.study_messages import (
    earlier_messages,
    known_issuer,
    message_products,
    store_without_figures,
    wanted_messages,
)
from worker.traces import traced
from worker.types import AnalysedImage, Caveat, Classification, ModelIdentity, UnanalysedImage
from worker.withdrawal import store_notes

log = logging.getLogger(__name__)

_OF_THE_JOB = (SoftTimeLimitExceeded, LeaseLostError, ImageWithdrawnError)
_AWAY_SECONDS = 1.0
_OF_STUDIES = (ArtifactKind.SR, ArtifactKind.PDF)


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
        with _ended_by(partial(runtime.store.store_no_result, job_id), job_id):
            model, result = _analysed(job, runtime)
            watch = StopWatch()
            with watch("objects"):
                products = _products(result, _context(runtime, job), runtime.settings)
            result = replace(result, stages={**result.stages, **watch.stages})
            made = [each.kind for each in products]
            audit_left_out(runtime.database, job, _extras(runtime.settings), made)
            runtime.store.store_analysis(job_id, model.model_version_id, result, products)
            log.info("job %d: analysed in %.2f s", job_id, result.seconds)


def shadow(job_id: int, runtime: Runtime) -> None:
    """Measure the image of an analysis with a second model; nothing comes of it but figures."""
    with _leased(job_id, runtime) as job:
        if job is None:
            return
        with _ended_by(partial(runtime.store.store_no_shadow, job_id), job_id):
            model, result = _analysed(job, runtime)
            runtime.store.store_shadow(job_id, model.model_version_id, result)
            log.info("job %d: shadow analysis in %.2f s", job_id, result.seconds)


def report(job_id: int, runtime: Runtime) -> None:
    """Write the SR of one study revision, unless a newer revision waits to be written.

    And before it our rejection notes, for what receivers have of withdrawn images.
    """
    with _leased(job_id, runtime) as job:
        if job is None:
            return
        artifacts = runtime.settings.artifact_store
        store_notes(job, runtime.store, runtime.database, artifacts, _context(runtime, job))
        if _told_without_figures(runtime, job) or runtime.store.end_if_outdated(job_id):
            return
        analyses, products = _report_products(runtime, job)
        wanted = [ArtifactKind.PDF] if runtime.settings.makes_documents else []
        wanted += wanted_messages(runtime.settings)
        audit_left_out(runtime.database, job, wanted, [each.kind for each in products])
        runtime.store.store_report(job_id, analyses, products)
        log.info("job %d: report over %d images", job_id, len(analyses))


def _told_without_figures(runtime: Runtime, job: Job) -> bool:
    context, settings = _context(runtime, job), runtime.settings
    return store_without_figures(
        job, runtime.store, runtime.database, settings, runtime.sandbox, context
    )


def compare(job_id: int, runtime: Runtime) -> None:
    """Say what stands in the files of one SOP Instance UID; the node decides what follows."""
    with _leased(job_id, runtime) as job:
        if job is None:
            return
        found = [each for row in _to_compare(runtime, job) if (each := _fingerprint(runtime, row))]
        runtime.store.store_fingerprints(job_id, found)
        log.info("job %d: %d files compared", job_id, len(found))


@contextmanager
def _leased(job_id: int, runtime: Runtime) -> Iterator[Job | None]:
    """Have the job while the block runs; what breaks in it gives the job back."""
    lease_seconds = runtime.settings.worker.lease_seconds
    job = claim(runtime.database, job_id, lease_seconds)
    if job is None:
        log.info("job %d: not to be had, message dropped", job_id)
        yield None
        return
    lease = heartbeat(runtime.database, job_id, lease_seconds)
    with bind(job_id=job_id), traced(runtime.database, job), lease:
        try:
            try:
                yield job
            except LeaseLostError:
                raise
            except Exception as error:
                log.exception("job %d: attempt %d broke", job_id, job.attempts)
                _give_back(job_id, runtime, error)
        except LeaseLostError:
            log.warning("job %d: the lease was taken back, nothing stored", job_id)


def _give_back(job_id: int, runtime: Runtime, error: Exception) -> None:
    """Give the job back as soon as the database takes it: its absence is no fault of the job.

    Without the database there is nothing else to do. Raises LeaseLostError.
    """
    while True:
        try:
            runtime.store.give_back(job_id, runtime.settings.dispatch.max_attempts, error)
        except (OperationalError, InterfaceError):
            time.sleep(_AWAY_SECONDS)
        else:
            return


@contextmanager
def _ended_by(end: Callable[[InstanceState, Reason, str], None], job_id: int) -> Iterator[None]:
    """Let the type of what the block raises decide the outcome (worker.errors)."""
    state, reason, detail = InstanceState.FAILED, Reason.TIME_LIMIT, SENTENCES[Reason.TIME_LIMIT]
    try:
        yield
    except NotAnalysable as outcome:
        state, reason, detail = InstanceState.NOT_ANALYSED, outcome.reason, outcome.detail
    except AnalysisFailed as outcome:
        reason, detail = outcome.reason, outcome.detail
    except SoftTimeLimitExceeded:
        pass
    else:
        return
    log.info("job %d: %s: %s", job_id, state.value, reason.value)
    end(state, reason, detail)


def _analysed(job: Job, runtime: Runtime) -> tuple[LoadedModel, AnalysedImage]:
    instance, settings = _instance(runtime, job), runtime.settings
    if instance.purged_at is not None:
        raise AnalysisFailed(Reason.PURGED)
    model = runtime.models.get(job.model_selector or "")
    source = settings.image_store.path(instance.storage_key)
    classifier = None if job.kind is JobKind.SHADOW else runtime.models.classifier()
    result = analyse_image(source, runtime.sandbox, model.segmenter, settings, classifier)
    return model, corrected_image(result, instance.correction, instance.identity_revision)


def _instance(runtime: Runtime, job: Job) -> Instance:
    """Return the instance that an analyse, a shadow or a compare job is about."""
    wanted = select(Instance)
    if job.kind is JobKind.SHADOW:
        wanted = wanted.join(Analysis, Analysis.instance_id == Instance.id)
        wanted = wanted.where(Analysis.id == job.analysis_id)
    else:
        wanted = wanted.where(Instance.id == job.instance_id)
    with runtime.database.read() as session:
        return session.scalars(wanted).one()


def _to_compare(runtime: Runtime, job: Job) -> Sequence[Instance]:
    """Return the instance of the job and the live one of its UID, as far as they are not known."""
    uid = _instance(runtime, job).sop_instance_uid
    unknown = Instance.pixel_sha256.is_(None) | Instance.header_sha256.is_(None)
    wanted = (Instance.id == job.instance_id) | Instance.state.not_in(SET_ASIDE)
    with runtime.database.read() as session:
        return session.scalars(
            select(Instance).where(Instance.sop_instance_uid == uid, unknown, wanted)
        ).all()


def _fingerprint(runtime: Runtime, row: Instance) -> Fingerprint | None:
    """Return what stands in one file; None where it cannot be read, which is no equality."""
    try:
        pixels, header = _pixels_and_header(runtime, row)
    except (NotAnalysable, AnalysisFailed) as outcome:
        log.info("instance %d: not comparable: %s", row.id, outcome.reason.value)
        return None
    digest = header_sha256(corrected_header(header, row.correction))
    return Fingerprint(row.id, row.identity_revision, pixels, digest, header_sha256(header))


def _pixels_and_header(runtime: Runtime, row: Instance) -> tuple[str, Dataset]:
    path = runtime.settings.image_store.path_of(row.storage_key, row.purged_at)
    if row.purged_at is None:
        return runtime.sandbox.fingerprint(path)
    if row.pixel_sha256 is None or not path.exists():
        raise AnalysisFailed(Reason.PURGED)
    return row.pixel_sha256, runtime.sandbox.header(path)


def _context(runtime: Runtime, job: Job) -> ObjectContext:
    """Take the times in the objects from the job's creation: a retry writes the same bytes."""
    created = job.created_at.astimezone()  # DICOM times without an offset are local times
    return ObjectContext(created=created, objects=runtime.settings.objects)


def _products(result: AnalysedImage, context: ObjectContext, settings: Settings) -> list[Product]:
    """Return SEG and pictures, and of the wanted extras those that could be made."""
    findings = Findings.of(result)
    plain = radiograph(result.image)
    picture = overlay(result, findings, plain)
    makers: dict[ArtifactKind, Callable[[], Dataset]] = {
        ArtifactKind.SC: partial(build_secondary_capture, result, context, picture),
        ArtifactKind.PR: partial(build_presentation_state, result, context),
    }
    products = [
        _object(ArtifactKind.SEG, build_segmentation(result, context)),
        Product(ArtifactKind.DISPLAY, display_png(result.image, plain), ".png"),
        Product(ArtifactKind.OVERLAY, overlay_png(result, picture), ".png"),
        Product(ArtifactKind.LAYER, layer_png(findings), ".png"),
    ]
    for kind in _extras(settings):
        products += _extra(kind, makers[kind])
    return products


def _extras(settings: Settings) -> list[ArtifactKind]:
    """Return what some destination wants of an image beside its SEG."""
    wanted = {
        ArtifactKind.SC: settings.makes_captures,
        ArtifactKind.PR: settings.makes_presentation_states,
    }
    return [kind for kind, is_wanted in wanted.items() if is_wanted]


def _extra(kind: ArtifactKind, build: Callable[[], Dataset]) -> list[Product]:
    """Return the product, or nothing where it cannot be made: SEG and SR stand without it."""
    made = made_or_none(kind.value, lambda: _object(kind, build()), _OF_THE_JOB)
    return [] if made is None else [made]


def _object(kind: ArtifactKind, ds: Dataset) -> Product:
    return Product(kind, to_bytes(ds), ".dcm", str(ds.SOPClassUID), str(ds.SOPInstanceUID))


def _report_products(runtime: Runtime, job: Job) -> tuple[list[Analysis], list[Product]]:
    """Return the SR of a study revision, and page and messages where they are wanted."""
    context, with_page = _context(runtime, job), runtime.settings.makes_documents
    with runtime.database.read() as session:
        study_id, revision = job.study_id or 0, job.revision or 0
        analyses = list(newest_analyses(session, study_id))
        images = [_report_image(runtime, session, analysis) for analysis in analyses]
        rest = [
            UnanalysedImage(row.sop_instance_uid, row.sop_class_uid, Reason(row.reason or ""))
            for row in unanalysed_instances(session, study_id)
        ]
        sr, pdf = (_predecessor(runtime, session, job, kind) for kind in _OF_STUDIES)
        pictures = [_picture(runtime, session, each) for each in analyses] if with_page else []
        earlier = earlier_messages(session, runtime.settings, job)
        issuer = known_issuer(session, session.get_one(Study, study_id))

    def page() -> Dataset:
        from worker.document import build_document  # noqa: PLC0415  matplotlib, only where wanted
        from worker.page import PageImage  # noqa: PLC0415  the same

        pages = [PageImage(*each) for each in zip(images, pictures, strict=True)]
        return build_document(pages, context, revision, _read(pdf), rest)

    report = build_report(images, context, revision, _read(sr), rest)
    extras = _extra(ArtifactKind.PDF, page) if with_page else []
    if earlier:
        uid, settings = str(report.SOPInstanceUID), runtime.settings.messages
        extras += message_products(
            MessageContent.of_report(images, rest, context, settings, uid, issuer), earlier
        )
    return analyses, [_object(ArtifactKind.SR, report), *extras]


def _predecessor(runtime: Runtime, session: Session, job: Job, kind: ArtifactKind) -> Path | None:
    """Return the file of the newest object of this kind of an earlier revision of the study."""
    key = session.scalar(
        select(Artifact.storage_key)
        .where(
            Artifact.study_id == job.study_id,
            Artifact.kind == kind,
            Artifact.revision < job.revision,
        )
        .order_by(Artifact.revision.desc())
    )
    return runtime.settings.artifact_store.path(key) if key else None


def _read(path: Path | None) -> Dataset | None:
    return dcmread(path) if path else None


def _picture(runtime: Runtime, session: Session, analysis: Analysis) -> Callable[[], Image.Image]:
    """Return what reads the stored overlay of an analysis, without its caption."""
    key = session.scalars(
        select(Artifact.storage_key).where(
            Artifact.analysis_id == analysis.id, Artifact.kind == ArtifactKind.OVERLAY
        )
    ).one()
    return lambda: without_caption(runtime.settings.artifact_store.path(key).read_bytes())


def _report_image(runtime: Runtime, session: Session, analysis: Analysis) -> ReportImage:
    """Rebuild what the report needs from the rows, the SEG on disk and the source's header."""
    settings, instance, model = runtime.settings, analysis.instance, analysis.model_version
    source = settings.image_store.path_of(instance.storage_key, instance.purged_at)
    seg = session.scalars(
        select(Artifact).where(
            Artifact.analysis_id == analysis.id, Artifact.kind == ArtifactKind.SEG
        )
    ).one()
    seg_path = settings.artifact_store.path_of(seg.storage_key, seg.purged_at)
    return ReportImage(
        header=corrected_header(runtime.sandbox.header(source), instance.correction),
        seg=dcmread(seg_path, stop_before_pixels=True),
        measurements=measurements_of(analysis),
        model=ModelIdentity(model.name, model.version, model.sha256),
        configuration_hash=analysis.configuration_hash,
        data_set_sha256=instance.data_set_sha256,
        spacing=spacing_of(analysis),
        orientation_assumed=analysis.orientation_assumed,
        notes=tuple(analysis.notes),
        caveats=tuple(Caveat(row.caveat) for row in analysis.caveats),
        classification=_classification(analysis),
    )


def _classification(analysis: Analysis) -> Classification | None:
    row = analysis.classification
    return None if row is None else Classification.of_row(row)
