"""What pages ask of the rows: neighbours, the overview, quarantine, and how long a page takes."""

import re
import statistics
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from rows import add_analysis, add_instance, add_job, add_report, open_database
from sqlalchemy import event, update
from web_accounts import browser
from web_served import PAGE, served, web_settings

from dicom_node.overview import last_contacts, overview
from dicom_node.quarantine import QuarantineFilter, objects
from dicom_node.worklist.neighbours import Neighbours, neighbours
from models.account import Role
from models.audit import AuditAction, record
from models.base import utc_now
from models.imaging import Instance, Study
from models.session import Database
from models.states import InstanceState, JobKind, ReadingState

_PAGE_SECONDS = 0.05  # of processor time, for 50 rows


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with open_database(database_url) as opened:
        yield opened


def _add_study(database: Database, uid: str, percent: float | None) -> None:
    state = InstanceState.NOT_ANALYSED if percent is None else InstanceState.ANALYSED
    add_instance(database, study_instance_uid=uid, state=state)
    order = 1.0 if percent is None else -percent
    with database.write() as session:
        session.execute(
            update(Study)
            .where(Study.study_instance_uid == uid)
            .values(opacity_percent=percent, reading_order=order)
        )


def test_pages_are_turned_in_the_order_of_the_worklist(database: Database) -> None:
    for uid, percent in (("1.1", 10.0), ("1.2", 80.0), ("1.3", None), ("1.4", 40.0), ("1.5", 80.0)):
        _add_study(database, uid, percent)
    with database.read() as session:
        found = {uid: neighbours(session, uid) for uid in ("1.2", "1.5", "1.4", "1.1", "1.3", "9")}
    assert found == {
        "1.2": Neighbours(None, "1.5"),
        "1.5": Neighbours("1.2", "1.4"),
        "1.4": Neighbours("1.5", "1.1"),
        "1.1": Neighbours("1.4", "1.3"),
        "1.3": Neighbours("1.1", None),
        "9": Neighbours(None, None),
    }
    with database.write() as session:
        session.execute(
            update(Study)
            .where(Study.study_instance_uid == "1.4")
            .values(reading_state=ReadingState.READ)
        )
    with database.read() as session:
        assert neighbours(session, "1.5").next == "1.1"
        assert neighbours(session, "1.4") == Neighbours("1.5", "1.1")


def test_the_overview_counts_what_waits_and_what_came(database: Database) -> None:
    waiting = add_instance(database, study_instance_uid="1.1", state=InstanceState.QUEUED)
    add_job(database, waiting)
    old = add_instance(database, study_instance_uid="1.2", state=InstanceState.QUARANTINED)
    with database.write() as session:
        session.execute(
            update(Instance)
            .where(Instance.id == old)
            .values(received_at=utc_now() - timedelta(hours=30))
        )
        record(session, AuditAction.INSTANCE_ANALYSED, "analysed")
        record(session, AuditAction.INSTANCE_ANALYSED, "failed")
    with database.read() as session:
        found = overview(session)
        assert last_contacts(session) == {}
    assert (found.waiting_jobs, found.in_quarantine, found.open_deliveries) == (1, 1, 0)
    assert found.oldest_job is not None
    assert {queue.kind: queue.waiting for queue in found.queues} == {
        kind: int(kind is JobKind.ANALYSE) for kind in JobKind
    }
    assert len(found.hours) == 24
    assert [(hour.received, hour.analysed) for hour in found.hours][-2:] in (
        [(0, 0), (1, 1)],
        [(1, 1), (0, 0)],  # the hour has just turned
    )


def test_quarantine_is_read_page_by_page_and_by_its_index(database: Database) -> None:
    ids = [
        add_instance(database, study_instance_uid=f"1.{number}", state=InstanceState.QUARANTINED)
        for number in range(4)
    ]
    with database.write() as session:
        session.execute(update(Instance).values(reason="no_patient_id"))
    with database.read() as session:
        first = list(objects(session, QuarantineFilter(limit=3)))
        rest = list(objects(session, QuarantineFilter(after=first[-1]["id"], limit=3)))
        assert [row["id"] for row in (*first, *rest)] == ids


@pytest.mark.parametrize("asked", ["objects", "overview"])
def test_quarantine_is_found_by_its_index(tmp_path: Path, asked: str) -> None:
    plans: list[str] = []

    def explain(_connection: object, cursor: Any, statement: str, values: Any, *_: object) -> None:
        if "instance.state = 'quarantined'" in statement:
            rows = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
            plans.append(str(rows))

    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        event.listen(database.engine, "before_cursor_execute", explain)
        with database.read() as session:
            if asked == "objects":
                list(objects(session, QuarantineFilter(after=1, limit=3)))
            else:
                overview(session)
    (plan,) = plans
    assert "SEARCH instance USING INDEX ix_instance_quarantined" in plan


def test_a_page_of_50_studies_takes_less_than_50_ms(tmp_path: Path) -> None:
    with served(web_settings(tmp_path)) as (database, client):
        for number in range(60):
            uid = f"1.2.{number}"
            _add_study(database, uid, number * 1.5)
        for number in range(60):
            analysis, _ = add_analysis(database, number + 1, number * 1.5, caveats=("uncertain",))
            add_report(database, [analysis], study_id=number + 1)
        headers = {**browser(database, Role.VIEWER).headers, "Accept": "text/html"}
        assert _get(client, headers).text.count("data-href") == 50
        taken = statistics.median(_seconds(client, headers) for _ in range(9))
        # Of client and server together, and of the processor: other tests run on it, too.
        assert taken < _PAGE_SECONDS


def test_the_next_page_of_a_search_is_of_the_same_patient(tmp_path: Path) -> None:
    with served(web_settings(tmp_path)) as (database, client):
        for number in range(53):
            _add_study(database, f"1.2.{number}", number * 1.5)
        _add_study(database, "1.3", 90.0)
        with database.write() as session:
            other = update(Study).where(Study.study_instance_uid == "1.3")
            session.execute(other.values(patient_id="P2"))
        headers = {**browser(database, Role.VIEWER).headers, **PAGE}
        first = client.post("/", data={"patient_id": "P1"}, headers=headers).text
        assert first.count("data-href") == 50
        assert 'rel="next"' not in first  # an address would name the patient, or nobody
        form = first[first.rindex('<form method="post" action="/"') :].partition("</form>")[0]
        sent = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
        assert (sent["patient_id"], "cursor" in sent) == ("P1", True)
        last = client.post("/", data=sent, headers=headers).text
    assert re.findall(r'data-href="/studies/([0-9.]+)"', last) == ["1.2.2", "1.2.1", "1.2.0"]
    assert "<button>Next" not in last


def _get(client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
    answer = client.get("/", headers=headers)
    assert answer.status_code == 200
    return answer


def _seconds(client: httpx.Client, headers: dict[str, str]) -> float:
    begun = time.process_time()
    _get(client, headers)
    return time.process_time() - begun
