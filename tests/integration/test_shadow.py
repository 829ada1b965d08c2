"""A second model in the shadow, node side: one job per analysis, and nothing ever follows from it.

Settling, leases, queues, ledger and listings over real databases and a real broker.
"""

import csv
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset, write_part10
from click.testing import CliRunner
from rows import (
    SR,
    add_analysis,
    add_destination,
    add_instance,
    add_report,
    add_shadow_analysis,
    add_shadow_job,
    count,
    open_database,
)
from sqlalchemy import select, update

from dicom_node.cli import cli
from dicom_node.comparison import comparisons, summary
from dicom_node.dispatch import Dispatcher
from dicom_node.intake import queue_for_analysis
from dicom_node.ledger import Line, compute
from dicom_node.queue import JobQueue
from dicom_node.results import ResultFilter, results
from models.base import utc_now
from models.delivery import Delivery
from models.imaging import Instance, Study
from models.job import SHADOW, Job
from models.messages import QUEUE_SHADOW
from models.result import Analysis, Artifact, ShadowAnalysis
from models.session import Database
from models.settings import Settings, load_settings
from models.states import DeliveryState, InstanceState, JobKind, JobState, StudyState

NEXT = {"model": "unet-next"}


class Node:
    """A dispatcher over a database, with shortcuts to rows."""

    def __init__(self, settings: Settings, database: Database, queue: JobQueue) -> None:
        self.settings = settings
        self.database = database
        self.queue = queue
        self.dispatcher = Dispatcher(settings, database, queue)

    def run(self, rounds: int = 4) -> None:
        """Dispatch until nothing can move any more."""
        for _ in range(rounds):
            self.dispatcher.step()

    def all(self, model: type, *where: Any) -> list[Any]:
        """Return rows in order."""
        with self.database.read() as session:
            return list(session.scalars(select(model).where(*where).order_by(model.id)))

    def shadows(self) -> list[Job]:
        """Return the shadow jobs."""
        return self.all(Job, Job.kind == JobKind.SHADOW)

    def set(self, model: type, row_id: int, **values: object) -> None:
        """Write columns of one row, as another process would."""
        with self.database.write() as session:
            session.execute(update(model).where(model.id == row_id).values(**values))

    def analysed(self, percent: float = 12.5, **instance: Any) -> int:
        """Add an analysed instance; return the id of its analysis."""
        row = add_instance(self.database, state=InstanceState.ANALYSED, **instance)
        return add_analysis(self.database, row, percent)[0]

    def report(self, analyses: list[int]) -> None:
        """Do the worker's part of the open report job, with a document on disk."""
        (job,) = self.all(Job, Job.kind == JobKind.REPORT, Job.state == JobState.PENDING)
        key = f"00/sr{job.id}.dcm"
        write_part10(self.settings.artifact_dir / key, chest_dataset(SOPClassUID=SR))
        add_report(
            self.database,
            analyses,
            study_id=job.study_id,
            revision=job.revision,
            storage_key=key,
        )
        self.set(Job, job.id, state=JobState.DONE)

    def ledger(self) -> dict[str, Line]:
        """Return the ledger by name."""
        return {line.name: line for line in compute(self.database, self.settings)}


@pytest.fixture
def node(database_url: str, tmp_path: Path, redis_server: str) -> Iterator[Callable[..., Node]]:
    """Make a node; keyword arguments are settings."""
    queue = JobQueue(redis_server)
    with open_database(database_url) as database:

        def make(**settings: Any) -> Node:
            tree = {"shadow": NEXT, "dispatch": {"settle_seconds": 0}} | settings
            loaded = load_settings(None, data_dir=tmp_path, database_url=database_url, **tree)
            return Node(loaded, database, queue)

        yield make
    queue.close()


Make = Callable[..., Node]


def test_each_analysis_gets_one_job_of_the_lowest_urgency(node: Make) -> None:
    bench = node()
    first = bench.analysed()
    before = bench.queue.depth(QUEUE_SHADOW)
    bench.run()
    (job,) = bench.shadows()
    assert (job.analysis_id, job.model_selector, job.priority) == (first, "unet-next", SHADOW)
    assert job.instance_id is job.study_id is None
    assert bench.queue.depth(QUEUE_SHADOW) == before + 1
    # A late image settles the study again: only the new analysis gets a job.
    second = bench.analysed()
    bench.set(Study, 1, state=StudyState.OPEN)
    bench.run()
    assert [row.analysis_id for row in bench.shadows()] == [first, second]


def test_without_the_setting_nothing_happens(node: Make) -> None:
    bench = node(shadow={})
    bench.analysed()
    bench.run()
    assert bench.shadows() == []


