"""A known SOP Instance UID with other bytes: update, nothing new, or conflict; end to end."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from flow import Flow, phantom, predecessor_of, running_flow
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from rows import add_analysis, add_instance, count, instances, outcomes
from senders import store
from sqlalchemy import select

from dicom_node.demo.pacs import OrthancPacs
from dicom_node.identity_update import decide_updates
from models.audit import AuditAction
from models.imaging import Instance, Study
from models.job import Job
from models.result import Artifact, newest_analyses, unanalysed_instances
from models.session import Database
from models.settings import load_settings
from models.states import ArtifactKind, InstanceState, JobKind, StudyState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
MakeFlow = Callable[..., Flow]


# What the rows decide is tested on every database; what the worker makes of them on one.
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def flow_of(redis_server: str) -> Iterator[MakeFlow]:
    """Give the loops behind a listener, with or without a PACS behind them."""
    with ExitStack() as stack:
        yield lambda node, pacs=None: stack.enter_context(
            running_flow(node.database, node.settings, redis_server, pacs)
        )


def _states(database: Database) -> list[tuple[str, str | None]]:
    return [(row.state.value, row.reason) for row in instances(database)]


def _study(database: Database) -> Study:
    with database.read() as session:
        return session.scalars(select(Study)).one()


def test_a_corrected_patient_id_issues_the_results_again_and_once(
    listen: Listen, flow_of: MakeFlow, orthanc: OrthancPacs
) -> None:
    node = listen()
    flow = flow_of(node, orthanc)
    first, corrected = phantom(PatientID="P1"), phantom(PatientID="P2", PatientName="New^Name")
    assert store(node.port, first) == 0x0000
    flow.run()
    assert store(node.port, corrected) == 0x0000
    assert _states(node.database)[1] == ("quarantined", "uid_conflict")  # until it was compared
    assert flow.unbalanced() == []
    flow.run()
    assert _states(node.database) == [("superseded", "updated"), ("analysed", None)]
    old, new = instances(node.database)
    assert new.supersedes_id == old.id
    assert (_study(node.database).patient_id, _study(node.database).revision) == ("P2", 2)

    before, after = flow.artifacts(ArtifactKind.SR)
    masks_before, masks_after = flow.artifacts(ArtifactKind.SEG)
    assert predecessor_of(after) == before.SOPInstanceUID
    assert [before.PatientID, after.PatientID] == ["P1", "P2"]
    assert [masks_before.PatientID, masks_after.PatientID] == ["P1", "P2"]
    assert masks_after.SOPInstanceUID != masks_before.SOPInstanceUID
    assert masks_after.PixelData == masks_before.PixelData
    at_pacs = flow.at_pacs()
    for made in (after, masks_after):
        received = at_pacs[made.SOPInstanceUID]
        assert (received.PatientID, received.PatientName) == ("P2", "New^Name")
    assert len(at_pacs) == 4
    assert flow.unbalanced() == []

    for again in (corrected, first):
        assert store(node.port, again) == 0x0000
        flow.run()
    assert len(instances(node.database)) == len(node.spooled) == 2
    assert count(node.database, Artifact) == 10  # SEG, three pictures and SR, twice
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == [
        *("stored", "conflict", "duplicate", "duplicate")
    ]
    assert outcomes(node.database, AuditAction.INSTANCE_COMPARED) == ["update", "outdated"]
    assert flow.unbalanced() == []


@on_one_database
def test_the_same_image_encoded_otherwise_issues_nothing(
    listen: Listen, flow_of: MakeFlow, tmp_path: Path
) -> None:
    node = listen()
    flow = flow_of(node)
    first = phantom(PatientID="P1")
    compressed = phantom(PatientID="P1", StationName="another attribute")
    compressed.compress(RLELossless, generate_instance_uid=False)
    compressed = dcmread(write_part10(tmp_path / "rle.dcm", compressed))
    other_vr = phantom(PatientID="P1", transfer_syntax=ImplicitVRLittleEndian)
    assert store(node.port, first) == 0x0000
    flow.run()
    artifacts = count(node.database, Artifact)
    for again in (compressed, other_vr):
        assert store(node.port, again) == 0x0000
    flow.run()
    same = ("superseded", "same_image")
    assert _states(node.database) == [("analysed", None), same, same]
    assert count(node.database, Artifact) == artifacts
    assert _study(node.database).state is StudyState.DELIVERED
    assert outcomes(node.database, AuditAction.INSTANCE_COMPARED) == ["update", "update"]
    assert flow.unbalanced() == []


@on_one_database
def test_other_pixels_stay_a_conflict_and_so_does_what_has_none(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    first = phantom(PatientID="P1")
    mirrored = phantom(PatientID="P2")
    mirrored.PixelData = first.pixel_array[:, ::-1].tobytes()
    without = phantom(PatientID="P1", PixelData=None)
    for ds in (first, mirrored, without):
        assert store(node.port, ds) == 0x0000
    flow.run()
    conflict = ("quarantined", "uid_conflict")
    assert _states(node.database) == [("analysed", None), conflict, conflict]
    assert all(row.decided_at for row in instances(node.database)[1:])
    assert outcomes(node.database, AuditAction.INSTANCE_COMPARED) == ["conflict", "conflict"]
    assert _study(node.database).patient_id == "P1"
    assert flow.unbalanced() == []


@on_one_database
def test_an_image_that_moves_to_another_study_leaves_the_old_one(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    for study in ("1.2.840.7", "1.2.840.8"):
        assert store(node.port, phantom(PatientID="P1", StudyInstanceUID=study)) == 0x0000
        flow.run()
    with node.database.read() as session:
        old, new = session.scalars(select(Study).order_by(Study.id)).all()
    assert (old.state, new.state) == (StudyState.CLOSED, StudyState.DELIVERED)
    assert [ds.StudyInstanceUID for ds in flow.artifacts(ArtifactKind.SR)] == [
        *("1.2.840.7", "1.2.840.8")
    ]
    assert flow.unbalanced() == []


@on_one_database
def test_an_image_that_could_not_be_analysed_is_analysed_when_it_comes_corrected(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    assert store(node.port, phantom(PatientID="P1", BodyPartExamined="HAND")) == 0x0000
    flow.run()
    assert _states(node.database) == [("not_analysed", "body_part")]
    assert store(node.port, phantom(PatientID="P1")) == 0x0000
    flow.run()
    assert _states(node.database) == [("superseded", "updated"), ("analysed", None)]
    assert _study(node.database).state is StudyState.DELIVERED
    assert flow.unbalanced() == []


def _candidate(database: Database, header: str, study: str = "1.2", **values: object) -> int:
    key = add_instance(
        database,
        sop_instance_uid="1.2.3",
        state=InstanceState.QUARANTINED,
        study_instance_uid=study,
    )
    with database.write() as session:
        row = session.get_one(Instance, key)
        row.reason, row.pixel_sha256, row.header_sha256 = "uid_conflict", "p", header
        for name, value in values.items():
            setattr(row, name, value)
    return key


def test_many_updates_at_once_leave_one_row_that_counts(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whoever decides, and however many do so at once: one is live, each took one's place."""
    settings = load_settings(None, data_dir=tmp_path_factory.mktemp("node"))
    live = add_instance(
        database, sop_instance_uid="1.2.3", state=InstanceState.ANALYSED, study_instance_uid="1.2"
    )
    with database.write() as session:
        row = session.get_one(Instance, live)
        row.pixel_sha256, row.header_sha256 = "p", "h0"
    for number in range(1, 5):
        _candidate(database, f"h{number}", patient_id=f"P{number}")
    for _ in range(6):
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(decide_updates, database, settings) for _ in range(4)]:
                done.result()
        with database.write() as session:  # what a worker would have done by now
            for row in session.scalars(select(Instance)):
                if row.state is InstanceState.QUEUED:
                    row.state = InstanceState.ANALYSED
    rows = instances(database)
    assert [row.state for row in rows] == [InstanceState.SUPERSEDED] * 4 + [InstanceState.ANALYSED]
    assert [row.supersedes_id for row in rows] == [None, *(row.id for row in rows[:-1])]
    assert outcomes(database, AuditAction.INSTANCE_COMPARED) == ["update"] * 4
    assert _study(database).patient_id == "P4"


