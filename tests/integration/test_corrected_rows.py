"""What rows decide about corrected identities: comparisons, reports, and what is due."""

from pathlib import Path

import pytest
from rows import (
    add_analysis,
    add_destination,
    add_instance,
    add_report,
    count,
    instances,
    open_database,
)
from sqlalchemy import select, update

from dicom_node.identity_update import decide_updates
from dicom_node.planning import plan_deliveries
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import Job
from models.result import Analysis, newest_analyses
from models.session import Database
from models.settings import load_settings
from models.states import ArtifactKind, InstanceState, JobKind, JobState, StudyState
from models.storage import Store
from worker.errors import ImageWithdrawnError
from worker.leases import claim
from worker.results import Product, ResultStore


def _pair(database: Database, **live_values: object) -> tuple[int, int]:
    """Add an image and another object with its UID that is not decided yet."""
    live, candidate = (
        add_instance(database, sop_instance_uid="1.2.3", state=state, study_instance_uid="1.2")
        for state in (InstanceState.ANALYSED, InstanceState.QUARANTINED)
    )
    with database.write() as session:
        for name, value in live_values.items():
            setattr(session.get_one(Instance, live), name, value)
        session.get_one(Instance, candidate).reason = "uid_conflict"
    return live, candidate


def test_a_comparison_that_cannot_succeed_is_made_once(database_url: str, tmp_path: Path) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    with open_database(database_url) as database:
        _, candidate = _pair(database, pixel_sha256="p", identity_revision=1)
        with database.write() as session:
            row = session.get_one(Instance, candidate)
            row.pixel_sha256, row.header_sha256, row.file_header_sha256 = "p", "h", "h"
        for _ in range(5):
            decide_updates(database, settings)
            with database.write() as session:
                session.execute(update(Job).values(state=JobState.DEAD))
        assert count(database, Job) == 1
        [_, row] = instances(database)
        assert (row.reason, row.decided_at is None) == ("uid_conflict", False)


def test_no_report_is_stored_of_what_was_analysed_again_meanwhile(
    database_url: str, tmp_path: Path
) -> None:
    """After a merge the image is analysed again, as it was before; but under its new identity."""
    with open_database(database_url) as database:
        image = add_instance(database, state=InstanceState.ANALYSED)
        add_analysis(database, image)
        with database.write() as session:
            study = session.scalars(select(Study)).one()
            session.add(job := Job(kind=JobKind.REPORT, study_id=study.id, revision=1))
        assert claim(database, job.id, 60.0) is not None
        with database.read() as session:
            told = list(newest_analyses(session, study.id))
        with database.write() as session:
            session.execute(update(Analysis).values(configuration_hash="b" * 64))
        add_analysis(database, image)
        report = Product(ArtifactKind.SR, b"sr", ".dcm", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.3")
        results = ResultStore(database, Store(tmp_path))
        with pytest.raises(ImageWithdrawnError):
            results.store_report(job.id, told, [report])
        late = add_instance(database, state=InstanceState.ANALYSED)
        with database.read() as session:
            told = list(newest_analyses(session, study.id))
        add_analysis(database, late)  # no harm: the next report has it
        results.store_report(job.id, told, [report])


def test_of_a_study_that_is_corrected_in_part_nothing_of_the_old_patient_is_planned(
    database_url: str, tmp_path: Path
) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    with open_database(database_url) as database:
        add_destination(database, "AWAY", 9)
        images = [add_instance(database, state=InstanceState.ANALYSED) for _ in range(2)]
        analyses, masks = zip(*(add_analysis(database, image) for image in images), strict=True)
        add_report(database, [analyses[0]], revision=1)
        report = add_report(database, [analyses[1]], revision=2)
        with database.write() as session:
            session.get_one(Instance, images[1]).patient_id = "P2"
            study = session.scalars(select(Study)).one()
            study.patient_id, study.revision, study.state = "P2", 2, StudyState.SETTLED
            assert plan_deliveries(session, settings, study)
        with database.read() as session:
            planned = session.scalars(select(Delivery.artifact_id).order_by(Delivery.id)).all()
        assert planned == [masks[1], report]


def test_what_was_corrected_during_its_first_comparison_is_compared_again(
    database_url: str, tmp_path: Path
) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    with open_database(database_url) as database:
        live, candidate = _pair(database)
        assert decide_updates(database, settings) == 1
        with database.write() as session:
            session.get_one(Instance, live).identity_revision = 1
            row = session.get_one(Instance, candidate)
            row.pixel_sha256, row.header_sha256, row.file_header_sha256 = "p", "h", "h"
            session.execute(update(Job).values(state=JobState.DONE))
        assert decide_updates(database, settings) == 1
        [_, row] = instances(database)
        assert (row.reason, row.decided_at) == ("uid_conflict", None)
        with database.read() as session:
            query = select(Job.identity_revision).order_by(Job.id)
            assert session.scalars(query).all() == [0, 1]