def test_what_was_not_analysed_gets_no_shadow(node: Make) -> None:
    bench = node()
    bench.analysed()
    for state in (InstanceState.NOT_ANALYSED, InstanceState.FAILED, InstanceState.QUARANTINED):
        add_instance(bench.database, state=state)
    bench.run()
    assert len(bench.shadows()) == 1


def test_a_canary_takes_the_share_that_the_uid_decides(node: Make) -> None:
    bench = node(shadow=NEXT | {"share": 0.5})
    taken = {
        analysis
        for number in range(20)
        if (analysis := bench.analysed(sop_instance_uid=f"1.2.3.{number}"))
        and bench.settings.shadow.takes(f"1.2.3.{number}", "PACS")
    }
    bench.run()
    assert 0 < len(taken) < 20
    assert {job.analysis_id for job in bench.shadows()} == taken


def test_a_canary_may_be_of_one_sender_only(node: Make) -> None:
    bench = node(shadow=NEXT | {"calling_aets": ["ICU"]})
    bench.analysed()
    wanted = bench.analysed(calling_aet="ICU")
    bench.run()
    assert [job.analysis_id for job in bench.shadows()] == [wanted]


def test_an_analysis_by_the_second_model_itself_is_not_repeated(node: Make) -> None:
    bench = node(rules=[{"calling_aet": "ICU", "model": "unet-next"}])
    row = add_instance(bench.database, state=InstanceState.ANALYSED, calling_aet="ICU")
    add_analysis(bench.database, row, model="unet-next")
    bench.run()
    assert bench.shadows() == []


@pytest.mark.parametrize(("calling_aet", "model"), [("ICU", "bedside"), ("PACS", "unet")])
def test_an_image_is_queued_for_the_model_of_its_sender(
    node: Make, calling_aet: str, model: str
) -> None:
    bench = node(rules=[{"calling_aet": "ICU", "model": "bedside"}])
    row = add_instance(bench.database, calling_aet=calling_aet)
    with bench.database.write() as session:
        queue_for_analysis(session, bench.settings, session.get_one(Instance, row))
    assert [job.model_selector for job in bench.all(Job)] == [model]


@pytest.mark.parametrize("end", ["dead", "failed", "not_analysed", "pending", "done"])
def test_whatever_becomes_of_it_the_study_is_delivered_and_the_ledger_balances(
    node: Make, end: str
) -> None:
    bench = node()
    analysis = bench.analysed()
    add_destination(bench.database, "ONE", 104)
    bench.run()
    (job,) = bench.shadows()
    _end(bench, job.id, end)
    bench.report([analysis])
    bench.run()
    for row in bench.all(Delivery):
        bench.set(Delivery, row.id, state=DeliveryState.SENT)
    bench.run()
    (instance,) = bench.all(Instance)
    assert (instance.state, instance.reason) == (InstanceState.ANALYSED, None)
    (study,) = bench.all(Study)
    assert (study.state, study.revision) == (StudyState.DELIVERED, 1)
    lines = bench.ledger()
    assert lines["shadow jobs"].balanced
    assert lines["instances"].balanced
    assert lines["analysed instances"].balanced
    assert lines["deliveries planned in the audit"].balanced


def _end(bench: Node, job_id: int, end: str) -> None:
    """Let a worker do to the shadow job what can happen to one."""
    if end == "dead":
        for attempt in (1, 2, 3):
            past = utc_now() - timedelta(seconds=1)
            bench.set(Job, job_id, state=JobState.LEASED, lease_until=past, attempts=attempt)
            bench.dispatcher.step()
        (job,) = bench.shadows()
        assert (job.state, job.error) == (JobState.DEAD, "worker_lost")
    elif end == "failed":
        bench.set(Job, job_id, state=JobState.FAILED, error="time_limit")
    elif end == "not_analysed":
        bench.set(Job, job_id, state=JobState.DONE, error="no_lungs")
    elif end == "done":
        with bench.database.write() as session:
            session.delete(session.get_one(Job, job_id))
        add_shadow_analysis(bench.database, bench.all(Analysis)[0].id, 60.0, severity="severe")


def test_nothing_of_the_second_model_is_sent_or_shown_as_a_result(node: Make) -> None:
    bench = node()
    analysis = bench.analysed(12.5)
    add_destination(bench.database, "ONE", 104)
    bench.run()
    _end(bench, bench.shadows()[0].id, "done")
    bench.report([analysis])
    bench.run()
    sent = {row.artifact_id for row in bench.all(Delivery)}
    assert sent == {row.id for row in bench.all(Artifact)}
    assert {row.analysis_id for row in bench.all(Artifact)} == {analysis, None}
    assert count(bench.database, ShadowAnalysis) == 1
    with bench.database.read() as session:
        (row,) = results(session, bench.settings, ResultFilter())
    assert row["opacity_percent"]["total"] == 12.5
    assert row["model"]["name"] == "unet"


