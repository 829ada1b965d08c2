"""Settling, reports, deliveries, leases and publishing: rows in, rows out, with a real broker."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rows import (
    add_analysis,
    add_destination,
    add_instance,
    add_job,
    add_report,
    open_database,
)
from sqlalchemy import insert, select, update

from dicom_node import dispatch
from dicom_node.dispatch import Dispatcher
from dicom_node.ledger import compute
from dicom_node.queue import JobQueue
from dicom_node.taking_back import pause_seconds
from models.base import utc_now
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import Job
from models.messages import QUEUE_ANALYSE
from models.session import Database
from models.settings import load_settings
from models.states import (
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)

DX = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"


class Bench:
    """A dispatcher over a database, with shortcuts to look at rows."""

    def __init__(self, database: Database, dispatcher: Dispatcher, queue: JobQueue) -> None:
        self.database = database
        self.dispatcher = dispatcher
        self.queue = queue

    def run(self, rounds: int = 4) -> None:
        """Dispatch until nothing can move any more."""
        for _ in range(rounds):
            self.dispatcher.step()

    def all(self, model: type, *where: Any) -> list[Any]:
        """Return the rows of a table in order."""
        with self.database.read() as session:
            return list(session.scalars(select(model).where(*where).order_by(model.id)))

    @property
    def study(self) -> Study:
        """The only study."""
        (study,) = self.all(Study)
        return study

    def set(self, model: type, row_id: int, **values: object) -> None:
        """Write columns of one row, as another process would."""
        with self.database.write() as session:
            session.execute(update(model).where(model.id == row_id).values(**values))

    def finish_report(self, analysis_ids: list[int]) -> int:
        """Do the worker's part of the open report job; return the SR's artifact id."""
        (job,) = self.all(Job, Job.kind == JobKind.REPORT, Job.state == JobState.PENDING)
        sr_id = add_report(
            self.database, analysis_ids, study_id=job.study_id, revision=job.revision
        )
        self.set(Job, job.id, state=JobState.DONE)
        return sr_id


@contextmanager
def _bench(url: str, folder: Path, broker_url: str, **dispatch: Any) -> Iterator[Bench]:
    settings = load_settings(
        None, data_dir=folder, database_url=url, dispatch={"settle_seconds": 0} | dispatch
    )
    queue = JobQueue(broker_url)
    with open_database(url) as database:
        try:
            yield Bench(database, Dispatcher(settings, database, queue), queue)
        finally:
            queue.close()


@pytest.fixture
def bench(database_url: str, tmp_path: Path, redis_server: str) -> Iterator[Bench]:
    with _bench(database_url, tmp_path / "data", redis_server) as made:
        yield made


def _analysed(bench: Bench) -> tuple[int, int, int]:
    instance = add_instance(bench.database, state=InstanceState.ANALYSED)
    return (instance, *add_analysis(bench.database, instance))


def test_a_study_settles_only_when_every_job_ended(bench: Bench) -> None:
    _analysed(bench)
    waiting = add_instance(bench.database, state=InstanceState.QUEUED)
    bench.run()
    assert bench.study.state is StudyState.OPEN
    bench.set(Instance, waiting, state=InstanceState.NOT_ANALYSED)
    bench.run()
    assert (bench.study.state, bench.study.revision) == (StudyState.SETTLED, 1)
    assert len(bench.all(Job, Job.kind == JobKind.REPORT)) == 1


def test_a_study_is_left_alone_inside_its_settle_time(
    database_url: str, tmp_path: Path, redis_server: str
) -> None:
    slow = {"settle_seconds": 0, "settle_seconds_by_calling_ae": {"PACS": 3600}}
    with _bench(database_url, tmp_path, redis_server, **slow) as bench:
        _analysed(bench)
        bench.run()
        assert bench.study.state is StudyState.OPEN


def test_a_study_without_any_analysed_image_is_closed(bench: Bench) -> None:
    add_instance(bench.database, state=InstanceState.NOT_ANALYSED)
    bench.run()
    assert bench.study.state is StudyState.CLOSED
    assert bench.all(Job) == bench.all(Delivery) == []


def test_a_study_of_quarantined_images_stays_open(bench: Bench) -> None:
    add_instance(bench.database, state=InstanceState.QUARANTINED)
    bench.run()
    assert bench.study.state is StudyState.OPEN


def test_report_then_deliveries_then_delivered(bench: Bench) -> None:
    _, analysis, segmentation = _analysed(bench)
    for name in ("ONE", "TWO"):
        add_destination(bench.database, name, 104)
    bench.run()
    report = bench.finish_report([analysis])
    bench.run()
    assert bench.study.state is StudyState.REPORTED
    deliveries = bench.all(Delivery)
    assert [(row.artifact_id, row.state) for row in deliveries] == [
        (segmentation, DeliveryState.DUE),
        (report, DeliveryState.DUE),
    ] * 2
    for row in deliveries:
        bench.set(Delivery, row.id, state=DeliveryState.SENT)
    bench.run()
    assert bench.study.state is StudyState.DELIVERED


def test_a_late_image_gives_a_second_revision_and_sends_nothing_twice(bench: Bench) -> None:
    _, first, _ = _analysed(bench)
    add_destination(bench.database, "ONE", 104)
    bench.run()
    bench.finish_report([first])
    bench.run()
    _, second, _ = _analysed(bench)
    bench.set(Study, bench.study.id, state=StudyState.OPEN)
    bench.run()
    assert bench.study.revision == 2
    bench.finish_report([first, second])
    bench.run()
    artifacts = [row.artifact_id for row in bench.all(Delivery)]
    assert len(artifacts) == len(set(artifacts)) == 4  # two SEG, two SR


def test_a_late_image_that_is_not_analysed_makes_no_new_report(bench: Bench) -> None:
    _, first, _ = _analysed(bench)
    add_destination(bench.database, "ONE", 104)
    bench.run()
    bench.finish_report([first])
    # The image comes before the deliveries were planned: they must still come.
    add_instance(bench.database, state=InstanceState.NOT_ANALYSED)
    bench.set(Study, bench.study.id, state=StudyState.OPEN)
    bench.run()
    assert (bench.study.state, bench.study.revision) == (StudyState.REPORTED, 1)
    assert len(bench.all(Delivery)) == 2
    assert len(bench.all(Job, Job.kind == JobKind.REPORT)) == 1


@pytest.mark.parametrize(
    ("sibling", "state", "reason"),
    [
        (InstanceState.ANALYSED, InstanceState.NOT_ANALYSED, "for_processing_sibling"),
        (InstanceState.NOT_ANALYSED, InstanceState.QUEUED, None),  # e.g. a lateral
        (InstanceState.FAILED, InstanceState.QUEUED, None),
        (InstanceState.QUEUED, InstanceState.RECEIVED, None),  # not known yet: wait
        (None, InstanceState.QUEUED, None),
    ],
)
def test_for_processing_is_analysed_only_without_an_analysed_sibling(
    bench: Bench, sibling: InstanceState | None, state: InstanceState, reason: str | None
) -> None:
    raw = add_instance(
        bench.database,
        sop_class_uid=DX_FOR_PROCESSING,
        state=InstanceState.RECEIVED,
        presentation_intent="FOR PROCESSING",
    )
    if sibling:
        add_instance(bench.database, sop_class_uid=DX, state=sibling)
    bench.run()
    (row,) = bench.all(Instance, Instance.id == raw)
    assert (row.state, row.reason) == (state, reason)
    assert len(bench.all(Job, Job.instance_id == raw)) == (state is InstanceState.QUEUED)


def test_an_image_that_arrives_while_a_study_settles_is_reported_too(
    postgres_url: str, tmp_path: Path, redis_server: str
) -> None:
    """Intake holds the study's row; settling must wait for it and then see the new image."""
    with _bench(postgres_url, tmp_path, redis_server) as bench:
        _analysed(bench)
        with bench.database.write() as intake:
            study = intake.scalars(select(Study).with_for_update()).one()
            study.last_received_at = utc_now() + timedelta(seconds=30)
            intake.flush()
            settling = threading.Thread(target=bench.dispatcher.step)
            settling.start()
            settling.join(1.0)
            assert settling.is_alive()  # it waits for the lock
        settling.join()
        assert bench.study.state is StudyState.OPEN


