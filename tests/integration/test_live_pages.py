"""Live pages: told that something changed and never what, and no hindrance when the node ends."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rows import add_instance, open_database
from servers import free_port, wait_until
from web_accounts import bearer, browser
from web_served import served, web_settings

from dicom_node.web import changes
from models.account import Role
from models.audit import AuditAction, record
from models.session import Database

_SECONDS = 20.0


def _record(database: Database, action: AuditAction, outcome: str = "stored") -> None:
    with database.write() as session:
        record(session, action, outcome, patient={"patient_id": "P-SECRET"})


@contextmanager
def _stream(
    client: httpx.Client, headers: dict[str, str], path: str = "/events"
) -> Iterator[Iterator[str]]:
    with client.stream("GET", path, headers=headers, timeout=_SECONDS) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield answer.iter_lines()


def _next_data(lines: Iterator[str]) -> str:
    return next(line for line in lines if line.startswith("data: "))


def test_a_stream_names_the_pages_that_changed_and_nothing_else(tmp_path: Path) -> None:
    with (
        served(web_settings(tmp_path)) as (database, client),
        _stream(client, browser(database, Role.VIEWER).headers) as lines,
    ):
        assert next(lines) == "retry: 5000"
        time.sleep(2.5)  # the first look: what is there already is no news
        _record(database, AuditAction.PATIENT_DATA_READ, "study")
        _record(database, AuditAction.ARTIFACT_SENT, "sent")
        assert _next_data(lines) == "data: deliveries"
        _record(database, AuditAction.REPORT_STORED)
        _record(database, AuditAction.INSTANCE_STORED)
        assert _next_data(lines) == "data: quarantine worklist"


def test_a_page_misses_nothing_between_its_making_and_its_stream(tmp_path: Path) -> None:
    with served(web_settings(tmp_path)) as (database, client):
        headers = browser(database, Role.VIEWER).headers
        with database.read() as session:
            made_at = changes.newest_event(session)
        _record(database, AuditAction.REPORT_STORED)
        with _stream(client, headers, f"/events?since={made_at}") as lines:
            assert _next_data(lines) == "data: worklist"
        _record(database, AuditAction.ARTIFACT_SENT, "sent")
        back = {**headers, "Last-Event-ID": str(made_at + 1)}
        with _stream(client, back, f"/events?since={made_at}") as lines:
            assert _next_data(lines) == "data: deliveries"


def test_one_account_has_so_many_streams_and_another_still_one(tmp_path: Path) -> None:
    with served(web_settings(tmp_path)) as (database, client):
        headers = browser(database, Role.VIEWER).headers
        others = browser(database, Role.OPERATOR).headers
        with ExitStack() as stack:
            opened = [
                stack.enter_context(_stream(client, headers)) for _ in range(changes.MOST_OF_ONE)
            ]
            assert {next(lines) for lines in opened} == {"retry: 5000"}
            refused = client.get("/events", headers=headers)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "60"
            with _stream(client, others) as lines:
                assert next(lines) == "retry: 5000"
        wait_until(lambda: _is_admitted(client, headers), _SECONDS, "a place that was left")


def _is_admitted(client: httpx.Client, headers: dict[str, str]) -> bool:
    with client.stream("GET", "/events", headers=headers) as answer:
        return answer.status_code == 200


def test_nobody_listens_without_a_login(tmp_path: Path) -> None:
    with served(web_settings(tmp_path)) as (database, client):
        assert client.get("/events").status_code == 401
        add_instance(database)


def test_an_open_stream_does_not_keep_the_node_from_ending(tmp_path: Path) -> None:
    settings = web_settings(tmp_path)
    port = free_port()
    with open_database(settings.effective_database_url) as database:
        headers = bearer(database, Role.VIEWER)
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", "web", "--data-dir", str(settings.data_dir)],
            env={
                "PATH": "",
                "DICOM_NODE_DATABASE_URL": settings.effective_database_url,
                "DICOM_NODE_WEB__PORT": str(port),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                wait_until(lambda: _is_up(client), 120, "the web process")
                _stop_while_streaming(process, client, headers)
        finally:
            process.kill()
            _, said = process.communicate()
        assert b"timeout graceful shutdown" not in said


def _is_up(client: httpx.Client) -> bool:
    try:
        return client.get("/api/v1/health").status_code in {200, 503}
    except httpx.TransportError:
        return False


def _stop_while_streaming(
    process: subprocess.Popen[bytes], client: httpx.Client, headers: dict[str, str]
) -> None:
    ended = threading.Event()

    def read() -> None:
        with _stream(client, headers) as lines:
            begun.set()
            list(lines)  # to the end, without an error: the stream is closed in order
        ended.set()

    begun = threading.Event()
    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(_SECONDS)
    process.send_signal(signal.SIGTERM)
    process.wait(_SECONDS)
    reader.join(_SECONDS)
    assert ended.is_set()
