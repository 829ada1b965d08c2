"""Studies for tests of the worklist: with a figure and its report, without one, waiting."""

from datetime import timedelta
from typing import Any

from rows import add_analysis, add_instance, add_report, random_uid
from sqlalchemy import select, update

from models.account import Account, Role
from models.base import utc_now
from models.imaging import Instance, Study
from models.reading import open_if_changed
from models.result import newest_analyses, set_figure
from models.session import Database
from models.states import InstanceState, StudyState

BANDS = ((50.0, "severe"), (25.0, "moderate"), (1.0, "mild"), (0.0, "none"))


def severity_of(percent: float) -> str:
    """Return the band of a percentage by the default bounds."""
    return next(band for bound, band in BANDS if percent >= bound)


def add_study(
    database: Database,
    percent: float | None = None,
    *,
    state: StudyState = StudyState.REPORTED,
    minutes_ago: float = 1.0,
    model: str = "unet",
    caveats: tuple[str, ...] = (),
    reason: str | None = None,
    instance_state: InstanceState | None = None,
    **columns: Any,
) -> str:
    """Add a study and return its UID: with a figure and report, or without both.

    `columns` are those of the study's row.
    """
    uid = random_uid()
    kind = InstanceState.ANALYSED if percent is not None else InstanceState.NOT_ANALYSED
    instance_id = add_instance(database, study_instance_uid=uid, state=instance_state or kind)
    moment = utc_now() - timedelta(minutes=minutes_ago)
    values = {"state": state, "created_at": moment, "last_received_at": moment} | columns
    with database.write() as session:
        session.execute(update(Study).where(Study.study_instance_uid == uid).values(values))
        session.execute(update(Instance).where(Instance.id == instance_id).values(reason=reason))
    if percent is not None:
        add_figure(database, uid, percent, model=model, caveats=caveats)
    return uid


def add_figure(
    database: Database,
    uid: str,
    percent: float,
    *,
    model: str = "unet",
    caveats: tuple[str, ...] = (),
    revision: int = 1,
) -> None:
    """Let a study have another image with this figure, and a report that tells of all its images.

    It does what a worker does when it stores a report.
    """
    instance_id = add_instance(database, study_instance_uid=uid, state=InstanceState.ANALYSED)
    study_id = study_row(database, uid).id
    _give_to_the_patient(database, uid, instance_id)
    add_analysis(
        database,
        instance_id,
        percent,
        severity=severity_of(percent),
        model=model,
        caveats=caveats,
    )
    with database.read() as session:
        analyses = [row.id for row in newest_analyses(session, study_id)]
    add_report(database, analyses, study_id=study_id, revision=revision)
    with database.write() as session:
        study = session.get_one(Study, study_id)
        study.revision = revision
        set_figure(study, newest_analyses(session, study_id))
        open_if_changed(session, study, revision)


def _give_to_the_patient(database: Database, uid: str, instance_id: int) -> None:
    study = study_row(database, uid)
    with database.write() as session:
        image = session.get_one(Instance, instance_id)
        image.patient_id = study.patient_id
        image.issuer_of_patient_id = study.issuer_of_patient_id


def study_row(database: Database, uid: str) -> Study:
    """Return the row of a study."""
    with database.read() as session:
        return session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()


def add_account(database: Database, name: str = "anna", role: Role = Role.VIEWER) -> None:
    """Add an account that nobody can log in to."""
    with database.write() as session:
        session.add(Account(name=name, role=role))