def test_an_expired_lease_is_taken_back_and_given_up_after_the_last_attempt(bench: Bench) -> None:
    instance = add_instance(bench.database, state=InstanceState.QUEUED)
    job_id = add_job(bench.database, instance)
    for attempt in (1, 2, 3):
        past = utc_now() - timedelta(seconds=1)
        bench.set(Job, job_id, state=JobState.LEASED, lease_until=past, attempts=attempt)
        bench.dispatcher.step()
        (job,) = bench.all(Job)
        assert job.state is (JobState.PENDING if attempt < 3 else JobState.DEAD)
        if attempt < 3:  # spaced, further and further
            pause = (job.not_before - utc_now()).total_seconds()
            assert pause == pytest.approx(pause_seconds(attempt), abs=2)
    assert (pause_seconds(1), pause_seconds(2)) == (5, 10)
    (row,) = bench.all(Instance)
    assert (row.state, row.reason) == (InstanceState.FAILED, "worker_lost")
    lines = {line.name: line for line in compute(bench.database, bench.dispatcher._settings)}
    assert lines["instances"].balanced


def test_a_running_lease_is_left_alone(bench: Bench) -> None:
    job_id = add_job(bench.database, add_instance(bench.database, state=InstanceState.QUEUED))
    future = utc_now() + timedelta(seconds=60)
    bench.set(Job, job_id, state=JobState.LEASED, lease_until=future, attempts=1)
    bench.run()
    assert [job.state for job in bench.all(Job)] == [JobState.LEASED]


