"""`dicom-node account` and `dicom-node token`."""

import csv
import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result
from rows import open_database, outcomes
from sqlalchemy import select
from web_served import serving, web_settings

from dicom_node.cli import cli
from dicom_node.errors import AccountError, StartError
from dicom_node.passwords import Passwords
from models.account import Account
from models.audit import AuditAction, AuditEvent
from models.session import Database

PASSWORD = "correct horse battery"  # noqa: S105  of a test
Run = Callable[..., Result]


@pytest.fixture
def database(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Database]:
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", database_url)
    monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path / "data"))
    with open_database(database_url) as opened:
        yield opened


def _run(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(cli, [*arguments], input=typed)


def _accounts() -> list[dict[str, object]]:
    return [json.loads(line) for line in _run("account", "list", "--json").output.splitlines()]


def test_accounts_are_made_changed_and_listed(database: Database) -> None:
    made = _run("account", "add", "Ada", "--role", "admin", typed=f"{PASSWORD}\n")
    assert (made.exit_code, made.output) == (0, "account ada made: admin\n")
    assert _run("account", "add", "grace", typed=PASSWORD).exit_code == 0  # no line break
    assert _run("account", "role", "grace", "operator").exit_code == 0
    assert _run("account", "disable", "grace").exit_code == 0
    assert [(row["name"], row["role"], row["is_disabled"]) for row in _accounts()] == [
        ("ada", "admin", False),
        ("grace", "operator", True),
    ]
    assert _run("account", "enable", "grace").exit_code == 0
    windows = "another horse battery\r\n"
    assert _run("account", "password", "grace", typed=windows).exit_code == 0
    with database.read() as session:
        stored = session.scalars(select(Account.password_hash).order_by(Account.name)).all()
        actors = session.scalars(select(AuditEvent.actor)).all()
    assert Passwords().verify(stored[0], PASSWORD)
    assert Passwords().verify(stored[1], "another horse battery")
    assert all(actors)  # the user of the operating system
    assert outcomes(database, AuditAction.ACCOUNT_CHANGED) == [
        "created",
        "created",
        "role_changed",
        "disabled",
        "enabled",
        "password_set",
    ]
    table = _run("account", "list").output
    assert "grace" in table
    assert PASSWORD not in table


@pytest.mark.usefixtures("database")
@pytest.mark.parametrize(
    ("arguments", "typed", "sentence"),
    [
        (["account", "add", "ada"], "short\n", "too short"),
        (["account", "add", "a da"], "", "letters, digits"),
        (["account", "disable", "nobody"], "", "no account is named 'nobody'"),
        (
            ["token", "create", "--account", "x", "--name", "n", "--scope", "audit"],
            "",
            "no account",
        ),
        (["token", "revoke", "7"], "", "there is no token 7"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_is_one_sentence(arguments: list[str], typed: str, sentence: str) -> None:
    error = _run(*arguments, typed=typed).exception
    assert isinstance(error, AccountError)
    assert sentence in str(error)


@pytest.mark.usefixtures("database")
def test_without_the_extra_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A host that only receives has no argon2; it can list accounts all the same."""
    monkeypatch.setitem(sys.modules, "argon2", None)
    error = _run("account", "add", "ada", typed=PASSWORD).exception
    assert isinstance(error, StartError)
    assert "dicom-node[web]" in str(error)
    assert _accounts() == []


@pytest.mark.usefixtures("database")
def test_the_last_administrator_is_not_disabled() -> None:
    _run("account", "add", "ada", "--role", "admin", typed=PASSWORD)
    error = _run("account", "disable", "ada").exception
    assert "only administrator" in str(error)
    assert _accounts()[0]["is_disabled"] is False


def test_a_token_of_the_command_works_until_it_is_revoked(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    _run("account", "add", "robot", "--role", "operator", typed=PASSWORD)
    wanted = ["--scope", "system", "--scope", "audit", "--days", "90"]
    made = _run("token", "create", "--account", "robot", "--name", "night", *wanted)
    assert made.exit_code == 0
    secret = made.output.strip()
    assert secret.startswith("dnt_")
    headers = {"Authorization": f"Bearer {secret}"}
    settings = web_settings(tmp_path, database_url)
    with serving(settings, database) as url, httpx.Client(base_url=url, headers=headers) as client:
        assert client.get("/api/v1/destinations").status_code == 200
        assert client.get("/api/v1/deliveries").status_code == 403
        rows = list(csv.DictReader(io.StringIO(_run("token", "list", "--csv").output)))
        assert (rows[0]["name"], rows[0]["account"], rows[0]["state"]) == (
            "night",
            "robot",
            "valid",
        )
        assert json.loads(rows[0]["scopes"]) == ["audit", "system"]
        assert secret not in _run("token", "list").output
        assert _run("token", "revoke", rows[0]["id"]).exit_code == 0
        assert client.get("/api/v1/destinations").status_code == 401
    assert json.loads(_run("token", "list", "--json").output)["state"] == "revoked"


@pytest.mark.usefixtures("database")
def test_an_invitation_is_a_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DICOM_NODE_WEB__URL", "https://node.example/")
    made = _run("account", "invite", "--role", "viewer")
    assert made.output.startswith("https://node.example/invitations/")


def test_a_person_types_the_password_twice_and_unseen(tmp_path: Path) -> None:
    """On a real terminal."""
    settings = web_settings(tmp_path)
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("DICOM_NODE_")},
        "DICOM_NODE_DATABASE_URL": settings.effective_database_url,
        "DICOM_NODE_DATA_DIR": str(settings.data_dir),
    }
    with open_database(settings.effective_database_url):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "dicom_node", "account", "add", "ada"]
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        seen = _read_until(ours, b"Password: ")
        os.write(ours, f"{PASSWORD}\n".encode())
        seen += _read_until(ours, b"confirmation: ")
        os.write(ours, f"{PASSWORD}\n".encode())
        seen += _read_until(ours, b"made: viewer")
        assert process.wait(60) == 0
        os.close(ours)
    assert PASSWORD.encode() not in seen


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(descriptor, 1024)
    return seen
