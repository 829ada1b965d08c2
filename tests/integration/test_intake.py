"""What intake makes of an object: whose it is, whether it is known, whether it may be analysed."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from builders import DX_FOR_PROCESSING, chest_dataset
from rows import add_analysis, add_instance, count, instances, outcomes
from senders import store
from sqlalchemy import select, text, update

from dicom_node.intake import drop_if_extra
from dicom_node.ledger import compute
from dicom_node.recovery import recover_orphans
from dicom_node.spool import Spool
from models.audit import AuditAction
from models.identity import MANUFACTURER, NODE_MODEL_NAME
from models.imaging import Instance, Study
from models.job import Job
from models.log import set_up_logging
from models.result import Artifact
from models.states import InstanceState, JobState, StoreOutcome, StudyState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


def test_the_same_uid_with_other_pixels_is_set_aside(listen: Listen) -> None:
    node = listen()
    ds = chest_dataset(PatientID="P1")
    other = chest_dataset(PatientID="P1", pixels=ds.pixel_array[::-1])
    assert store(node.port, ds) == store(node.port, other) == 0x0000
    first, second = instances(node.database)
    assert first.state is InstanceState.QUEUED
    assert (second.state, second.reason) == (InstanceState.QUARANTINED, "uid_conflict")
    assert len(node.spooled) == 2
    assert count(node.database, Job) == 1
    assert all(line.balanced for line in compute(node.database, node.settings))


@pytest.mark.parametrize("patient_id", ["", "   ", None])
def test_without_patient_id_it_is_stored_and_quarantined(
    listen: Listen, patient_id: str | None
) -> None:
    node = listen()
    assert store(node.port, chest_dataset(PatientID=patient_id)) == 0x0000
    (instance,) = instances(node.database)
    assert (instance.state, instance.reason) == (InstanceState.QUARANTINED, "no_patient_id")
    assert len(node.spooled) == 1
    assert count(node.database, Job) == 0


def test_two_patients_in_one_study_the_second_is_quarantined(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1")
    second = chest_dataset(
        PatientID="P2", StudyInstanceUID=first.StudyInstanceUID, SOPInstanceUID="1.2.999"
    )
    assert store(node.port, first) == store(node.port, second) == 0x0000
    one, two = instances(node.database)
    assert one.state is InstanceState.QUEUED
    assert (two.state, two.reason) == (InstanceState.QUARANTINED, "patient_mismatch")
    with node.database.read() as session:
        assert session.scalars(select(Study.patient_id)).all() == ["P1"]


def test_a_study_knows_when_it_was_made(listen: Listen) -> None:
    node = listen()
    noon = {"StudyDate": "20260101", "StudyTime": "120000"}
    # The second comes into a study that is there already, without a patient until then.
    unknown = chest_dataset(seed="a", PatientID="", **noon)
    known = chest_dataset(
        seed="b",
        StudyInstanceUID=unknown.StudyInstanceUID,
        TimezoneOffsetFromUTC="+0100",
        **noon,
    )
    plain = chest_dataset(seed="c", TimezoneOffsetFromUTC="-0500", **noon)
    for ds in (unknown, known, plain):
        assert store(node.port, ds) == 0x0000
    with node.database.read() as session:
        found = session.scalars(select(Study.exam_at).order_by(Study.id)).all()
    assert found == [datetime(2026, 1, 1, hour, tzinfo=UTC) for hour in (11, 17)]


def test_our_own_result_coming_back_is_recorded_and_dropped(listen: Listen) -> None:
    node = listen()
    analysed = add_instance(node.database, state=InstanceState.ANALYSED)
    _, segmentation = add_analysis(node.database, analysed)
    with node.database.read() as session:
        uid = session.get_one(Artifact, segmentation).sop_instance_uid
    assert store(node.port, chest_dataset(PatientID="P1", SOPInstanceUID=uid)) == 0x0000
    assert [row.id for row in instances(node.database)] == [analysed]
    assert node.spooled == []
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["own_result"]


def test_a_result_of_another_node_like_this_is_kept_and_never_analysed(listen: Listen) -> None:
    node = listen()
    foreign = chest_dataset(
        PatientID="P1", Manufacturer=MANUFACTURER, ManufacturerModelName=NODE_MODEL_NAME
    )
    assert store(node.port, foreign) == 0x0000
    (instance,) = instances(node.database)
    assert (instance.state, instance.reason) == (InstanceState.NOT_ANALYSED, "own_result")
    assert len(node.spooled) == 1


def test_a_radiograph_below_the_hospitals_own_uid_root_is_analysed(listen: Listen) -> None:
    node = listen(objects={"uid_root": "1.2.276.0.99"})
    ds = chest_dataset(PatientID="P1", SOPInstanceUID="1.2.276.0.99.1.5.77")
    assert store(node.port, ds) == 0x0000
    assert [row.state for row in instances(node.database)] == [InstanceState.QUEUED]


def test_a_file_that_a_row_names_is_never_deleted(listen: Listen) -> None:
    """The sweep recorded a file whose listener still waited; the listener then hears duplicate."""
    node = listen()
    assert store(node.port, chest_dataset(PatientID="P1")) == 0x0000
    (instance,) = instances(node.database)
    spool = Spool(node.settings.image_store, 0)
    for outcome in StoreOutcome:
        drop_if_extra(node.database, spool, instance.storage_key, outcome)
    assert len(node.spooled) == 1


def test_two_sweeps_at_once_lose_no_file(listen: Listen) -> None:
    node = listen()
    for number in range(12):
        assert store(node.port, chest_dataset(PatientID="P1", seed=number)) == 0x0000
    with node.database.write() as session:
        for table in ("job", "instance", "series", "study", "audit_event"):
            session.execute(text(f"DELETE FROM {table}"))  # noqa: S608  names from this line
    spool = Spool(node.settings.image_store, 0)
    with ThreadPoolExecutor(2) as pool:
        for sweep in [
            pool.submit(recover_orphans, node.database, node.settings, spool, 0.0) for _ in "ab"
        ]:
            sweep.result()
    named = {node.settings.spool_dir / row.storage_key for row in instances(node.database)}
    assert len(named) == 12
    assert named == set(node.spooled)


def test_a_refused_row_is_not_quoted_in_the_log(
    listen: Listen, capsys: pytest.CaptureFixture[str]
) -> None:
    node = listen()
    with node.database.write() as session:
        session.execute(text("ALTER TABLE instance RENAME COLUMN patient_id TO away"))
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging("listen")
    try:
        assert store(node.port, chest_dataset(PatientID="SECRET-MRN-4711")) == 0xA700
    finally:
        root.handlers[:], root.level = handlers, level
        logging.captureWarnings(capture=False)
    written = capsys.readouterr().err
    assert "0xA700" in written
    assert "SECRET-MRN-4711" not in written


def test_an_issuer_that_one_modality_leaves_out_makes_no_other_patient(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1", IssuerOfPatientID="HOSPITAL")
    for number, issuer in enumerate([None, "HOSPITAL", "ELSEWHERE"]):
        ds = chest_dataset(
            PatientID="P1",
            IssuerOfPatientID=issuer,
            StudyInstanceUID=first.StudyInstanceUID,
            SOPInstanceUID=f"1.2.99.{number}",
        )
        if number == 0:
            assert store(node.port, first) == 0x0000
        assert store(node.port, ds) == 0x0000
    reasons = [row.reason for row in instances(node.database)]
    assert reasons == [None, None, None, "patient_mismatch"]


def test_for_processing_waits_without_a_job(listen: Listen) -> None:
    node = listen()
    raw = chest_dataset(
        PatientID="P1", SOPClassUID=DX_FOR_PROCESSING, PresentationIntentType="FOR PROCESSING"
    )
    assert store(node.port, raw) == 0x0000
    assert [row.state for row in instances(node.database)] == [InstanceState.RECEIVED]
    assert count(node.database, Job) == 0


def test_another_class_is_kept_and_says_why_it_is_not_analysed(listen: Listen) -> None:
    node = listen()
    capture = chest_dataset(PatientID="P1", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    assert store(node.port, capture) == 0x0000
    (instance,) = instances(node.database)
    assert (instance.state, instance.reason) == (InstanceState.NOT_ANALYSED, "sop_class")


def test_a_late_image_opens_the_study_again(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1")
    assert store(node.port, first) == 0x0000
    with node.database.write() as session:
        session.execute(text("UPDATE study SET state = 'delivered'"))
    late = chest_dataset(
        PatientID="P1", StudyInstanceUID=first.StudyInstanceUID, SOPInstanceUID="1.2.999"
    )
    assert store(node.port, late) == 0x0000
    with node.database.read() as session:
        assert session.scalars(select(Study.state)).all() == [StudyState.OPEN]


@pytest.mark.parametrize("reason", ["model_unavailable", "purged"])
def test_an_image_that_failed_for_want_of_something_is_analysed_when_it_comes_again(
    listen: Listen, reason: str
) -> None:
    """As the manual says: install the model, then send the image again."""
    node = listen()
    ds = chest_dataset(PatientID="P1")
    assert store(node.port, ds) == 0x0000
    with node.database.write() as session:
        session.execute(update(Instance).values(state=InstanceState.FAILED, reason=reason))
        session.execute(update(Job).values(state=JobState.DEAD, attempts=3, error=reason))
        session.execute(update(Study).values(state=StudyState.CLOSED))
    assert store(node.port, ds) == 0x0000
    (instance,) = instances(node.database)
    assert (instance.state, instance.reason) == (InstanceState.QUEUED, None)
    with node.database.read() as session:
        job, study = session.scalars(select(Job)).one(), session.scalars(select(Study)).one()
    assert (job.state, job.attempts, study.state) == (JobState.PENDING, 0, StudyState.OPEN)
    assert all(line.balanced for line in compute(node.database, node.settings))


def test_an_image_that_broke_its_worker_is_not_tried_again_because_it_is_sent_again(
    listen: Listen,
) -> None:
    node = listen()
    ds = chest_dataset(PatientID="P1")
    assert store(node.port, ds) == 0x0000
    with node.database.write() as session:
        session.execute(update(Instance).values(state=InstanceState.FAILED, reason="worker_lost"))
        session.execute(update(Job).values(state=JobState.DEAD))
    assert store(node.port, ds) == 0x0000
    assert [row.state for row in instances(node.database)] == [InstanceState.FAILED]
