"""Large answers over REST: everything, in bounded memory, defused, and never half of it unseen."""

import csv
import io
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Generator, Iterator
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from api_node import FORMULA, ApiNode, api_node
from fastapi import HTTPException
from pydantic import TypeAdapter
from rows import outcomes
from sqlalchemy import event, insert, select
from sqlalchemy.exc import OperationalError
from web_accounts import bearer

from dicom_node.studies import StudyFilter, StudyRow, every_study
from dicom_node.web.api import streaming
from dicom_node.web.api.schemas import Result
from dicom_node.web.api.streaming import Streams
from dicom_node.web.api.tables import Writer, columns_of
from models.account import Role
from models.audit import AuditAction
from models.imaging import Study
from models.session import Database

_MANY = 10_000
_GONE = OperationalError("SELECT", None, Exception("gone"))


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[ApiNode]:
    with api_node(tmp_path, database_url) as made:
        yield made


@pytest.fixture
def small(tmp_path: Path) -> Iterator[ApiNode]:
    with api_node(tmp_path) as made:
        yield made


def _add_studies(database: Database, number: int) -> None:
    values = [
        {"study_instance_uid": f"1.3.{each}", "calling_aet": "X", "patient_id": f"P{each}"}
        for each in range(number)
    ]
    with database.write() as session:
        session.execute(insert(Study), values)


def test_csv_is_everything_with_the_columns_of_the_schema(node: ApiNode) -> None:
    answer = node.client.get("results", params={"format": "csv"})
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="results.csv"'
    assert answer.headers["transfer-encoding"] == "chunked"
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert node.names(rows) == ["waits", "lateral", "other", "severe", "mild", "none"]
    assert list(rows[0]) == [".".join(each) for each in columns_of(TypeAdapter(Result))]
    waits, severe = rows[0], rows[3]
    assert (waits["model.name"], waits["opacity_percent.total"]) == ("", "")
    assert (severe["model.name"], severe["opacity_percent.total"]) == ("unet", "80.0")
    assert severe["caveats"] == '["mirrored"]'
    kinds = [each["kind"] for each in json.loads(severe["files"])]
    assert sorted(kinds) == ["display", "layer", "overlay", "seg", "sr"]
    assert outcomes(node.database, AuditAction.PATIENT_DATA_READ) == ["results"]


def test_a_peer_s_text_is_no_formula(small: ApiNode) -> None:
    for path in ("results", "studies"):
        answer = small.client.get(path, params={"format": "csv", "model": "other"})
        (row,) = csv.DictReader(io.StringIO(answer.text))
        assert row["patient_id"] == f"'{FORMULA}"
    (line,) = small.client.get("studies?format=ndjson&model=other").text.splitlines()
    assert json.loads(line)["patient_id"] == FORMULA


def test_the_client_says_what_it_takes(small: ApiNode) -> None:
    wanted = {
        "text/csv": "text/csv; charset=utf-8",
        "application/json;q=0.5, text/csv": "text/csv; charset=utf-8",
        "application/x-ndjson, text/csv;q=0.9": "application/x-ndjson; charset=utf-8",
        "text/csv;q=high, application/json": "application/json",
        "text/html": "application/json",
        "*/*": "application/json",
        "text/csv;q=0": "application/json",
        "text/csv;q=nan": "application/json",
        "text/csv;q=0.5, */*": "application/json",
        "*/*, text/csv": "text/csv; charset=utf-8",
        "application/json;q=0.1, text/csv;q=0.5, */*": "text/csv; charset=utf-8",
    }
    for accept, media_type in wanted.items():
        for path in ("studies", "results", "worklist", "audit", "deliveries"):
            answer = small.client.get(path, headers={"Accept": accept})
            assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
            assert answer.content


def test_a_search_is_streamed_too_and_a_stream_has_no_pages(small: ApiNode) -> None:
    answer = small.client.post("studies/search", json={"format": "ndjson", "patient_id": "P1"})
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert small.names(rows) == ["waits", "lateral", "severe", "mild", "none"]
    ordered = small.client.get("studies?format=ndjson&sort=percent&order=asc&min_percent=1")
    names = small.names([json.loads(line) for line in ordered.text.splitlines()])
    assert names == ["mild", "other", "severe"]
    for query in ({"limit": 5}, {"cursor": "x"}):
        wrong = small.client.get("studies", params={"format": "csv", **query})
        assert (wrong.status_code, wrong.json()["detail"]) == (
            400,
            "csv is everything: leave out cursor and limit",
        )


def test_the_audit_is_exported_by_administrators_only(small: ApiNode) -> None:
    with small.as_role(Role.OPERATOR) as operator:
        assert operator.get("audit").status_code == 200
        refused = operator.get("audit", params={"format": "ndjson"})
        assert (refused.status_code, refused.headers["content-type"]) == (
            403,
            "application/problem+json",
        )
    lines = small.client.get("audit", params={"format": "ndjson"}).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, len(lines) + 1))