def test_a_job_is_published_once_and_again_when_its_message_is_lost(bench: Bench) -> None:
    job_id = add_job(bench.database, add_instance(bench.database, state=InstanceState.QUEUED))
    before = bench.queue.depth(QUEUE_ANALYSE)
    bench.run()
    assert bench.queue.depth(QUEUE_ANALYSE) == before + 1
    long_ago = utc_now() - timedelta(seconds=60)
    bench.set(Job, job_id, published_at=long_ago)
    bench.run()
    assert bench.queue.depth(QUEUE_ANALYSE) == before + 1  # its queue is not empty: it waits
    _purge(bench.queue)
    bench.run()
    assert bench.queue.depth(QUEUE_ANALYSE) == 1


def _purge(queue: JobQueue) -> None:
    with queue._app.connection_for_write() as connection:
        connection.default_channel.queue_purge(QUEUE_ANALYSE)


def test_without_a_broker_the_rest_goes_on(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    with _bench(url, tmp_path, "redis://127.0.0.1:1/0") as bench:
        add_instance(bench.database, state=InstanceState.NOT_ANALYSED)
        other = add_instance(
            bench.database, study_instance_uid="1.2.840.2", state=InstanceState.QUEUED
        )
        add_job(bench.database, other)
        with pytest.raises(Exception, match="broker"):
            bench.dispatcher.step()
        states = {row.study_instance_uid: row.state for row in bench.all(Study)}
        assert states["1.2.840.1"] is StudyState.CLOSED


@pytest.mark.parametrize("parts", [["read_key_objects"], ["read_key_objects", "decide_updates"]])
def test_a_part_that_fails_holds_up_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, parts: list[str]
) -> None:
    """A damaged note of one sender must not stop the studies of all."""

    def fail(*_: object) -> int:
        msg = "poison"
        raise ValueError(msg)

    for part in parts:
        monkeypatch.setattr(dispatch, part, fail)
    add_instance(bench.database, state=InstanceState.NOT_ANALYSED)
    with pytest.raises((ValueError, ExceptionGroup)):
        bench.dispatcher.step()
    assert bench.study.state is StudyState.CLOSED


@pytest.mark.parametrize("end", [JobState.DEAD, JobState.FAILED])
def test_a_report_that_cannot_be_made_does_not_hold_the_segmentations(
    bench: Bench, end: JobState
) -> None:
    _, analysis, segmentation = _analysed(bench)
    add_destination(bench.database, "PACS", 104)
    bench.run()
    (job,) = bench.all(Job, Job.kind == JobKind.REPORT)
    assert bench.all(Delivery) == []
    bench.set(Job, job.id, state=end)
    bench.run()
    assert [row.artifact_id for row in bench.all(Delivery)] == [segmentation]
    assert bench.study.state is StudyState.SETTLED
    assert not bench.dispatcher.step()  # planned once
    bench.set(Job, job.id, state=JobState.PENDING)  # it is made after all
    report = bench.finish_report([analysis])
    bench.run()
    assert [row.artifact_id for row in bench.all(Delivery)] == [segmentation, report]
    lines = {line.name: line for line in compute(bench.database, bench.dispatcher._settings)}
    planned = lines["deliveries planned in the audit"]
    assert (planned.left, planned.right) == (2, 2)


def test_thousands_that_a_receiver_refuses_do_not_cost_every_round(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def delivered(*_: object) -> list[int]:
        looks.append(1)
        return []

    monkeypatch.setattr(dispatch, "delivered_studies", delivered)
    monkeypatch.setattr(dispatch, "_SECONDS_PER_STUDY", 3600.0)
    row = {"state": StudyState.REPORTED, "calling_aet": "PACS"}
    with bench.database.write() as session:
        session.execute(
            insert(Study),
            [row | {"study_instance_uid": f"1.{number}"} for number in range(1, dispatch._MANY)],
        )
    bench.run(3)
    assert len(looks) == 3
    with bench.database.write() as session:
        session.execute(insert(Study), [row | {"study_instance_uid": "1.9999"}])
    bench.run(3)
    assert len(looks) == 4
