"""Results become files and rows: files first, then every row of one job in one transaction."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.files import new_key
from models.imaging import Instance, Study
from models.job import Job
from models.reading import open_if_changed
from models.reasons import SENTENCES, Reason
from models.result import (
    Analysis,
    AnalysisCaveat,
    Artifact,
    ModelVersion,
    ReportedAnalysis,
    ShadowAnalysis,
    counts_again,
    newest_analyses,
    set_figure,
)
from models.session import Database
from models.states import ArtifactKind, InstanceState, JobKind, JobState
from models.storage import Store
from worker.errors import BundleError, ImageWithdrawnError
from worker.figures import columns_of, model_name, provenance, whose
from worker.leases import held
from worker.types import AnalysedImage, ModelIdentity

_DETAIL_LENGTH = 400
_BLAMELESS = (OSError, OperationalError, InterfaceError, PoolTimeoutError)
_REASONS: dict[type[BaseException], Reason] = {BundleError: Reason.MODEL_UNAVAILABLE}
_PAUSE = timedelta(seconds=2)
_BLAMELESS_PAUSE = timedelta(seconds=15)


@dataclass(frozen=True)
class Product:
    """Bytes of one result, before they are stored. Pictures have no SOP UIDs."""

    kind: ArtifactKind
    data: bytes
    suffix: str
    sop_class_uid: str | None = None
    sop_instance_uid: str | None = None


@dataclass(frozen=True)
class Stored:
    """A product on disk, waiting for its row."""

    product: Product
    storage_key: str

    def artifact(self) -> Artifact:
        """Return the row, still without its subject."""
        return Artifact(
            kind=self.product.kind,
            sop_class_uid=self.product.sop_class_uid,
            sop_instance_uid=self.product.sop_instance_uid,
            storage_key=self.storage_key,
            sha256=hashlib.sha256(self.product.data).hexdigest(),
            size_bytes=len(self.product.data),
        )


@dataclass(frozen=True)
class Fingerprint:
    """What a file holds: its header as it is, and under the identity of its row at that time."""

    instance_id: int
    identity_revision: int
    pixel_sha256: str
    header_sha256: str
    file_header_sha256: str


@dataclass
class Batch:
    """The files of one job, on disk before their rows."""

    stored: list[Stored] = field(default_factory=list)
    is_complete: bool = False
    is_wanted: bool = True  # False: its rows are there already

    def complete(self, session: Session) -> None:
        """Send the rows to the database; what comes after is the commit."""
        session.flush()
        self.is_complete = True


class ResultStore:
    """Writes what one worker process produces."""

    def __init__(self, database: Database, artifacts: Store) -> None:
        self._database = database
        self._artifacts = artifacts

    def register_model(
        self,
        identity: ModelIdentity,
        card: str | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> int:
        """Return the id of the ModelVersion row, made when it is new.

        A card or metrics that were written since replace those of the row.
        """
        wanted = (
            ModelVersion.name == identity.name,
            ModelVersion.version == identity.version,
            ModelVersion.sha256 == identity.sha256,
        )
        with self._database.write() as session:
            row = session.scalar(select(ModelVersion).where(*wanted))
            if row is None:
                made = {"version": identity.version, "sha256": identity.sha256}
                row = ModelVersion(name=identity.name, **made)
                try:
                    with session.begin_nested():
                        session.add(row)
                except IntegrityError:  # a worker that starts at the same moment was faster
                    row = session.scalars(select(ModelVersion).where(*wanted)).one()
            row.card, row.metrics = card or row.card, dict(metrics or {}) or row.metrics
            session.flush()
            return row.id

    def store_analysis(
        self, job_id: int, model_version_id: int, result: AnalysedImage, products: Sequence[Product]
    ) -> None:
        """Store an analysis with its artifacts and end its job. Raises LeaseLostError.

        One that is there already, of a replay, counts again; the new files are the same, and go.
        """
        with self.written(products) as batch, self._database.write() as session:
            job, instance = _analyse_job(session, job_id)
            hashed = result.configuration_hash
            again = counts_again(session, instance.id, model_version_id, hashed)
            if again:
                batch.is_wanted = False
            else:
                analysis = _analysis(result, instance.id, model_version_id)
                analysis.artifacts = [each.artifact() for each in batch.stored]
                session.add(analysis)
            advance(session, instance, InstanceState.ANALYSED, reason=None, detail=None)
            advance(session, job, JobState.DONE, finished_at=utc_now(), error=None)
            record(
                session,
                AuditAction.INSTANCE_ANALYSED,
                InstanceState.ANALYSED.value,
                model=model_name(result.model),
                details=provenance(result) | {"again": again},
                **whose(instance),
            )
            batch.complete(session)

    def store_no_result(
        self, job_id: int, state: InstanceState, reason: Reason, detail: str
    ) -> None:
        """End an analyse job without a number, with the reason. Raises LeaseLostError."""
        with self._database.write() as session:
            job, instance = _analyse_job(session, job_id)
            advance(session, instance, state, reason=reason.value, detail=detail[:_DETAIL_LENGTH])
            advance(session, job, _end_of(state), finished_at=utc_now(), error=reason.value)
            record(
                session,
                AuditAction.INSTANCE_ANALYSED,
                state.value,
                details={"reason": reason.value},
                **whose(instance),
            )

    def store_shadow(self, job_id: int, model_version_id: int, result: AnalysedImage) -> None:
        """Store what a second model measured and end its job. Raises LeaseLostError.

        Figures only: no file is written, and no instance, study or report hears of it.
        """
        with self._database.write() as session:
            job, instance = _shadow_job(session, job_id)
            session.add(
                ShadowAnalysis(
                    job_id=job.id, model_version_id=model_version_id, **columns_of(result)
                )
            )
            advance(session, job, JobState.DONE, finished_at=utc_now(), error=None)
            record(
                session,
                AuditAction.SHADOW_ANALYSED,
                "analysed",
                model=model_name(result.model),
                details=provenance(result),
                **whose(instance),
            )

    def store_no_shadow(
        self, job_id: int, state: InstanceState, reason: Reason, detail: str
    ) -> None:
        """End a shadow job without figures, with the reason. Raises LeaseLostError."""
        with self._database.write() as session:
            job, instance = _shadow_job(session, job_id)
            advance(session, job, _end_of(state), finished_at=utc_now(), error=reason.value)
            record(
                session,
                AuditAction.SHADOW_ANALYSED,
                state.value,
                details={"reason": reason.value, "detail": detail[:_DETAIL_LENGTH]},
                **whose(instance),
            )

    def store_fingerprints(self, job_id: int, found: Sequence[Fingerprint]) -> None:
        """Store what compared files hold and end the job. Raises LeaseLostError.

        What was corrected in the meantime stays unknown, and is compared again.
        """
        with self._database.write() as session:
            job = held(session, job_id)
            for each in found:
                session.execute(
                    update(Instance)
                    .where(
                        Instance.id == each.instance_id,
                        Instance.identity_revision == each.identity_revision,
                    )
                    .values(
                        pixel_sha256=each.pixel_sha256,
                        header_sha256=each.header_sha256,
                        file_header_sha256=each.file_header_sha256,
                    )
                )
            advance(session, job, JobState.DONE, finished_at=utc_now(), error=None)

    def store_report(
        self, job_id: int, analyses: Sequence[Analysis], products: Sequence[Product]
    ) -> None:
        """Store what tells of a study revision, the SR first, and set the study's figure.

        Raises LeaseLostError.
        """
        with self.written(products) as batch, self._database.write() as session:
            job, study = _report_job(session, job_id)
            _require_newest(session, study, analyses)
            artifact, *others = (each.artifact() for each in batch.stored)
            for each in (artifact, *others):
                each.study_id, each.revision = job.study_id, job.revision
                session.add(each)
            session.flush()
            session.add_all(
                ReportedAnalysis(artifact_id=artifact.id, analysis_id=analysis.id)
                for analysis in analyses
            )
            set_figure(study, analyses)
            open_if_changed(session, study, job.revision or 0)
            advance(session, job, JobState.DONE, finished_at=utc_now(), error=None)
            record(
                session,
                AuditAction.REPORT_STORED,
                "stored",
                study_instance_uid=study.study_instance_uid,
                sop_instance_uid=artifact.sop_instance_uid,
                details={"revision": artifact.revision, "images": len(analyses)},
                patient={"patient_id": study.patient_id},
            )
            batch.complete(session)

    def end_if_outdated(self, job_id: int) -> bool:
        """End a report job whose study has a newer revision to report; say whether it did so.

        Both would speak of the same images: one of the two reports would be a double. And end one
        whose images were all withdrawn.
        """
        with self._database.write() as session:
            job, study = _report_job(session, job_id)
            error = "a newer revision exists"
            if study.revision <= (job.revision or 0):
                if newest_analyses(session, study.id):
                    return False
                error = "no analysed image is left"
            return advance(session, job, JobState.DONE, finished_at=utc_now(), error=error)

    def give_back(self, job_id: int, max_attempts: int, error: BaseException) -> None:
        """Return a job that broke to the queue, after a pause; end it after the last attempt.

        What is no fault of the job (disk full, database away) uses up no attempt: it is tried
        until it works, so a full disk over a weekend fails no study.
        """
        blameless = isinstance(error, _BLAMELESS)
        reason = _REASONS.get(type(error), Reason.INTERNAL_ERROR)
        name = reason.value if type(error) in _REASONS else type(error).__name__
        with self._database.write() as session:
            job = held(session, job_id)
            if not blameless and job.attempts >= max_attempts:
                _fail_instance(session, job, reason)
                advance(session, job, JobState.DEAD, finished_at=utc_now(), error=name)
                return
            pause = _BLAMELESS_PAUSE if blameless else _PAUSE * job.attempts
            advance(
                session,
                job,
                JobState.PENDING,
                attempts=job.attempts - blameless,
                published_at=None,
                not_before=utc_now() + pause,
                lease_owner=None,
                error=name,
            )

    @contextmanager
    def written(self, products: Sequence[Product]) -> Iterator[Batch]:
        """Write the files, and remove them again when their rows do not come to be.

        A commit that fails may have happened all the same: then the files stay.
        """
        batch = Batch()
        try:
            for product in products:
                key = new_key(product.suffix)
                self._artifacts.write(key, product.data)
                batch.stored.append(Stored(product, key))
            yield batch
        except BaseException:
            if not batch.is_complete:
                self._remove(batch)
            raise
        if not batch.is_wanted:
            self._remove(batch)

    def _remove(self, batch: Batch) -> None:
        for each in batch.stored:
            with contextlib.suppress(OSError):  # it is left over, and a scrub names it
                self._artifacts.delete(each.storage_key)


def _analyse_job(session: Session, job_id: int) -> tuple[Job, Instance]:
    job = held(session, job_id)
    return job, session.get_one(Instance, job.instance_id)


def _report_job(session: Session, job_id: int) -> tuple[Job, Study]:
    job = held(session, job_id)
    return job, session.get_one(Study, job.study_id)


def _shadow_job(session: Session, job_id: int) -> tuple[Job, Instance]:
    job = held(session, job_id)
    return job, session.get_one(Analysis, job.analysis_id).instance


def _end_of(state: InstanceState) -> JobState:
    return JobState.FAILED if state is InstanceState.FAILED else JobState.DONE


def _fail_instance(session: Session, job: Job, reason: Reason) -> None:
    if job.instance is not None and job.kind is JobKind.ANALYSE:
        advance(
            session,
            job.instance,
            InstanceState.FAILED,
            reason=reason.value,
            detail=SENTENCES[reason],
        )


def _require_newest(session: Session, study: Study, analyses: Sequence[Analysis]) -> None:
    """Raise ImageWithdrawnError when an analysis ceased to count while the report was made of it.

    Its image was withdrawn, or analysed again under a corrected identity. Under the lock of the
    study, which whoever does either takes too. A late image is no harm: the next report has it.
    """
    session.refresh(study, with_for_update=True)
    newest = {analysis.id for analysis in newest_analyses(session, study.id)}
    if not newest.issuperset(analysis.id for analysis in analyses):
        raise ImageWithdrawnError


def _analysis(result: AnalysedImage, instance_id: int, model_version_id: int) -> Analysis:
    return Analysis(
        instance_id=instance_id,
        model_version_id=model_version_id,
        caveats=[AnalysisCaveat(caveat=caveat.value) for caveat in result.caveats],
        classification=result.classification.as_row() if result.classification else None,
        **columns_of(result),
    )
