"""What every answer says: headers, errors as problem+json or as a page, nothing that was sent."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import pytest
from fastapi import Depends, FastAPI, Form
from pydantic import BaseModel, ConfigDict, field_validator
from rows import outcomes
from sqlalchemy import select, text
from starlette.requests import Request
from starlette.responses import Response
from web_accounts import bearer
from web_served import PAGE, app_of, migrated, serving, web_settings

from dicom_node.errors import BrokerError, CursorError, LostRaceError, OperatorError, StartError
from dicom_node.web.access.headers import HEADERS
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.reads import record_read
from models.account import Role
from models.audit import AuditAction, AuditEvent
from models.session import Database

PATIENT = "DOE^JANE"
# A server closes the connection after an error of its own.
_NO_REUSE = httpx.Limits(max_keepalive_connections=0)
_ERRORS = {
    "cursor": CursorError(),
    "operator": OperatorError("choose another one"),
    "race": LostRaceError("it moved"),
    "broker": BrokerError("redis://secret@host"),
    "other": StartError(f"about {PATIENT}"),
    "unexpected": RuntimeError(f"about {PATIENT}"),
}


class Opinion(BaseModel):
    """A body with a field of each kind of mistake."""

    model_config = ConfigDict(extra="forbid")

    number: int
    name: str = ""

    @field_validator("name")
    @classmethod
    def _quotes(cls, value: str) -> str:
        msg = f"{value} is no name"
        raise ValueError(msg)


def _add_routes(app: FastAPI, database: Database) -> None:
    @app.get("/api/v1/broken/{kind}")
    @app.get("/broken/{kind}")
    def broken(kind: str) -> None:
        raise _ERRORS[kind]

    @app.post("/api/v1/opinions")
    def opinions(opinion: Opinion) -> int:
        return opinion.number

    @app.post("/forms")
    def forms(number: Annotated[int, Form()]) -> int:
        return number

    @app.get("/api/v1/image")
    def image() -> Response:
        return Response(b"png", headers={"Cache-Control": "private, no-cache", "ETag": '"1"'})

    @app.get("/api/v1/patients")
    def patients(
        request: Request,
        who: Annotated[Principal, Depends(Requires(Role.VIEWER, Scope.RESULTS))],
        study: str = "1.2.3",
    ) -> str:
        patient = {"patient_id": "P1"}
        record_read(
            database, who, request, "study", study_instance_uid=study, patient=patient, rows=1
        )
        return PATIENT


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with migrated(web_settings(tmp_path_factory.mktemp("answers"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    settings = web_settings(tmp_path_factory.mktemp("node"), str(database.url))
    app = app_of(settings, database)
    _add_routes(app, database)
    with (
        serving(settings, database, app) as url,
        httpx.Client(base_url=url, timeout=20, limits=_NO_REUSE) as opened,
    ):
        yield opened


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/login", 200),
        ("GET", "/account", 303),
        ("GET", "/nothing", 404),
        ("POST", "/login", 422),
        ("GET", "/api/v1/destinations", 401),
        ("GET", "/api/v1/broken/unexpected", 500),
        ("GET", "/broken/unexpected", 500),
        ("PUT", "/login", 405),
        ("GET", "/api/v1/destinations?state=%00", 400),
        ("GET", "/metrics", 200),
        ("GET", "/static/theme.css", 200),
    ],
)
def test_every_answer_is_framed_by_no_one_and_runs_nothing_foreign(
    client: httpx.Client, method: str, path: str, code: int
) -> None:
    answer = client.request(method, path, headers=PAGE)
    assert answer.status_code == code
    for name, value in HEADERS.items():
        assert answer.headers[name] == value
    assert "server" not in answer.headers
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    if not path.startswith("/static"):
        assert answer.headers["cache-control"] == "no-store"


def test_a_route_may_say_how_its_answer_is_kept(client: httpx.Client) -> None:
    assert client.get("/api/v1/image").headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(
    ("kind", "code", "detail"),
    [
        ("cursor", 400, "the cursor is none of this listing: begin again without it"),
        ("operator", 409, "choose another one"),
        ("race", 409, "it moved"),
        ("broker", 503, "the queue cannot be reached"),
        ("other", 500, "an error of the node; its log says more"),
        ("unexpected", 500, "an error of the node; its log says more"),
    ],
)
def test_an_error_is_told_without_what_only_the_log_may_hold(
    client: httpx.Client, kind: str, code: int, detail: str
) -> None:
    answer = client.get(f"/api/v1/broken/{kind}", headers=PAGE)
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert (answer.status_code, said["status"], said["detail"]) == (code, code, detail)
    assert (said["type"], bool(said["title"])) == ("about:blank", True)
    page = client.get(f"/broken/{kind}", headers=PAGE)
    assert page.headers["content-type"].startswith("text/html")
    assert page.status_code == code
    assert detail in page.text
    assert PATIENT not in page.text + answer.text
    assert client.get(f"/broken/{kind}").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "where", "kind"),
    [
        ({"number": PATIENT}, "body.number", "int_parsing"),
        ({"number": 1, "name": PATIENT}, "body.name", "value_error"),
        ({"number": 1, PATIENT: 1}, "body", "extra_forbidden"),
        ({}, "body.number", "missing"),
        ([PATIENT], "body", "model_attributes_type"),
    ],
)
def test_what_is_not_understood_is_named_and_not_repeated(
    client: httpx.Client, body: object, where: str, kind: str
) -> None:
    answer = client.post("/api/v1/opinions", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert (where, kind) in {(each["where"], each["type"]) for each in answer.json()["errors"]}
    assert PATIENT not in answer.text


def test_broken_json_is_not_repeated(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/json"}
    answer = client.post("/api/v1/opinions", content=f'{{"{PATIENT}": ', headers=headers)
    assert answer.status_code == 422
    assert PATIENT not in answer.text


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/v1/opinions", "application/json"),
        ("/forms", "application/x-www-form-urlencoded"),
        ("/forms", "multipart/form-data; boundary=x"),
        ("/api/v1/opinions", "application/dicom"),
        ("/api/v1/opinions", "Multipart/Related; boundary=x"),
    ],
)
def test_a_body_larger_than_a_form_needs_is_refused(
    client: httpx.Client, path: str, kind: str
) -> None:
    def chunks() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="number"; filename="n"\r\n\r\n'
        for _ in range(40):
            yield b"x" * 65536

    answer = client.post(path, content=chunks(), headers={"Content-Type": kind})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_objects_are_bounded_by_the_route_that_knows_who_sends_them(client: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 65536

    headers = {"Content-Type": "application/dicom"}
    stored = client.post("/dicom-web/studies", content=chunks(), headers=headers)
    assert stored.status_code == 401


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("application/x-www-form-urlencoded", [b"number=%00"]),
        ("application/x-www-form-urlencoded", [b"number=", b"%", b"0", b"0"]),
        ("Application/x-www-form-urlencoded; charset=utf-8", [b"number=\x00"]),
        (
            "multipart/form-data; boundary=x",
            [b'--x\r\nContent-Disposition: form-data; name="number"\r\n\r\n\x00\r\n--x--\r\n'],
        ),
    ],
)
def test_a_form_has_no_nul(client: httpx.Client, kind: str, parts: list[bytes]) -> None:
    """However it is cut on its way: no text in a database can have one."""

    def chunks() -> Iterator[bytes]:
        for part in parts:
            yield part
            time.sleep(0.05)

    answer = client.post("/forms", content=chunks(), headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["detail"]) == (400, "the form has a NUL character")


def test_a_form_has_what_only_looks_like_one(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/forms", content=b"number=%2500", headers=headers).status_code == 422
    assert client.post("/forms", content=b"number=100", headers=headers).json() == 100


def test_a_read_of_patient_data_is_recorded_with_its_reader(
    client: httpx.Client, database: Database
) -> None:
    headers = bearer(database, Role.VIEWER, Scope.RESULTS)
    assert client.get("/api/v1/patients", headers=headers).text == f'"{PATIENT}"'
    with database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.PATIENT_DATA_READ)
        event = session.scalars(query).one()
    assert (event.outcome, event.actor, event.peer) == ("study", "viewer", "127.0.0.1")
    assert (event.study_instance_uid, event.patient) == ("1.2.3", {"patient_id": "P1"})
    assert event.details == {"token": 1, "rows": 1}


def test_what_cannot_be_recorded_is_not_shown(tmp_path: Path) -> None:
    settings = web_settings(tmp_path)
    with migrated(settings) as database:
        app = app_of(settings, database)
        _add_routes(app, database)
        headers = bearer(database, Role.VIEWER, Scope.RESULTS)
        with (
            serving(settings, database, app) as url,
            httpx.Client(base_url=url, headers=headers, timeout=20) as client,
        ):
            assert client.get("/api/v1/patients").status_code == 200
            with database.engine.begin() as connection:
                connection.execute(text("ALTER TABLE audit_event RENAME TO gone"))
            answer = client.get("/api/v1/patients")
            assert answer.status_code == 503
            assert answer.json()["detail"] == "the database cannot be used"
            assert PATIENT not in answer.text
            assert "audit_event" not in answer.text


def test_denials_name_the_route_and_no_study(client: httpx.Client, database: Database) -> None:
    headers = bearer(database, Role.VIEWER, Scope.DELIVERIES, name="curious")
    assert client.get("/api/v1/patients?study=1.2.9", headers=headers).status_code == 403
    assert "scope" in outcomes(database, AuditAction.ACCESS_DENIED)
    with database.read() as session:
        query = select(AuditEvent).where(AuditEvent.actor == "curious")
        event = session.scalars(query.where(AuditEvent.outcome == "scope")).one()
    assert (event.details["route"], event.details["method"]) == ("/api/v1/patients", "GET")
    assert event.study_instance_uid is None