def test_a_report_never_speaks_of_two_patients(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of a study's images one came again under a corrected identity, the others not yet."""
    settings = load_settings(None, data_dir=tmp_path_factory.mktemp("node"))
    live = add_instance(
        database, sop_instance_uid="1.2.3", state=InstanceState.ANALYSED, study_instance_uid="1.2"
    )
    analysed, broken = (
        add_instance(database, state=state, study_instance_uid="1.2")
        for state in (InstanceState.ANALYSED, InstanceState.FAILED)
    )
    for key in (live, analysed):
        add_analysis(database, key)
    with database.write() as session:
        session.get_one(Instance, live).pixel_sha256 = "p"
        session.get_one(Instance, live).header_sha256 = "h0"
    corrected = _candidate(database, "h1", patient_id="P2")
    assert decide_updates(database, settings) == 1
    with database.write() as session:
        session.get_one(Instance, corrected).state = InstanceState.ANALYSED
    add_analysis(database, corrected)

    def told() -> tuple[set[int], set[int]]:
        with database.read() as session:
            analyses, rest = newest_analyses(session, 1), unanalysed_instances(session, 1)
            return {row.instance_id for row in analyses}, {row.id for row in rest}

    assert told() == ({corrected}, set())
    with database.write() as session:
        for key in (analysed, broken):
            session.get_one(Instance, key).patient_id = "P2"
    assert told() == ({corrected, analysed}, {broken})


@pytest.mark.parametrize(
    ("study", "patient_id", "reason"),
    [("1.2", None, "patient_mismatch"), ("9.9", "P2", "patient_mismatch"), ("9.9", "P1", None)],
)
def test_an_update_brings_no_second_patient_into_a_study(
    database: Database,
    tmp_path_factory: pytest.TempPathFactory,
    study: str,
    patient_id: str | None,
    reason: str | None,
) -> None:
    """One that lost its PatientID, and ones that move into a study which has a patient."""
    settings = load_settings(None, data_dir=tmp_path_factory.mktemp("node"))
    add_instance(database, study_instance_uid="9.9", state=InstanceState.NOT_ANALYSED)
    live = add_instance(
        database, sop_instance_uid="1.2.3", state=InstanceState.ANALYSED, study_instance_uid="1.2"
    )
    with database.write() as session:
        session.get_one(Instance, live).pixel_sha256 = "p"
        session.get_one(Instance, live).header_sha256 = "h0"
    candidate = _candidate(database, "h1", study=study, patient_id=patient_id)
    assert decide_updates(database, settings) == 1
    with database.read() as session:
        row, old = session.get_one(Instance, candidate), session.get_one(Instance, live)
        assert (row.reason, row.state is InstanceState.QUARANTINED) == (reason, bool(reason))
        assert (old.state is InstanceState.ANALYSED) == bool(reason)
        patients = session.scalars(select(Study.patient_id)).all()
    assert patients == ["P1", "P1"]


def test_an_update_waits_for_the_analysis_of_what_it_replaces(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = load_settings(None, data_dir=tmp_path_factory.mktemp("node"))
    add_instance(
        database, sop_instance_uid="1.2.3", state=InstanceState.QUEUED, study_instance_uid="1.2"
    )
    _candidate(database, "h1")
    assert decide_updates(database, settings) == 0
    assert count(database, Job) == 0


def test_what_was_corrected_while_it_was_compared_is_compared_again(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = load_settings(None, data_dir=tmp_path_factory.mktemp("node"))
    live = add_instance(
        database, sop_instance_uid="1.2.3", state=InstanceState.ANALYSED, study_instance_uid="1.2"
    )
    with database.write() as session:
        session.get_one(Instance, live).pixel_sha256 = "p"
    candidate = _candidate(database, "h1")
    assert decide_updates(database, settings) == 1
    with database.read() as session:
        job = session.scalars(select(Job)).one()
    assert (job.kind, job.instance_id) == (JobKind.COMPARE, candidate)
    assert decide_updates(database, settings) == 0  # while that job is out


def test_a_document_sent_twice_with_other_bytes_is_a_conflict(listen: Listen) -> None:
    node = listen()
    first = chest_dataset(PatientID="P1", seed=3)
    assert store(node.port, first) == 0x0000
    other = chest_dataset(PatientID=None, seed=3)
    assert store(node.port, other) == 0x0000
    assert _states(node.database)[1] == ("quarantined", "no_patient_id")
    assert decide_updates(node.database, node.settings) == 0