def _connection(node: ApiNode) -> HTTPConnection:
    where = urlsplit(node.url)
    return HTTPConnection(where.hostname or "", where.port, timeout=30)


def test_a_stream_that_breaks_does_not_look_complete(node: ApiNode) -> None:
    _add_studies(node.database, 3000)
    headers = bearer(node.database)
    asked: list[int] = []

    def fail_later(*_: Any) -> None:
        asked.append(1)
        if len(asked) > 18:
            raise _GONE

    event.listen(node.database.engine, "before_cursor_execute", fail_later)
    connection = _connection(node)
    try:
        connection.request("GET", "/api/v1/studies?format=csv", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 200
        with pytest.raises(IncompleteRead) as broken:
            answer.read()
    finally:
        event.remove(node.database.engine, "before_cursor_execute", fail_later)
        connection.close()
    assert broken.value.partial.count(b"\n") > 100  # it had begun
    whole = node.client.get("studies?format=ndjson").text.splitlines()
    assert len(whole) == 3006


def test_what_fails_before_the_first_row_is_an_error_yet(small: ApiNode) -> None:
    def fail(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM study" in statement:
            raise _GONE

    event.listen(small.database.engine, "before_cursor_execute", fail)
    try:
        answer = small.client.get("studies?format=csv")
    finally:
        event.remove(small.database.engine, "before_cursor_execute", fail)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "5"


def test_before_http_1_1_no_stream_is_given(small: ApiNode) -> None:
    """There, the end of the connection is the end of the body, whatever the reason."""
    token = bearer(small.database)["Authorization"]
    where = urlsplit(small.url)
    with socket.create_connection((where.hostname, where.port), timeout=20) as line:
        begin = f"GET /api/v1/studies?format=csv HTTP/1.0\r\nHost: {where.netloc}\r\n"
        request = f"{begin}Authorization: {token}\r\n\r\n"
        line.sendall(request.encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert b" 426 " in answer.split(b"\r\n")[0]
    assert b"application/problem+json" in answer


def test_a_few_streams_run_at_once_and_each_gives_its_place_back(small: ApiNode) -> None:
    _add_studies(small.database, 3000)
    streams = Streams(small.database, threading.BoundedSemaphore(2))
    writer = Writer(TypeAdapter(StudyRow), is_csv=True)

    def begin() -> Generator[bytes, None, None]:
        pieces = streams._pieces(writer, lambda session: every_study(session, StudyFilter()))
        assert next(pieces)
        return pieces

    first, second = begin(), begin()
    with pytest.raises(HTTPException, match="large answers are being written"):
        begin()
    first.close()
    third = begin()
    assert sum(piece.count(b"\n") for piece in third) > 2000
    begin().close()
    second.close()


def test_a_client_that_stands_still_is_cut_off(
    small: ApiNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "_MOST_SECONDS", 0.5)
    _add_studies(small.database, _MANY)
    connection = _connection(small)
    connection.request("GET", "/api/v1/studies?format=ndjson", headers=bearer(small.database))
    answer = connection.getresponse()
    assert answer.read(1000)
    time.sleep(1.0)
    with pytest.raises(IncompleteRead):
        answer.read()
    connection.close()


def test_a_client_that_goes_away_frees_its_place(small: ApiNode) -> None:
    _add_studies(small.database, 5000)
    headers = bearer(small.database)
    for _ in range(3 * streaming._AT_ONCE):
        connection = _connection(small)
        connection.request("GET", "/api/v1/studies?format=ndjson", headers=headers)
        assert connection.getresponse().read(1000)
        connection.close()
    deadline = threading.Event()
    for _ in range(100):
        answer = small.client.get("studies?format=ndjson")
        if answer.status_code == 200:
            break
        deadline.wait(0.1)
    assert len(answer.text.splitlines()) == 5006


def test_memory_does_not_grow_with_the_answer(node: ApiNode) -> None:
    _add_studies(node.database, _MANY)
    writer = Writer(TypeAdapter(StudyRow), is_csv=False)
    size = lines = 0
    with node.database.read() as session:
        pieces = writer.pieces(every_study(session, StudyFilter()))
        size += len(next(pieces))  # what is loaded once is loaded
        tracemalloc.start()
        for piece in pieces:
            size, lines = size + len(piece), lines + piece.count(b"\n")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert lines > _MANY * 0.9
    assert size > 5_000_000
    assert peak < 2_500_000


def test_one_view_of_the_rows_is_written(node: ApiNode) -> None:
    _add_studies(node.database, 2000)
    with node.database.read() as session:
        rows = every_study(session, StudyFilter(calling_aet="X"))
        next(rows)
        with node.database.write() as other:
            other.execute(Study.__table__.update().values(calling_aet="Y"))
        assert {row.calling_aet for row in rows} == {"X"}
    with node.database.read() as session:
        assert set(session.scalars(select(Study.calling_aet))) == {"Y"}
