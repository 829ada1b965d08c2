"""Counters that read only what is new are what a count of the whole table would be."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rows import add_analysis, add_destination, add_instance, open_database
from sqlalchemy import delete, select, update

from dicom_node.documents import Documents
from dicom_node.web.metrics import Metrics, NodeCollector
from dicom_node.web.metrics import counting as counting_module
from dicom_node.web.metrics.counting import SETTLE_SECONDS, Counts, RowCounter
from dicom_node.web.metrics.live import of_received
from dicom_node.web.metrics.tallies import EVENTS, RECEIVED
from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import Instance
from models.monitoring_sections import MonitoringSettings
from models.result import Analysis
from models.session import Database
from models.settings import Settings, load_settings
from models.states import DeliveryState, InstanceState

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


@pytest.fixture
def _small_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that some rows are many portions."""
    monkeypatch.setattr(counting_module, "PORTION", 3)
    monkeypatch.setattr(counting_module, "FRESH", 2)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _read(database: Database, counter: RowCounter) -> Counts:
    with database.read() as session:
        return counter.read(session)


def _number(database: Database, counter: RowCounter) -> dict[str, int]:
    return {key[0]: numbers[0] for key, numbers in _read(database, counter).items()}


@pytest.mark.usefixtures("_small_portions")
def test_only_new_rows_are_read_and_nothing_is_missed(database: Database) -> None:
    clock, sources = Clock(), ["CR1"] * 7 + ["DX2"] * 4
    counter = RowCounter(RECEIVED, clock)
    for source in sources:
        add_instance(database, calling_aet=source)
    counter.catch_up(database)
    assert counter._floor == 9  # all but the newest two
    assert _number(database, counter) == {"CR1": 7, "DX2": 4}
    for _ in range(5):
        add_instance(database, calling_aet="DX2")
        clock.now += SETTLE_SECONDS / 4
        _number(database, counter)
    assert _number(database, counter) == {"CR1": 7, "DX2": 9}
    assert 11 <= counter._floor < 16
    clock.now += 2 * SETTLE_SECONDS
    for _ in range(2):
        assert _number(database, counter) == {"CR1": 7, "DX2": 9}
        clock.now += 2 * SETTLE_SECONDS
    assert counter._floor == 16


@pytest.mark.usefixtures("_small_portions")
def test_a_row_that_is_committed_after_a_younger_one_is_counted(postgres_url: str) -> None:
    """PostgreSQL gives ids before the commit: a look may see 9 before 8."""
    clock = Clock()
    counter = RowCounter(EVENTS, clock)
    with open_database(postgres_url) as database:
        with database.write() as slow:
            record(slow, AuditAction.QUERY, "first")
            slow.flush()
            with database.write() as fast:
                record(fast, AuditAction.QUERY, "second")
            assert _read(database, counter) == {(AuditAction.QUERY, "second"): (1,)}
            clock.now += SETTLE_SECONDS - 1
            _read(database, counter)
        found = _read(database, counter)
    assert found == {(AuditAction.QUERY, "first"): (1,), (AuditAction.QUERY, "second"): (1,)}


@pytest.mark.usefixtures("_small_portions")
def test_a_restored_database_is_counted_anew(database: Database) -> None:
    clock = Clock()
    counter = RowCounter(EVENTS, clock)
    for _ in range(8):
        with database.write() as session:
            record(session, AuditAction.QUERY, "ok")
    assert _read(database, counter) == {(AuditAction.QUERY, "ok"): (8,)}
    with database.write() as session:
        session.execute(delete(AuditEvent).where(AuditEvent.id > 3))
    assert _read(database, counter) == {(AuditAction.QUERY, "ok"): (3,)}


def test_threads_that_scrape_at_once_count_the_same(database: Database) -> None:
    counter = RowCounter(RECEIVED)
    found: list[dict[str, int]] = []
    for _ in range(6):
        add_instance(database)

    def scrape() -> None:
        found.append(_number(database, counter))

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"PACS": 6}] * 4


