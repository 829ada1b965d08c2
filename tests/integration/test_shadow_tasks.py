"""The worker's part of a shadow: a second real model over the same image, figures and no more."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from bundles import copy_bundle
from rows import (
    add_instance,
    add_job,
    add_shadow_job,
    count,
    open_database,
    outcomes,
    publish_again,
)
from sqlalchemy import select, update

from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance, Study
from models.job import Job
from models.reasons import Reason
from models.result import Analysis, Artifact, ModelVersion, ReportedAnalysis, ShadowAnalysis
from models.settings import Settings, load_settings
from models.states import InstanceState, JobKind, JobState
from models.storage import Store
from worker import tasks
from worker.celery_app import make_runtime
from worker.errors import BundleError, NotAnalysable
from worker.loading import LoadedModels, verify_models, what_is_installed
from worker.results import ResultStore
from worker.training.phantom import make_phantom
from worker.types import Zone

EAGER = {"lung": 0.5, "opacity": 0.05}  # sees more opacity than the shipped threshold


def _settings(folder: Path, **worker: object) -> Settings:
    return load_settings(
        None,
        data_dir=folder,
        analysis={"zone_score": True},
        shadow={"model": "unet-next"},
        worker={"device": "cpu", "bundle_dirs": [str(folder / "models")]} | worker,
    )


@pytest.fixture(scope="module")
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tasks.Runtime]:
    folder = tmp_path_factory.mktemp("node")
    copy_bundle(folder / "models", "unet-next", version="9", threshold=EAGER)
    settings = _settings(folder)
    with open_database(settings.effective_database_url):
        runtime = make_runtime(settings)
        try:
            yield runtime
        finally:
            runtime.sandbox.close()
            runtime.database.dispose()


@pytest.fixture
def runtime(_runtime: tasks.Runtime) -> tasks.Runtime:
    """The loaded worker, with empty tables."""
    with _runtime.database.write() as session:
        for table in reversed(Job.metadata.sorted_tables):
            if table.name != "model_version":
                session.execute(table.delete())
    return _runtime


@pytest.fixture
def shadow(runtime: tasks.Runtime) -> int:
    """The shadow job of a phantom that was analysed."""
    ds = chest_dataset(PatientID="P1", pixels=make_phantom(7, 512, 20.0).pixels >> 4)
    write_part10(runtime.settings.spool_dir / "00/phantom.dcm", ds)
    instance = add_instance(
        runtime.database,
        sop_instance_uid=str(ds.SOPInstanceUID),
        state=InstanceState.QUEUED,
        storage_key="00/phantom.dcm",
    )
    tasks.analyse(add_job(runtime.database, instance), runtime)
    return add_shadow_job(runtime.database, _one(runtime, Analysis).id)


def _one(runtime: tasks.Runtime, model: type, *where: object) -> object:
    with runtime.database.read() as session:
        return session.scalars(select(model).where(*where)).one()


def _job(runtime: tasks.Runtime) -> Job:
    return _one(runtime, Job, Job.kind == JobKind.SHADOW)


def _files(runtime: tasks.Runtime) -> list[Path]:
    return sorted(runtime.settings.artifact_dir.glob("??/*"))


def test_the_second_model_leaves_figures_and_nothing_else(
    runtime: tasks.Runtime, shadow: int
) -> None:
    before, artifacts = _files(runtime), count(runtime.database, Artifact)
    tasks.shadow(shadow, runtime)
    production, second = _one(runtime, Analysis), _one(runtime, ShadowAnalysis)
    assert _job(runtime).state is JobState.DONE
    assert second.opacity_percent_total > production.opacity_percent_total > 5
    assert second.configuration_hash != production.configuration_hash
    assert (second.job_id, second.zone_score_total is None) == (shadow, False)
    assert (_files(runtime), count(runtime.database, Artifact)) == (before, artifacts)
    assert _one(runtime, Instance).state is InstanceState.ANALYSED
    assert outcomes(runtime.database, AuditAction.SHADOW_ANALYSED) == ["analysed"]
    assert outcomes(runtime.database, AuditAction.INSTANCE_ANALYSED) == ["analysed"]


def test_the_audit_says_with_what_an_image_was_analysed(
    runtime: tasks.Runtime, shadow: int
) -> None:
    tasks.shadow(shadow, runtime)
    instance, study = _one(runtime, Instance), _one(runtime, Study)
    production, second = _one(runtime, Analysis), _one(runtime, ShadowAnalysis)
    for action, analysis in (
        (AuditAction.INSTANCE_ANALYSED, production),
        (AuditAction.SHADOW_ANALYSED, second),
    ):
        event = _one(runtime, AuditEvent, AuditEvent.action == action)
        with runtime.database.read() as session:
            model = session.get_one(ModelVersion, analysis.model_version_id)
        assert event.model == f"{model.name} {model.version}"
        assert event.details["weights_sha256"] == model.sha256
        assert event.details["configuration_sha256"] == analysis.configuration_hash
        assert len(event.details["data_set_sha256"]) == 64
        assert event.details["device"] == "cpu"
        assert event.details["seconds"] > 0
        assert event.sop_instance_uid == instance.sop_instance_uid
        assert event.study_instance_uid == study.study_instance_uid
        assert event.patient_id == instance.patient_id


def test_the_report_speaks_of_the_first_model_only(runtime: tasks.Runtime, shadow: int) -> None:
    tasks.shadow(shadow, runtime)
    with runtime.database.write() as session:
        study = session.scalars(select(Study)).one()
        study.revision = 1
        session.add(Job(kind=JobKind.REPORT, study_id=study.id, revision=1))
    tasks.report(_one(runtime, Job, Job.kind == JobKind.REPORT).id, runtime)
    production = _one(runtime, Analysis)
    assert _one(runtime, ReportedAnalysis).analysis_id == production.id
    assert _one(runtime, Study).opacity_percent == production.opacity_percent_total


def test_zones_and_bands_come_back_from_rows_as_they_went_in(
    runtime: tasks.Runtime, shadow: int
) -> None:
    del shadow
    row = _one(runtime, Analysis)
    grades = [getattr(row, f"zone_grade_{zone.value}") for zone in Zone]
    assert row.zone_score_total == sum(grades) == row.zone_score_left + row.zone_score_right
    assert {row.severity, row.severity_left, row.severity_right} <= {
        "none",
        "mild",
        "moderate",
        "severe",
    }


def test_a_message_that_comes_twice_and_a_retry_give_one_result(
    runtime: tasks.Runtime, shadow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(tasks, "analyse_image", broken)
        tasks.shadow(shadow, runtime)
    assert (_job(runtime).state, _job(runtime).attempts) == (JobState.PENDING, 1)
    publish_again(runtime.database)
    for _ in "ab":
        tasks.shadow(shadow, runtime)
    assert (_job(runtime).state, _job(runtime).attempts) == (JobState.DONE, 2)
    assert count(runtime.database, ShadowAnalysis) == 1


def test_a_worker_whose_lease_was_taken_back_stores_nothing(
    runtime: tasks.Runtime, shadow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.analyse_image

    def slow(*arguments: object) -> object:
        with runtime.database.write() as session:
            session.execute(update(Job).values(lease_owner="another:1", lease_until=utc_now()))
        return real(*arguments)

    monkeypatch.setattr(tasks, "analyse_image", slow)
    tasks.shadow(shadow, runtime)
    assert _job(runtime).state is JobState.LEASED
    assert count(runtime.database, ShadowAnalysis) == 0


def test_software_that_breaks_ends_the_job_and_leaves_the_image(
    runtime: tasks.Runtime, shadow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tasks, "analyse_image", broken)
    for _ in "abc":
        tasks.shadow(shadow, runtime)
        publish_again(runtime.database)
    assert (_job(runtime).state, _job(runtime).error) == (JobState.DEAD, "ZeroDivisionError")
    instance = _one(runtime, Instance)
    assert (instance.state, instance.reason) == (InstanceState.ANALYSED, None)


def test_an_image_that_the_second_model_refuses_is_a_reason_not_a_result(
    runtime: tasks.Runtime, shadow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NotAnalysable(Reason.NO_LUNGS)

    monkeypatch.setattr(tasks, "analyse_image", refuse)
    tasks.shadow(shadow, runtime)
    assert (_job(runtime).state, _job(runtime).error) == (JobState.DONE, "no_lungs")
    assert _one(runtime, Instance).state is InstanceState.ANALYSED
    assert outcomes(runtime.database, AuditAction.SHADOW_ANALYSED) == ["not_analysed"]


def test_a_model_that_is_not_installed_gives_its_reason(
    runtime: tasks.Runtime, shadow: int
) -> None:
    instance = add_instance(runtime.database, state=InstanceState.QUEUED)
    analyse = add_job(runtime.database, instance)
    with runtime.database.write() as session:
        wanted = Job.id.in_((shadow, analyse))
        session.execute(update(Job).where(wanted).values(model_selector="nowhere"))
    for _ in "abc":
        tasks.shadow(shadow, runtime)
        tasks.analyse(analyse, runtime)
        publish_again(runtime.database)
    assert (_job(runtime).state, _job(runtime).error) == (JobState.DEAD, "model_unavailable")
    row = _one(runtime, Instance, Instance.id == instance)
    assert (row.state, row.reason) == (InstanceState.FAILED, "model_unavailable")
    assert "not installed" in row.detail
    others = _one(runtime, Instance, Instance.id != instance)
    assert others.state is InstanceState.ANALYSED


def test_a_worker_starts_without_the_shadow_model_and_not_without_the_others(
    runtime: tasks.Runtime, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _settings(tmp_path)  # no such folder of models
    store = ResultStore(runtime.database, Store(tmp_path))
    verify_models(settings)
    LoadedModels(settings, store).load_all()
    assert "shadow model cannot be loaded" in caplog.text
    rules = [{"calling_aet": "ICU", "model": "nowhere"}]
    missing = load_settings(None, data_dir=tmp_path, rules=rules)
    with pytest.raises(BundleError, match=r"'nowhere' is not installed; installed: .*unet"):
        verify_models(missing)


@pytest.mark.parametrize(
    ("serves", "loaded"),
    [
        ("all", {"unet", "unet-next"}),
        ("analysis", {"unet"}),
        ("shadow", {"unet-next"}),
    ],
)
def test_a_worker_loads_what_it_works_for(
    runtime: tasks.Runtime, serves: str, loaded: set[str]
) -> None:
    settings = _settings(runtime.settings.data_dir, serves=serves)
    models = LoadedModels(settings, runtime.store)
    models.load_all()
    assert set(models._models) == loaded
    installed = what_is_installed(settings)
    assert {"unet", "unet-next"} <= set(installed["models"])
    assert (installed["serves"], installed["problem"]) == (serves, None)


def test_a_bundle_folder_that_is_broken_is_told_not_raised(tmp_path: Path) -> None:
    (copy_bundle(tmp_path / "models", "other") / "configs" / "metadata.json").write_text("{")
    said = what_is_installed(_settings(tmp_path))
    assert said["models"] == []
    assert "other is unusable" in str(said["problem"])


def test_a_worker_says_in_one_sentence_which_model_it_lacks(tmp_path: Path) -> None:
    environment = os.environ | {
        "DICOM_NODE_DATA_DIR": str(tmp_path),
        "DICOM_NODE_RULES": json.dumps([{"calling_aet": "ICU", "model": "nowhere"}]),
    }
    with open_database(f"sqlite:///{tmp_path / 'node.db'}"):
        pass  # it has its tables
    done = subprocess.run(
        [sys.executable, "-m", "worker", "run"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 1
    assert "Error: Model 'nowhere' is not installed" in done.stderr
    assert "Traceback" not in done.stderr