def test_a_lost_result_shows_in_the_ledger(node: Make) -> None:
    bench = node()
    add_shadow_job(bench.database, bench.analysed(), state=JobState.DONE)
    assert not bench.ledger()["shadow jobs"].balanced


def _compared(bench: Node) -> None:
    """Four comparisons with differences +1, +3, +5 and -5, and four jobs without figures."""
    pairs = [(10, 11, "mild"), (20, 23, "mild"), (22, 27, "moderate"), (10, 5, "none")]
    for before, after, band in pairs:
        add_shadow_analysis(bench.database, bench.analysed(before), after, severity=band)
    for state, error in (
        (JobState.DONE, "no_lungs"),
        (JobState.FAILED, "time_limit"),
        (JobState.DEAD, "worker_lost"),
        (JobState.PENDING, None),
    ):
        add_shadow_job(bench.database, bench.analysed(), state=state, error=error)


def test_the_comparison_says_what_became_of_each_and_sums_it_up(node: Make) -> None:
    bench = node()
    _compared(bench)
    with bench.database.read() as session:
        rows = list(comparisons(session, ResultFilter()))
    assert [(row["status"], row["reason"]) for row in rows[3:]] == [
        ("compared", None),
        ("not_analysed", "no_lungs"),
        ("failed", "time_limit"),
        ("failed", "worker_lost"),
        ("pending", None),
    ]
    assert [row["difference"] for row in rows[:4]] == [1, 3, 5, -5]
    assert [row["band_change"] for row in rows[:4]] == [0, 0, 1, -1]
    with_figures, without = sorted(summary(rows), key=lambda row: -row["n"])
    assert with_figures["n"] == 4
    assert with_figures["mean_difference"] == pytest.approx(1.0)
    spread = (56 / 3) ** 0.5  # of 1, 3, 5, -5 around 1
    assert with_figures["lower_limit"] == pytest.approx(1 - 1.96 * spread)
    assert with_figures["upper_limit"] == pytest.approx(1 + 1.96 * spread)
    assert (with_figures["higher_band"], with_figures["lower_band"]) == (1, 1)
    assert without["shadow"]["version"] is without["mean_difference"] is None
    assert (without["not_analysed"], without["failed"], without["pending"]) == (1, 2, 1)


def test_one_comparison_has_a_mean_and_no_limits(node: Make) -> None:
    bench = node()
    add_shadow_analysis(bench.database, bench.analysed(10), 12)
    with bench.database.read() as session:
        (row,) = summary(comparisons(session, ResultFilter()))
    assert (row["mean_difference"], row["lower_limit"]) == (2, None)


def _compare(bench: Node, *options: str) -> str:
    environment = {
        "DICOM_NODE_DATABASE_URL": bench.settings.database_url,
        "DICOM_NODE_DATA_DIR": str(bench.settings.data_dir),
    }
    done = CliRunner().invoke(cli, ["compare", *options], env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_prints_rows_and_summary_in_every_form(node: Make) -> None:
    bench = node()
    _compared(bench)
    rows = [json.loads(line) for line in _compare(bench, "--json").splitlines()]
    assert [row["shadow"]["opacity_percent"] for row in rows] == [11, 23, 27, 5, *[None] * 4]
    table = list(csv.DictReader(StringIO(_compare(bench, "--csv"))))
    assert [row["difference"] for row in table[:4]] == ["1.0", "3.0", "5.0", "-5.0"]
    sums = [json.loads(line) for line in _compare(bench, "--summary", "--json").splitlines()]
    assert sorted(row["n"] for row in sums) == [0, 4]
    assert len(list(csv.DictReader(StringIO(_compare(bench, "--summary", "--csv"))))) == 2
    for_people = _compare(bench)
    assert "mean difference" in for_people
    assert "no_lungs" in for_people


def test_the_command_lists_one_study_only_where_asked(node: Make) -> None:
    bench = node()
    for uid in ("1.2.3", "1.2.4"):
        add_shadow_analysis(bench.database, bench.analysed(study_instance_uid=uid), 5)
    rows = _compare(bench, "--json", "--study-uid", "1.2.4").splitlines()
    assert [json.loads(row)["study_instance_uid"] for row in rows] == ["1.2.4"]
