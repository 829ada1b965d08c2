"""Rows for tests that start in the middle: a migrated database and what a test names in it."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import event, func, select, update
from sqlalchemy.orm import Session

from migrations.schema import newest_revision, upgrade
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.delivery import Destination
from models.imaging import Instance, Series, Study
from models.job import SHADOW, Job
from models.result import (
    Analysis,
    AnalysisCaveat,
    Artifact,
    ModelVersion,
    ReportedAnalysis,
    ShadowAnalysis,
)
from models.session import Database
from models.states import ArtifactKind, InstanceState, JobKind, JobState

CR = "1.2.840.10008.5.1.4.1.1.1"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.34"
SC = "1.2.840.10008.5.1.4.1.1.7"


@contextmanager
def open_database(url: str) -> Iterator[Database]:
    """Yield a database with the newest schema."""
    kind, _, path = url.partition(":///")
    is_new_file = kind == "sqlite" and not Path(path).exists()
    if is_new_file:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(_migrated_file())
    database = Database(url)
    try:
        if database.engine.dialect.name == "postgresql":
            _migrate_postgres(database)
        elif not is_new_file:
            upgrade(database)
        yield database
    finally:
        database.dispose()


# What the migrations do is done again from here: they take most of the time of a short test.
_MIGRATING: list[str] = []


def _migrate_postgres(database: Database) -> None:
    """Migrate a database; one without tables by the statements of the first time."""
    with database.engine.begin() as connection:
        tables = connection.exec_driver_sql("SELECT to_regclass('alembic_version')").scalar()
        if tables is None and _MIGRATING:
            connection.exec_driver_sql(";".join(_MIGRATING))
            return
        if tables is not None:
            revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version")
            if revision.scalar() == _newest():
                return
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("SELECT"):
            statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    upgrade(database)
    event.remove(database.engine, "before_cursor_execute", note)
    if tables is None:
        _MIGRATING[:] = statements


@cache
def _newest() -> str | None:
    return newest_revision()


@cache
def _migrated_file() -> bytes:
    with TemporaryDirectory(prefix="schema-") as folder:
        path = Path(folder) / "new.db"
        database = Database(f"sqlite:///{path}")
        upgrade(database)
        database.dispose()
        assert [each.name for each in Path(folder).iterdir()] == [path.name]  # no log beside it
        return path.read_bytes()


def random_uid() -> str:
    """Return a fresh UID."""
    return f"2.25.{secrets.randbits(127)}"


def add_instance(
    database: Database,
    *,
    study_instance_uid: str = "1.2.840.1",
    sop_instance_uid: str | None = None,
    data_set_sha256: str | None = None,
    sop_class_uid: str = CR,
    state: InstanceState = InstanceState.RECEIVED,
    presentation_intent: str | None = None,
    storage_key: str | None = None,
    calling_aet: str = "PACS",
) -> int:
    """Add one instance to a study (made when new) and return its id."""
    with database.write() as session:
        study = session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))
        if study is None:
            study = Study(study_instance_uid=study_instance_uid, calling_aet="PACS")
            study.patient_id = "P1"
        series = Series(study=study, series_instance_uid=random_uid(), modality="CR")
        instance = Instance(
            series=series,
            sop_instance_uid=sop_instance_uid or random_uid(),
            sop_class_uid=sop_class_uid,
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            data_set_sha256=data_set_sha256 or secrets.token_hex(32),
            size_bytes=1,
            storage_key=storage_key or secrets.token_hex(16),
            state=state,
            presentation_intent=presentation_intent,
            patient_id="P1",
            calling_aet=calling_aet,
            called_aet="NODE",
        )
        session.add(instance)
        session.flush()
        return instance.id


def add_job(database: Database, instance_id: int, state: JobState = JobState.PENDING) -> int:
    """Add the analyse job of an instance and return its id."""
    with database.write() as session:
        job = Job(kind=JobKind.ANALYSE, instance_id=instance_id, model_selector="unet", state=state)
        session.add(job)
        session.flush()
        return job.id


def publish_again(database: Database) -> None:
    """Mark every waiting job as sent, as the dispatcher does when its pause is over."""
    with database.write() as session:
        waiting = update(Job).where(Job.state == JobState.PENDING)
        session.execute(waiting.values(published_at=utc_now()))


def add_analysis(
    database: Database,
    instance_id: int,
    percent: float = 12.5,
    *,
    severity: str = "mild",
    model: str = "unet",
    caveats: tuple[str, ...] = (),
) -> tuple[int, int]:
    """Add an analysis with its SEG artifact, which counts from now on; return the ids of both."""
    with database.write() as session:
        of_image = Analysis.instance_id == instance_id
        session.execute(update(Analysis).where(of_image).values(is_replaced=True))
        analysis = Analysis(
            instance_id=instance_id,
            model_version=_model(session, model),
            caveats=[AnalysisCaveat(caveat=name) for name in caveats],
            **_numbers(percent, severity),
        )
        segmentation = _artifact(ArtifactKind.SEG, SEG)
        segmentation.analysis = analysis
        session.add(segmentation)
        session.flush()
        return analysis.id, segmentation.id


def _artifact(kind: ArtifactKind, sop_class_uid: str) -> Artifact:
    return Artifact(
        kind=kind,
        sop_class_uid=sop_class_uid,
        sop_instance_uid=random_uid(),
        storage_key=secrets.token_hex(16),
        sha256="0" * 64,
        size_bytes=1,
    )


def add_capture(database: Database, analysis_id: int) -> int:
    """Add the Secondary Capture of an analysis and return the artifact's id."""
    with database.write() as session:
        capture = _artifact(ArtifactKind.SC, SC)
        capture.analysis_id = analysis_id
        session.add(capture)
        session.flush()
        return capture.id