def _samples(settings: Settings, database: Database) -> Samples:
    page = Metrics(settings, database, Documents(settings.artifact_store)).render().decode()
    return {
        (sample.name.removeprefix("dicom_node_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_histograms_and_sendings_are_those_of_the_rows(
    settings: Settings, database: Database
) -> None:
    analyses = [
        add_analysis(database, add_instance(database, state=InstanceState.ANALYSED), percent)
        for percent in (0.0, 0.2, 12.5, 99.0)
    ]
    pacs = add_destination(database, "PACS", 104)
    with database.write() as session:
        stages = {"decode_seconds": 0.2, "inference_seconds": 3.0, "objects_seconds": 0.04}
        session.execute(update(Analysis).values(seconds=0.7, **stages))
        for number, (_, segmentation) in enumerate(analyses):
            sent = Delivery(artifact_id=segmentation, destination_id=pacs, state=DeliveryState.SENT)
            session.add(sent)
            session.flush()
            status = 0 if number else 0xA700
            outcome = "sent" if number else "retry"
            details = {"delivery": sent.id, "attempt": 1}
            record(session, AuditAction.ARTIFACT_SENT, outcome, status=status, details=details)
        record(session, AuditAction.ARTIFACT_SENT, "retry", details={"delivery": 1, "attempt": 2})
    found = _samples(settings, database)
    buckets = {key[1]: value for key, value in found.items() if key[0] == "opacity_percent_bucket"}
    assert (buckets["0"], buckets["0.1"], buckets["0.25"], buckets["12.5"]) == (1, 1, 2, 3)
    assert (buckets["90"], buckets["100"], buckets["+Inf"]) == (3, 4, 4)
    assert found["opacity_percent_sum", "unet", "1"] == pytest.approx(111.7)
    assert found["analysis_seconds_count", "unet", "1"] == 4
    assert found["analysis_stage_seconds_sum", "inference"] == pytest.approx(12.0)
    assert found["analysis_stage_seconds_bucket", "0.05", "objects"] == 4
    assert ("analysis_stage_seconds_sum", "gate") not in found  # rows from before there were stages
    assert found["sends_total", "PACS", "sent", "0x0000"] == 3
    assert found["sends_total", "PACS", "retry", "0xA700"] == 1
    assert found["sends_total", "PACS", "retry", "none"] == 1
    assert found["events_total", "artifact_sent", "sent"] == 3


def test_reasons_queues_and_paused_destinations(settings: Settings, database: Database) -> None:
    for reason in ("lateral_view", "lateral_view", "sop_class"):
        key = add_instance(database, state=InstanceState.NOT_ANALYSED)
        with database.write() as session:
            session.execute(update(Instance).where(Instance.id == key).values(reason=reason))
    add_destination(database, "PACS", 104)
    add_destination(database, "AWAY", 105)
    with database.write() as session:
        away = update(Destination).where(Destination.name == "AWAY")
        session.execute(away.values(state="open"))
    found = _samples(settings, database)
    assert found["unanalysed", "lateral_view"] == 2
    assert found["unanalysed", "sop_class"] == 1
    assert found["queue_length", "analyse"] == 0
    assert (found["destination_up", "PACS"], found["destination_up", "AWAY"]) == (1, 0)


def _received(database: Database, **settings: Any) -> Samples:
    counts = _read(database, RowCounter(RECEIVED))
    return {
        (sample.name.removeprefix("dicom_node_"), *sample.labels.values()): sample.value
        for family in of_received(counts, MonitoringSettings(**settings))
        for sample in family.samples
    }


def test_sources_are_bounded_and_keep_their_label(database: Database) -> None:
    for source in ("CR1", "DX2", "CR1", "EVIL", "all", "ICU", "DX2"):
        add_instance(database, calling_aet=source)
    found = _received(database, max_sources=2)
    assert found["received_total", "CR1"] == found["received_total", "DX2"] == 2
    assert found["received_total", "other"] == 3
    assert found["received_bytes_total", "other"] == 3
    assert ("received_total", "all") not in found
    named = _received(database, sources=("ICU",), no_study_minutes_by_calling_ae={"CR9": 5})
    assert {key[1]: value for key, value in named.items() if key[0] == "received_total"} == {
        "ICU": 1,
        "other": 6,
    }
    assert named["no_study_limit_seconds", "CR9"] == 300


def test_silence_is_that_of_the_newest_image(database: Database) -> None:
    for source, hours in (("CR1", 2), ("CR1", 1), ("DX2", 5)):
        key = add_instance(database, calling_aet=source)
        at = utc_now() - timedelta(hours=hours)
        with database.write() as session:
            session.execute(update(Instance).where(Instance.id == key).values(received_at=at))
    found = _received(database, no_study_minutes=30, no_study_minutes_by_calling_ae={"DX2": 0})
    hour = pytest.approx(3600, abs=60)
    assert found["no_study_seconds", "CR1"] == found["no_study_seconds", "all"] == hour
    assert found["no_study_seconds", "DX2"] == pytest.approx(5 * 3600, abs=60)
    assert found["no_study_limit_seconds", "CR1"] == 1800
    assert ("no_study_limit_seconds", "DX2") not in found


def test_scrapes_settle_what_they_have_read(settings: Settings, database: Database) -> None:
    add_analysis(database, add_instance(database, state=InstanceState.ANALYSED))
    clock = Clock()
    collector = NodeCollector(settings, database, Documents(settings.artifact_store), clock)
    list(collector.collect())
    for _ in range(3):
        clock.now += 2 * SETTLE_SECONDS
        list(collector.collect())
    collector._counts.join(60)
    with database.read() as session:
        top = session.scalar(select(Instance.id))
    assert collector._received._floor == top
