"""The two tasks over a real database, a real decoder child and the shipped network."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import highdicom as hd
import pytest
from phantom_jobs import add_phantom_job
from pydicom import dcmread
from rows import SEG, add_instance, open_database, publish_again
from sqlalchemy import select, update
from sqlalchemy.exc import OperationalError

from dicom_node.ledger import compute
from dicom_node.purgeable import PICTURES
from models.base import utc_now
from models.imaging import Instance, Study
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.result import Analysis, Artifact, ModelVersion, ReportedAnalysis
from models.settings import Settings, load_settings
from models.states import ArtifactKind, InstanceState, JobKind, JobState
from models.storage import Store
from worker import results, tasks
from worker.celery_app import make_runtime
from worker.errors import AnalysisFailed
from worker.figures import measurements_of
from worker.leases import claim
from worker.measurements import measure
from worker.registry import find_bundle
from worker.types import AnalysedImage, Caveat, Zone


@pytest.fixture(scope="module")
def _runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tasks.Runtime]:
    folder = tmp_path_factory.mktemp("node")
    settings = load_settings(None, data_dir=folder, worker={"device": "cpu"})
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


def _files(settings: Settings) -> list[Path]:
    return sorted(path for path in settings.artifact_dir.glob("??/*") if path.is_file())


@pytest.fixture
def job(runtime: tasks.Runtime) -> Callable[..., int]:
    """Put a phantom (or what keyword arguments make of it) into spool and rows; give its job."""

    return partial(add_phantom_job, runtime.settings, runtime.database)


def _rows(runtime: tasks.Runtime, model: type) -> list[object]:
    with runtime.database.read() as session:
        return list(session.scalars(select(model)))


def _one(runtime: tasks.Runtime, model: type) -> object:
    (row,) = _rows(runtime, model)
    return row


def test_an_image_becomes_numbers_a_segmentation_and_pictures(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    tasks.analyse(job(), runtime)
    assert _one(runtime, Instance).state is InstanceState.ANALYSED
    assert _one(runtime, Job).state is JobState.DONE
    analysis = _one(runtime, Analysis)
    artifacts = {row.kind: row for row in _rows(runtime, Artifact)}
    assert set(artifacts) == {ArtifactKind.SEG, *PICTURES}
    root = runtime.settings.artifact_dir
    for row in artifacts.values():
        data = (root / row.storage_key).read_bytes()
        assert hashlib.sha256(data).hexdigest() == row.sha256
    masks = hd.seg.segread(root / artifacts[ArtifactKind.SEG].storage_key).pixel_array
    assert masks[0].sum() == analysis.lung_pixels_left
    assert masks[1].sum() == analysis.lung_pixels_right
    assert masks[2].sum() == analysis.opacity_pixels_total
    # The weights read phantoms high, by 9 points on average (docs/model/report.md).
    assert analysis.opacity_percent_total == pytest.approx(20, abs=15)


def test_a_worker_leaves_the_card_of_its_model_and_a_newer_card_replaces_it(
    runtime: tasks.Runtime,
) -> None:
    (row,) = _rows(runtime, ModelVersion)
    shipped = find_bundle(row.name)
    assert row.card == shipped.card
    assert row.metrics == shipped.metadata.metrics
    again = runtime.store.register_model(shipped.identity, "# corrected", None)
    (row,) = _rows(runtime, ModelVersion)
    assert (row.id, row.card, row.metrics) == (again, "# corrected", shipped.metadata.metrics)


def test_a_message_that_comes_twice_does_nothing_the_second_time(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    job_id = job()
    tasks.analyse(job_id, runtime)
    files = _files(runtime.settings)
    tasks.analyse(job_id, runtime)
    tasks.analyse(job_id + 1000, runtime)  # a message for a row that does not exist
    assert _files(runtime.settings) == files
    assert _one(runtime, Job).attempts == 1


def test_a_lateral_view_gets_a_reason_and_no_number(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    tasks.analyse(job(ViewPosition="LL"), runtime)
    instance = _one(runtime, Instance)
    assert (instance.state, instance.reason) == (InstanceState.NOT_ANALYSED, "lateral_view")
    assert _rows(runtime, Analysis) == _rows(runtime, Artifact) == []


def test_a_worker_whose_lease_was_taken_back_stores_nothing(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, files = job(), _files(runtime.settings)
    real = tasks.analyse_image

    def slow(*arguments: object) -> object:
        with runtime.database.write() as session:
            session.execute(update(Job).values(lease_owner="another:1"))
        return real(*arguments)

    monkeypatch.setattr(tasks, "analyse_image", slow)
    tasks.analyse(job_id, runtime)
    assert _rows(runtime, Analysis) == []
    assert _one(runtime, Instance).state is InstanceState.QUEUED
    assert _files(runtime.settings) == files


def test_software_that_breaks_gives_the_job_back_until_its_attempts_are_used_up(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    job_id = job()
    monkeypatch.setattr(tasks, "analyse_image", broken)
    for attempt in (1, 2):
        tasks.analyse(job_id, runtime)
        row = _one(runtime, Job)
        assert (row.state, row.attempts, row.published_at) == (JobState.PENDING, attempt, None)
        publish_again(runtime.database)
    tasks.analyse(job_id, runtime)
    assert _one(runtime, Job).state is JobState.DEAD
    instance = _one(runtime, Instance)
    assert (instance.state, instance.reason) == (InstanceState.FAILED, "internal_error")


@pytest.mark.parametrize("fault", [OSError(28, "no space"), OperationalError("", {}, Exception())])
def test_a_full_disk_or_a_database_that_is_away_uses_up_no_attempt(
    runtime: tasks.Runtime,
    job: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    fault: Exception,
) -> None:
    def away(*_: object) -> None:
        raise fault

    job_id = job()
    with monkeypatch.context() as patched:
        patched.setattr(tasks, "_products", away)
        for _ in range(5):
            tasks.analyse(job_id, runtime)
            row = _one(runtime, Job)
            assert (row.state, row.attempts) == (JobState.PENDING, 0)
            assert row.not_before > utc_now()
            publish_again(runtime.database)
    tasks.analyse(job_id, runtime)
    assert _one(runtime, Job).state is JobState.DONE


def test_a_disk_that_fills_between_two_files_leaves_none(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _files(runtime.settings)
    real = Store.write

    def full_after_one(store: Store, key: str, data: bytes) -> None:
        if len(_files(runtime.settings)) > len(before):
            raise OSError(28, "no space")
        real(store, key, data)

    monkeypatch.setattr(Store, "write", full_after_one)
    tasks.analyse(job(), runtime)
    assert _one(runtime, Job).state is JobState.PENDING
    assert _files(runtime.settings) == before


def test_a_missing_spool_file_is_not_blamed_on_the_image(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    job_id = job()
    for path in runtime.settings.spool_dir.glob("??/*.dcm"):
        path.unlink()
    tasks.analyse(job_id, runtime)
    assert _one(runtime, Instance).state is InstanceState.QUEUED
    assert (_one(runtime, Job).state, _one(runtime, Job).attempts) == (JobState.PENDING, 0)


def test_rows_that_are_refused_leave_no_files_and_use_up_attempts(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _files(runtime.settings)
    job_id = job()
    monkeypatch.setattr(results, "provenance", lambda _: {"not": object()})  # no JSON
    for attempt in (1, 2):
        tasks.analyse(job_id, runtime)
        assert _one(runtime, Job).attempts == attempt
        publish_again(runtime.database)
    tasks.analyse(job_id, runtime)
    assert _one(runtime, Job).state is JobState.DEAD
    assert _files(runtime.settings) == before


def test_an_impossible_spacing_costs_the_areas_not_the_report(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    tasks.analyse(job(ImagerPixelSpacing=[1e200, 1e200], PixelSpacing=None), runtime)
    assert _one(runtime, Analysis).lung_area_mm2_total is None
    tasks.report(_report_job(runtime, 1), runtime)
    assert ArtifactKind.SR in {row.kind for row in _rows(runtime, Artifact)}


def test_a_report_that_a_newer_revision_overtook_is_not_made(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    tasks.analyse(job(), runtime)
    first, second = _report_job(runtime, 1), _report_job(runtime, 2)
    with runtime.database.write() as session:
        session.execute(update(Study).values(revision=2))
    for job_id in (first, second):
        tasks.report(job_id, runtime)
    reports = [row for row in _rows(runtime, Artifact) if row.kind is ArtifactKind.SR]
    assert [row.revision for row in reports] == [2]


def test_a_lease_is_renewed_while_the_work_runs(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    job_id = job()
    row = claim(runtime.database, job_id, 60.0)
    assert row is not None
    assert utc_now() < row.lease_until <= utc_now() + timedelta(seconds=60)
    assert claim(runtime.database, job_id, 60.0) is None


def _report_job(runtime: tasks.Runtime, revision: int) -> int:
    with runtime.database.write() as session:
        study = session.scalars(select(Study)).one()
        row = Job(kind=JobKind.REPORT, study_id=study.id, revision=revision)
        session.add(row)
        session.flush()
        return row.id


def test_a_study_of_two_images_gets_one_report_then_a_revision(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    root = runtime.settings.artifact_dir
    tasks.analyse(job(), runtime)
    tasks.report(_report_job(runtime, 1), runtime)
    tasks.analyse(job(seed=8), runtime)
    second = _report_job(runtime, 2)
    tasks.report(second, runtime)
    tasks.report(second, runtime)
    with runtime.database.read() as session:
        query = select(Artifact).where(Artifact.kind == ArtifactKind.SR)
        reports = session.scalars(query.order_by(Artifact.revision)).all()
        named = session.scalars(select(ReportedAnalysis.analysis_id)).all()
        percents = session.scalars(select(Analysis.opacity_percent_total)).all()
        study = session.scalars(select(Study)).one()
    assert [row.revision for row in reports] == [1, 2]
    assert len(named) == 3
    assert study.opacity_percent == max(percents)
    first, revised = (dcmread(root / row.storage_key) for row in reports)
    predecessor = revised.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert revised.SOPInstanceUID != first.SOPInstanceUID


def test_the_same_job_done_again_makes_the_same_bytes(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    job_id = job()
    tasks.analyse(job_id, runtime)
    before = {row.kind: row.sha256 for row in _rows(runtime, Artifact)}
    with runtime.database.write() as session:
        for table in ("artifact", "analysis"):
            session.execute(Job.metadata.tables[table].delete())
        session.execute(update(Job).values(state=JobState.PENDING))
        session.execute(update(Instance).values(state=InstanceState.QUEUED))
    tasks.analyse(job_id, runtime)
    assert {row.kind: row.sha256 for row in _rows(runtime, Artifact)} == before


def test_caveats_and_zones_of_an_image_stand_in_its_rows_and_in_the_report(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tasks.analyse_image
    settings = runtime.settings.analysis.model_copy(update={"zone_score": True})

    def uncertain(*arguments: object) -> AnalysedImage:
        result = real(*arguments)
        upright = result.image.orientation
        measured = measure(result.masks, result.image.spacing, settings, upright)
        return replace(result, caveats=(Caveat.UNCERTAIN,), measurements=measured)

    monkeypatch.setattr(tasks, "analyse_image", uncertain)
    tasks.analyse(job(), runtime)
    with runtime.database.read() as session:
        row = session.scalars(select(Analysis)).one()
        assert [it.caveat for it in row.caveats] == ["uncertain"]
        grades = [getattr(row, f"zone_grade_{zone.value}") for zone in Zone]
        assert row.zone_score_total == sum(grades) == row.zone_score_left + row.zone_score_right
        assert row.severity == measurements_of(row).severity
    tasks.report(_report_job(runtime, 1), runtime)
    (report,) = (row for row in _rows(runtime, Artifact) if row.kind is ArtifactKind.SR)
    text = str(dcmread(runtime.settings.artifact_dir / report.storage_key))
    assert text.count("Opacity grade of lung zone") == 6
    assert "UNCERTAIN" in text


def _rest(runtime: tasks.Runtime, state: InstanceState, reason: Reason, **where: str) -> str:
    """Add an image that got no figures; give its UID."""
    instance = add_instance(runtime.database, state=state, **where)
    with runtime.database.write() as session:
        row = session.get_one(Instance, instance)
        row.reason = reason.value
        return row.sop_instance_uid


def test_the_report_lists_what_was_received_and_not_analysed_with_the_reason(
    runtime: tasks.Runtime, job: Callable[..., int]
) -> None:
    tasks.analyse(job(), runtime)
    tasks.analyse(job(seed=8, ViewPosition="LL"), runtime)
    (lateral,) = (row for row in _rows(runtime, Instance) if row.reason)
    broken = _rest(runtime, InstanceState.FAILED, Reason.DECODER_CRASH)
    job_id = _report_job(runtime, 1)
    unnamed = [
        _rest(runtime, InstanceState.QUARANTINED, Reason.PATIENT_MISMATCH),
        _rest(runtime, InstanceState.NOT_ANALYSED, Reason.OWN_RESULT, sop_class_uid=SEG),
        _rest(runtime, InstanceState.FAILED, Reason.DECODER_CRASH, study_instance_uid="1.2.840.2"),
    ]
    tasks.report(job_id, runtime)
    (report,) = (row for row in _rows(runtime, Artifact) if row.kind is ArtifactKind.SR)
    document = dcmread(runtime.settings.artifact_dir / report.storage_key)
    items = document.ContentSequence[-1].ContentSequence
    said = {item.ContentSequence[0].UID: item.ContentSequence[1].TextValue for item in items}
    assert said == {
        lateral.sop_instance_uid: SENTENCES[Reason.LATERAL_VIEW],
        broken: SENTENCES[Reason.DECODER_CRASH],
    }
    assert [uid for uid in unnamed if uid in str(document)] == []
    assert len(_rows(runtime, ReportedAnalysis)) == 1
    lines = {line.name: line for line in compute(runtime.database, runtime.settings)}
    assert lines["images named in the SRs"].balanced


def test_a_failed_decoder_is_a_failed_instance(
    runtime: tasks.Runtime, job: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(*_: object) -> None:
        raise AnalysisFailed(Reason.DECODE_TIMEOUT)

    monkeypatch.setattr(tasks, "analyse_image", hang)
    tasks.analyse(job(), runtime)
    instance = _one(runtime, Instance)
    assert (instance.state, instance.reason) == (InstanceState.FAILED, "decode_timeout")
    assert _one(runtime, Job).state is JobState.FAILED