def add_shadow_job(
    database: Database,
    analysis_id: int,
    *,
    model: str = "unet-next",
    state: JobState = JobState.PENDING,
    error: str | None = None,
) -> int:
    """Add the shadow job of an analysis and return its id."""
    with database.write() as session:
        job = Job(
            kind=JobKind.SHADOW,
            analysis_id=analysis_id,
            model_selector=model,
            priority=SHADOW,
            state=state,
            error=error,
        )
        session.add(job)
        session.flush()
        return job.id


def add_shadow_analysis(
    database: Database,
    analysis_id: int,
    percent: float,
    *,
    severity: str = "mild",
    model: str = "unet-next",
) -> int:
    """Add a shadow job that is done, with its figures; return the job's id."""
    job_id = add_shadow_job(database, analysis_id, model=model, state=JobState.DONE)
    with database.write() as session:
        session.add(
            ShadowAnalysis(
                job_id=job_id,
                model_version=_model(session, model),
                **_numbers(percent, severity),
            )
        )
    return job_id


def add_report(
    database: Database,
    analysis_ids: list[int],
    *,
    study_id: int = 1,
    revision: int = 1,
    storage_key: str | None = None,
) -> int:
    """Add the SR of a study revision over these analyses and return the artifact's id."""
    with database.write() as session:
        report = Artifact(
            kind=ArtifactKind.SR,
            study_id=study_id,
            revision=revision,
            sop_class_uid=SR,
            sop_instance_uid=random_uid(),
            storage_key=storage_key or secrets.token_hex(16),
            sha256="0" * 64,
            size_bytes=1,
        )
        session.add(report)
        session.flush()
        session.add_all(
            ReportedAnalysis(artifact_id=report.id, analysis_id=each) for each in analysis_ids
        )
        return report.id


def _model(session: Session, name: str) -> ModelVersion:
    model = session.scalar(select(ModelVersion).where(ModelVersion.name == name))
    return model or ModelVersion(name=name, version="1", sha256="f" * 64)


def _numbers(percent: float, severity: str) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "configuration_hash": "c" * 64,
        "severity": severity,
        "severity_left": severity,
        "severity_right": severity,
        "orientation_assumed": False,
        "device": "cpu",
        "seconds": 0.1,
    }
    for side in ("total", "left", "right"):
        numbers |= {
            f"opacity_percent_{side}": percent,
            f"lung_pixels_{side}": 1000,
            f"opacity_pixels_{side}": round(10 * percent),
        }
    return numbers


def add_destination(database: Database, name: str, port: int) -> int:
    """Add an enabled destination on this machine and return its id."""
    with database.write() as session:
        row = Destination(name=name, ae_title=name, host="127.0.0.1", port=port)
        session.add(row)
        session.flush()
        return row.id


def instances(database: Database) -> list[Instance]:
    """Return every instance in the order of arrival."""
    with database.read() as session:
        return list(session.scalars(select(Instance).order_by(Instance.id)))


def outcomes(database: Database, action: AuditAction) -> list[str]:
    """Return the outcomes of the audit events about `action`, in order."""
    with database.read() as session:
        query = select(AuditEvent.outcome).where(AuditEvent.action == action)
        return list(session.scalars(query.order_by(AuditEvent.id)))


def count(database: Database, model: type) -> int:
    """Return how many rows a table has."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(model)) or 0
