"""`dicom-node deliveries`, `retry --destination` and REST: dead letters with their reasons."""

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import uvicorn
from click.testing import CliRunner, Result
from delivery_bench import Bench
from rows import add_destination, open_database, outcomes
from servers import free_port, wait_until
from sqlalchemy import select, update
from web_accounts import bearer

from dicom_node import circuit, retrying
from dicom_node.cli import cli
from dicom_node.deliveries import DeliveryFilter, delivery_page
from dicom_node.paging import encode
from dicom_node.quarantine import Operator
from dicom_node.web.app import create_app
from models.account import Role, Scope
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.sections import DeliverySettings
from models.settings import load_settings
from models.states import DeliveryState

REASON = "C-STORE was answered 0xA900"


@pytest.fixture
def bench(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Two studies to two destinations; of the first, everything is rejected."""
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", database_url)
    monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path / "data"))
    settings = load_settings(None)
    with open_database(database_url) as database:
        made = Bench(database, settings, 2)
        for name in ("first", "second"):
            made.plan(add_destination(database, name, 104))
        with database.write() as session:
            dead = {"state": DeliveryState.REJECTED, "error": REASON, "status": 0xA900}
            session.execute(
                update(Delivery).where(Delivery.destination_id == 1).values(**dead, attempts=4)
            )
        yield made


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments])


def _listed(*arguments: str) -> list[dict[str, Any]]:
    result = _run("deliveries", "--json", *arguments)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


Get = Callable[..., tuple[int, Any]]


@contextmanager
def _web(bench: Bench) -> Iterator[Get]:
    """Serve the application; yield a function that gives status and JSON of a path to operators."""
    headers = bearer(bench.database, Role.OPERATOR, Scope.DELIVERIES, Scope.SYSTEM)
    port = free_port()
    app = create_app(bench.settings, bench.database)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()

    def get(path: str, **query: object) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(query)}", headers=headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    try:
        wait_until(lambda: server.started, 20, "the web application")
        yield get
    finally:
        server.should_exit = True
        thread.join()


def test_every_delivery_is_listed_with_its_reason(bench: Bench) -> None:
    rows = _listed()
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {row["sop_instance_uid"] for row in rows} == set(bench.files())
    assert len({row["study_instance_uid"] for row in rows}) == 2
    first = rows[0]
    assert first["kind"] in {"seg", "sr"}
    assert (first["destination"], first["state"], first["attempts"]) == ("first", "rejected", 4)
    assert (first["status"], first["reason"], first["next_attempt_at"]) == (0xA900, REASON, None)
    assert rows[-1]["next_attempt_at"] is not None
    assert rows[-1]["destination_circuit"] == "closed"


def test_the_listing_is_narrowed(bench: Bench) -> None:
    study = _listed()[0]["study_instance_uid"]
    assert len(_listed("--state", "rejected")) == len(_listed("--destination", "first")) == 4
    assert len(_listed("--study-uid", study)) == 4
    assert len(_listed("--study-uid", study, "--state", "due", "--destination", "second")) == 2
    assert _listed("--until", "2020-01-01") == []
    assert len(_listed("--since", "2020-01-01")) == 8
    assert _listed("--destination", "nobody") == []
    assert _listed("--study-uid", "1.2.3") == []
    assert _run("deliveries", "--state", "lost").exit_code == 2
    with bench.database.read() as session:
        first, second = (
            delivery_page(session, DeliveryFilter(), descends=False, cursor=each, limit=3)
            for each in (None, encode(["planned-asc", 0, 3]))
        )
    assert [row["id"] for row in first.rows + second.rows] == [1, 2, 3, 4, 5, 6]


def test_people_and_spreadsheets_read_it_too(bench: Bench) -> None:
    text = _run("deliveries", "--csv").output
    assert len(list(csv.DictReader(io.StringIO(text)))) == len(bench.all_rows())
    shown = _run("deliveries", "--state", "rejected").output
    assert REASON in shown


def test_dead_letters_stay_until_they_are_retried_and_their_reason_longer(bench: Bench) -> None:
    result = _run("retry", "--destination", "first")
    assert (result.exit_code, result.output) == (0, "4 due again\n")
    assert {row["state"] for row in _listed()} == {"due"}
    assert {row["reason"] for row in _listed("--destination", "first")} == {REASON}
    assert outcomes(bench.database, AuditAction.DELIVERIES_DUE_AGAIN) == ["due"]
    with bench.database.read() as session:
        action = AuditEvent.action == AuditAction.DELIVERIES_DUE_AGAIN
        by = session.scalars(select(AuditEvent.actor).where(action)).all()
    assert by == [Operator.of_this_process("").name]
    assert _run("retry", "--destination", "first").output == "0 due again\n"
    result = _run("retry", "--destination", "nobody")
    assert "no destination is named 'nobody'" in str(result.exception)
    for wrong in ([], ["--all", "1"], ["1", "--destination", "first"]):
        assert _run("retry", *wrong).exit_code == 2


def test_many_are_retried_in_blocks_each_with_its_event(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "_BLOCK", 3)
    assert retrying.retry(bench.database, actor="eve") == 4
    assert bench.states() == {DeliveryState.DUE}
    with bench.database.read() as session:
        action = AuditEvent.action == AuditAction.DELIVERIES_DUE_AGAIN
        events = session.scalars(select(AuditEvent).where(action).order_by(AuditEvent.id)).all()
    assert [(each.actor, each.details["deliveries"]) for each in events] == [("eve", 3), ("eve", 1)]


def test_one_delivery_is_retried_by_its_id(bench: Bench) -> None:
    assert _run("retry", "2").output == "1 due again\n"
    assert [row["id"] for row in _listed("--state", "rejected")] == [1, 3, 4]
    assert len(bench.all_rows()) == 8


def test_a_pause_is_shown_where_deliveries_are(bench: Bench) -> None:
    settings = DeliverySettings(circuit_failures=1, backoff_seconds=60)
    with bench.database.write() as session:
        circuit.note_failure(session, 2, settings, circuit.Failure("nobody there"))
    row = _listed("--destination", "second")[0]
    assert row["destination_circuit"] == "open"
    with bench.database.read() as session:
        retry_at = session.get_one(Destination, 2).retry_at
    assert retry_at is not None
    assert retry_at > utc_now() + timedelta(seconds=20)
    assert row["next_attempt_at"] == retry_at.isoformat(timespec="milliseconds")
    with _web(bench) as get:
        _, (first, second) = get("destinations")
    assert (first["circuit"], first["deliveries"]) == ("closed", {"rejected": 4})
    assert (second["circuit"], second["failures"], second["reason"]) == ("open", 1, "nobody there")
    assert second["deliveries"] == {"due": 4}


def test_rest_lists_the_same(bench: Bench) -> None:
    with _web(bench) as get:
        _, everything = get("deliveries", order="asc")
        assert [row["id"] for row in everything["items"]] == [row["id"] for row in _listed()]
        assert everything["items"][0]["reason"] == REASON
        wanted = {"state": "rejected", "destination": "first", "limit": 3}
        _, chosen = get("deliveries", **wanted)
        assert [row["id"] for row in chosen["items"]] == [4, 3, 2]
        _, more = get("deliveries", **wanted, cursor=chosen["next"])
        assert ([row["id"] for row in more["items"]], more["next"]) == ([1], None)
        later = (utc_now() + timedelta(hours=1)).isoformat()
        assert get("deliveries", since=later) == (200, {"items": [], "next": None})
        wrong: list[dict[str, object]] = [
            {"state": "lost"},
            {"limit": 0},
            {"limit": 99_999},
            {"since": "2020-01-01T00:00:00"},
        ]
        assert [get("deliveries", **each)[0] for each in wrong] == [422] * 4
