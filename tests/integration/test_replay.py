"""A study is analysed again: the next revision, and nothing twice."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from flow import Flow, phantom, predecessor_of, running_flow
from pydicom.dataset import Dataset
from rows import add_analysis, add_instance, count, instances, outcomes
from senders import store
from servers import free_port
from sqlalchemy import select, update

from dicom_node.cli import cli
from dicom_node.demo.pacs import OrthancPacs
from dicom_node.errors import OperatorError
from dicom_node.quarantine import Operator
from dicom_node.replay import replay
from models.audit import AuditAction
from models.base import utc_now
from models.imaging import Instance, Study
from models.job import Job
from models.result import Analysis, Artifact, counts_again, newest_analyses
from models.session import Database
from models.settings import Settings, load_settings
from models.states import ArtifactKind, InstanceState, JobState, StudyState
from worker.loading import LoadedModels

_BY = Operator("nurse", "a second opinion")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path)


@contextmanager
def _flow(node: "RunningListener", redis: str, pacs: OrthancPacs) -> Iterator[Flow]:  # noqa: F821  of conftest.py
    """Yield the loops with every shipped model, not with one for all names."""
    with running_flow(node.database, node.settings, redis, pacs) as flow:
        flow.runtime = replace(flow.runtime, models=LoadedModels(flow.settings, flow.runtime.store))
        yield flow


def _study(database: Database) -> Study:
    with database.read() as session:
        return session.scalars(select(Study)).one()


def _masks(report: Dataset) -> set[str]:
    """Return the segmentations that a report names as evidence."""
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
        if item.ReferencedSOPClassUID.name == "Segmentation Storage"
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_another_model_makes_the_next_revision_and_the_first_one_counts_again(
    listen: "Listen",  # noqa: F821  a fixture of conftest.py
    redis_server: str,
    orthanc: OrthancPacs,
) -> None:
    node = listen()
    with _flow(node, redis_server, orthanc) as flow:
        assert store(node.port, phantom(PatientID="P1")) == 0x0000
        flow.run()
        uid, before = _study(node.database).study_instance_uid, _study(node.database)
        held = set(flow.at_pacs())

        for model in (None, "unet"):  # the same again: nothing new
            assert replay(node.database, flow.settings, uid, model, _BY) == 1
            assert _study(node.database).state is StudyState.OPEN
            flow.run()
            after = _study(node.database)
            assert (after.state, after.revision) == (StudyState.DELIVERED, 1)
            assert after.opacity_percent == before.opacity_percent
            assert set(flow.at_pacs()) == held

        assert replay(node.database, flow.settings, uid, "adversarial-unet", _BY) == 1
        flow.run()
        assert _study(node.database).revision == 2
        assert _study(node.database).opacity_percent != before.opacity_percent

        assert replay(node.database, flow.settings, uid, "unet", _BY) == 1
        flow.run()
        last = _study(node.database)
        assert (last.state, last.revision) == (StudyState.DELIVERED, 3)
        assert last.opacity_percent == before.opacity_percent

        first, second, third = flow.artifacts(ArtifactKind.SR)
        assert predecessor_of(second) == first.SOPInstanceUID
        assert predecessor_of(third) == second.SOPInstanceUID
        assert _masks(first) == _masks(third) != _masks(second)
        assert len(flow.artifacts(ArtifactKind.SEG)) == 2
        assert len(flow.at_pacs()) == 5  # two SEGs, three SRs: older revisions stay readable
        files = {path for path in flow.settings.artifact_dir.rglob("*") if path.is_file()}
        assert len(files) == 2 * 4 + 3  # each analysis once, with its three pictures
        assert flow.unbalanced() == []
    assert outcomes(node.database, AuditAction.STUDY_REPLAYED) == ["due"] * 4


def test_one_analysis_of_an_image_counts(database: Database, settings: Settings) -> None:
    image = add_instance(database, state=InstanceState.ANALYSED)
    first, _ = add_analysis(database, image)
    second, _ = add_analysis(database, image, model="other")
    with database.write() as session:
        study = session.scalars(select(Study)).one()
        assert [row.id for row in newest_analyses(session, study.id)] == [second]
        model = session.get_one(Analysis, first).model_version_id
        assert counts_again(session, image, model, "c" * 64)
        session.flush()
        assert [row.id for row in newest_analyses(session, study.id)] == [first]
    assert settings.analysis.model == "unet"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"state": InstanceState.QUEUED}, "is being analysed"),
        ({"state": InstanceState.RECEIVED}, "is being analysed"),
        ({"state": InstanceState.QUARANTINED}, "no image"),
        ({"state": InstanceState.WITHDRAWN, "reason": "rejected_quality"}, "no image"),
        ({"state": InstanceState.NOT_ANALYSED, "reason": "own_result"}, "no image"),
        ({"purged_at": utc_now()}, "were purged"),
    ],
)
def test_what_cannot_be_analysed_again_is_said(
    database: Database, settings: Settings, change: dict[str, object], what: str
) -> None:
    add_instance(database, state=InstanceState.ANALYSED)
    with database.write() as session:
        session.execute(update(Instance).values(**change))
        study = session.scalars(select(Study)).one()
        session.execute(update(Study).values(state=StudyState.DELIVERED))
    with pytest.raises(OperatorError, match=what):
        replay(database, settings, study.study_instance_uid, None, _BY)
    assert count(database, Job) == 0
    assert _study(database).state is StudyState.DELIVERED
    assert outcomes(database, AuditAction.STUDY_REPLAYED) == []


@pytest.mark.parametrize("purged", [False, True])
def test_results_that_retention_removed_are_said(
    database: Database, tmp_path: Path, *, purged: bool
) -> None:
    add_analysis(database, add_instance(database, state=InstanceState.ANALYSED))
    with database.write() as session:
        session.execute(update(Study).values(state=StudyState.DELIVERED))
        if purged:
            session.execute(update(Artifact).values(purged_at=utc_now()))
    command = ["replay", _study(database).study_instance_uid, "--data-dir", str(tmp_path)]
    url = database.url.render_as_string(hide_password=False)
    said = CliRunner().invoke(cli, command, env={"DICOM_NODE_DATABASE_URL": url})
    assert (said.exit_code, said.stdout) == (0, "1 images are analysed again\n")
    what = "1 stored results were removed by retention: those that come out the same stay removed\n"
    assert said.stderr == (what if purged else "")


def test_an_unknown_study_is_said(database: Database, settings: Settings) -> None:
    with pytest.raises(OperatorError, match=r"no study 1\.2\.3"):
        replay(database, settings, "1.2.3", None, _BY)


def test_what_failed_is_tried_again(database: Database, settings: Settings) -> None:
    image = add_instance(database, state=InstanceState.FAILED)
    with database.write() as session:
        session.execute(update(Instance).values(reason="worker_lost"))
        session.add(
            Job(
                kind="analyse",
                instance_id=image,
                model_selector="unet",
                state=JobState.DEAD,
                attempts=3,
                error="worker_lost",
            )
        )
        study = session.scalars(select(Study)).one()
    assert replay(database, settings, study.study_instance_uid, None, _BY) == 1
    with database.read() as session:
        job = session.scalars(select(Job)).one()
        assert (job.state, job.attempts, job.error) == (JobState.PENDING, 0, None)
    assert [(row.state, row.reason) for row in instances(database)] == [
        (InstanceState.QUEUED, None)
    ]


def test_two_replays_at_once_are_one(database: Database, settings: Settings) -> None:
    for _ in range(3):
        add_instance(database, state=InstanceState.ANALYSED, study_instance_uid="1.2.77")
    with database.write() as session:
        session.execute(update(Study).values(state=StudyState.DELIVERED))

    def run(_: int) -> int:
        with suppress(OperatorError):
            return replay(database, settings, "1.2.77", None, _BY)
        return 0

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(run, range(4))) == [0, 0, 0, 3]
    assert count(database, Job) == 3


def test_a_model_that_no_worker_has_is_not_tried(tmp_path: Path) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0"
    command = ["replay", "1.2.3", "--model", "other", "--data-dir", str(tmp_path)]
    said = CliRunner().invoke(cli, command, env={"DICOM_NODE_BROKER_URL": url})
    assert isinstance(said.exception, OperatorError)
    assert "cannot be asked whether they have other" in str(said.exception)
