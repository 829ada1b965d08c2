"""The experiment that a setting switches on: from the image over its row into the report."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from click.testing import CliRunner
from pydicom import dcmread
from pydicom.dataset import Dataset
from rows import add_instance, add_job, open_database
from sqlalchemy import select

from models.analysis_sections import AnalysisSettings
from models.imaging import Study
from models.job import Job
from models.result import Analysis, Artifact
from models.settings import Settings, load_settings
from models.states import ArtifactKind, InstanceState, JobKind
from worker import tasks
from worker.celery_app import make_runtime
from worker.classifier import load_classifier
from worker.cli import main
from worker.errors import BundleError
from worker.loading import verify_models
from worker.training.phantom import make_phantom

CHEST = make_phantom(7, 512, 20.0).pixels >> 4


def settings_with(folder: Path, classifier: str | None) -> Settings:
    return load_settings(
        None,
        data_dir=folder,
        worker={"device": "cpu", "torch_threads": 1},
        analysis={"experimental_classifier": classifier},
    )


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[tasks.Runtime]:
    """A worker with the experiment on."""
    settings = settings_with(tmp_path, "two-step")
    with open_database(settings.effective_database_url):
        runtime = make_runtime(settings)
        try:
            yield runtime
        finally:
            runtime.sandbox.close()
            runtime.database.dispose()


def texts(item: Dataset) -> Iterator[str]:
    if item.get("TextValue"):
        yield item.TextValue
    for child in item.get("ContentSequence", ()):
        yield from texts(child)


def test_the_statement_goes_from_the_image_over_its_row_into_the_report(
    runtime: tasks.Runtime,
) -> None:
    settings = runtime.settings
    ds = chest_dataset(seed=7, pixels=CHEST)
    write_part10(settings.spool_dir / "00" / "a.dcm", ds)
    instance = add_instance(
        runtime.database,
        study_instance_uid=str(ds.StudyInstanceUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        state=InstanceState.QUEUED,
        storage_key="00/a.dcm",
    )
    tasks.analyse(add_job(runtime.database, instance), runtime)
    with runtime.database.write() as session:
        row = session.scalars(select(Analysis)).one().classification
        study = session.scalars(select(Study.id)).one()
        job = Job(kind=JobKind.REPORT, study_id=study, revision=1)
        session.add(job)
        session.flush()
        job_id = job.id
    assert row is not None
    assert row["model"]["name"] == "two-step"
    assert sum(row["probabilities"]) == pytest.approx(1.0)
    tasks.report(job_id, runtime)
    with runtime.database.read() as session:
        query = select(Artifact.storage_key).where(Artifact.kind == ArtifactKind.SR)
        report = dcmread(settings.artifact_dir / session.scalars(query).one())
    said = [text for text in texts(report) if text.startswith("experimental, not validated:")]
    first = f"{row['labels'][0]} {row['probabilities'][0]:.2f}"
    assert len(said) == 1
    assert first in said[0]


def test_the_file_command_states_it_only_where_it_is_on(tmp_path: Path) -> None:
    chest = write_part10(tmp_path / "a.dcm", chest_dataset(seed=7, pixels=CHEST))
    said, uids = [], set()
    for number, line in enumerate(('experimental_classifier = "two-step"', "")):
        config, out = tmp_path / f"{number}.toml", tmp_path / str(number)
        config.write_text(f"[analysis]\n{line}\n[worker]\ndevice = 'cpu'\n", encoding="utf-8")
        options = ["analyse", str(chest), "--out", str(out), "--json", "--config", str(config)]
        done = CliRunner().invoke(main, options)
        assert done.exit_code == 0, done.output
        row = json.loads(done.stdout.splitlines()[-1])
        report = dcmread(next(out.rglob("*.sr.dcm")))
        uids.add(report.SOPInstanceUID)
        said.append([it for it in texts(report) if it.startswith("experimental, not validated")])
        assert row["status"] == "analysed"
    assert [len(found) for found in said] == [1, 0]
    assert len(uids) == 2


def test_the_setting_changes_the_hash_only_where_it_is_on() -> None:
    off, on = AnalysisSettings(), AnalysisSettings(experimental_classifier="two-step")
    assert "experimental_classifier" in on.model_dump()
    assert off.configuration_hash() == AnalysisSettings().configuration_hash()
    assert on.configuration_hash() != off.configuration_hash()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("nonesuch", "'nonesuch' is not installed"), ("unet", "cannot be the experimental classif")],
)
def test_a_classifier_that_is_none_stops_the_worker(
    name: str, sentence: str, tmp_path: Path
) -> None:
    settings = settings_with(tmp_path, name)
    for start in (verify_models, load_classifier):
        with pytest.raises(BundleError, match=sentence):
            start(settings)


def test_a_classifier_cannot_analyse(tmp_path: Path) -> None:
    settings = load_settings(None, data_dir=tmp_path, analysis={"model": "two-step"})
    with pytest.raises(BundleError, match="two-step is a classifier"):
        verify_models(settings)


def test_lungs_of_another_model_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with(tmp_path, "two-step")
    load_classifier(settings)
    assert not caplog.records
    rules = load_settings(None, rules=[{"calling_aet": "CT", "model": "other"}])
    load_classifier(settings.model_copy(update={"rules": rules.rules}))
    assert "knows the lungs of unet, not of ['other']" in caplog.text


def test_it_is_off_unless_it_is_named(tmp_path: Path) -> None:
    assert load_classifier(settings_with(tmp_path, None)) is None
