"""`/metrics`: parsed as Prometheus does, true to the rows, cheap, and without patient data."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rows import (
    add_analysis,
    add_destination,
    add_instance,
    add_job,
    add_report,
    open_database,
)
from sqlalchemy import text, update
from steps import add_workitem

from dicom_node.documents import Documents
from dicom_node.web.app import create_app
from dicom_node.web.metrics import HELP, Metrics, NodeCollector
from dicom_node.web.metrics.page import COSTLY_SECONDS
from models.base import utc_now
from models.delivery import Delivery
from models.job import Job
from models.running import register
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, JobState
from models.storage import Store
from models.workitem import WorkitemWatcher

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


def _samples(page: str) -> Samples:
    return {
        (sample.name.removeprefix("dicom_node_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def _page(settings: Settings, database: Database) -> Metrics:
    return Metrics(settings, database, Documents(settings.artifact_store))


def _scrape(settings: Settings, database: Database) -> Samples:
    return _samples(_page(settings, database).render().decode())


async def _get(settings: Settings, database: Database, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(create_app(settings, database))
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        return await client.get(path)


def test_the_page_counts_what_the_rows_say(settings: Settings, database: Database) -> None:
    hour_ago = utc_now() - timedelta(hours=1)
    waiting = add_instance(database, state=InstanceState.QUEUED)
    add_job(database, waiting)
    analysed = add_instance(database, state=InstanceState.ANALYSED)
    analysis, _ = add_analysis(database, analysed)
    report = add_report(database, [analysis])
    pacs = add_destination(database, "PACS", 104)
    with database.write() as session:
        session.add(Delivery(artifact_id=report, destination_id=pacs, created_at=hour_ago))
        session.execute(update(Job).values(not_before=hour_ago, published_at=hour_ago))
    answer = asyncio.run(_get(settings, database, "/metrics"))
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = _samples(answer.text)
    assert found["instances", ("queued",)] == found["instances", ("analysed",)] == 1
    assert found["instances", ("failed",)] == 0
    assert found["jobs", ("analyse", "pending")] == 1
    assert found["deliveries", ("PACS", "due")] == 1
    assert found["studies", ("open",)] == 1
    assert not any(name == "workitem_messages" for name, _ in found)
    assert found["database_up", ()] == found["schema_ok", ()] == 1
    for name in ("oldest_pending_job_seconds", "oldest_published_job_seconds"):
        assert found[name, ()] == pytest.approx(3600, abs=60)
    assert found["oldest_due_delivery_seconds", ("PACS",)] == pytest.approx(3600, abs=60)
    assert found["spool_free_bytes", ()] > 0
    assert found["spool_floor_bytes", ()] == settings.dicom.min_free_bytes
    assert found["ledger_balanced", ("C-STORE successes in the audit",)] == 0
    assert found["ledger_difference", ("C-STORE successes in the audit",)] == -2
    assert found["ledger_balanced", ("settled studies",)] == 1
    assert found["missing_files", ()] == 2
    for word in ("P1", "1.2.840.1"):  # the PatientID and the study of these rows
        assert word not in answer.text.replace("version=0.0.4", "")


def test_messages_of_a_receiver_are_counted_in_every_state(
    settings: Settings, database: Database
) -> None:
    """From the first message on: an alarm is about a change, and a new series is none."""
    with database.write() as session:
        session.add(WorkitemWatcher(ae_title="RIS", is_manager=False))
    add_workitem(database)
    found = _scrape(settings, database)
    counted = {
        key[1]: number for (name, key), number in found.items() if name == "workitem_messages"
    }
    assert counted == {"due": 1, "accepted": 0, "dead": 0}


def test_every_metric_that_is_listed_is_there(
    settings: Settings, database: Database, redis_server: str
) -> None:
    register(settings.data_dir, "web")
    settings = settings.model_copy(update={"broker_url": redis_server})
    page = _page(settings, database)
    page.render()
    page.collector.settle()
    text = page.render().decode()
    names = {line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}
    assert names == {f"dicom_node_{name}" for name in HELP}
    found = _samples(text)
    assert found["broker_up", ()] == 1
    assert found["broker_messages", ("analyse",)] >= 0  # the broker is that of other tests, too
    assert found["processes", ("main", "web")] == 1
    assert found["process_memory_bytes", ("main", "web")] > 1e6
    assert 0 < found["process_open_files_share", ("main", "web")] < 1
    assert found["database_bytes", ()] > 1e4


def test_expired_leases_are_counted(settings: Settings, database: Database) -> None:
    add_job(database, add_instance(database, state=InstanceState.QUEUED))
    past = utc_now() - timedelta(seconds=1)
    with database.write() as session:
        session.execute(update(Job).values(state=JobState.LEASED, lease_until=past))
    assert _scrape(settings, database)["expired_leases", ()] == 1


def test_the_costly_part_is_read_once_a_minute(
    settings: Settings, database: Database, redis_server: str
) -> None:
    settings = settings.model_copy(update={"broker_url": redis_server})
    now = [1000.0]
    collector = NodeCollector(
        settings, database, Documents(settings.artifact_store), monotonic=lambda: now[0]
    )

    def queued() -> float:
        families = {family.name: family for family in collector.collect()}
        collector.settle()
        samples = families["dicom_node_instances"].samples
        return next(it.value for it in samples if it.labels["state"] == "queued")

    assert queued() == 0
    add_instance(database, state=InstanceState.QUEUED)
    now[0] += COSTLY_SECONDS - 1
    assert queued() == 0
    now[0] += 1
    queued()  # begins the next reading, and does not wait for it
    assert queued() == 1


def test_without_a_database_the_page_says_so(settings: Settings, tmp_path: Path) -> None:
    nowhere = Database(f"sqlite:///{tmp_path / 'gone' / 'node.db'}")
    (tmp_path / "gone").rmdir()
    found = _scrape(settings, nowhere)
    assert found["database_up", ()] == found["schema_ok", ()] == 0
    assert found["spool_free_bytes", ()] > 0


def test_without_the_spool_the_page_says_so(settings: Settings, database: Database) -> None:
    """A disk that cannot be read any more must not take the page with it."""
    settings.data_dir.mkdir(parents=True)
    settings.spool_dir.write_text("no folder")
    found = _scrape(settings, database)
    assert found["spool_up", ()] == 0
    assert found["database_up", ()] == 1
    assert found["oldest_pending_job_seconds", ()] == 0
    assert ("missing_files", ()) not in found


def test_another_schema_shows(settings: Settings, database: Database) -> None:
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    found = _scrape(settings, database)
    assert (found["schema_ok", ()], found["database_up", ()]) == (0, 1)


def test_a_document_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    documents = Documents(Store(tmp_path))
    assert documents.images_in("gone.dcm") == frozenset()
    (tmp_path / "bad.dcm").write_bytes(b"no DICOM")
    assert documents.images_in("bad.dcm") == frozenset()


@pytest.mark.parametrize("name", HELP)
def test_the_documentation_explains_every_metric(repository: Path, name: str) -> None:
    table = (repository / "docs" / "monitoring.md").read_text()
    assert table.count(f"| `dicom_node_{name}`") == 1
