"""The audit knows which roles ran, and every change of the settings, without their secrets."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rows import open_database
from sqlalchemy import select

from dicom_node import delivery
from dicom_node.cli import cli
from models.attendance import attended, shown_settings
from models.audit import AuditAction, AuditEvent
from models.session import Database
from models.settings import Settings, load_settings


def _settings(folder: Path, url: str | None = None, **sections: Any) -> Settings:
    return load_settings(None, data_dir=folder, database_url=url, **sections)


def _events(database: Database) -> list[tuple[str, str, dict[str, Any]]]:
    with database.read() as session:
        rows = session.scalars(select(AuditEvent).order_by(AuditEvent.id))
        return [(it.action.value, it.outcome, it.details) for it in rows]


def _changes(database: Database) -> list[tuple[str, str, list[str]]]:
    return [
        (details["role"], outcome, details["changed"])
        for action, outcome, details in _events(database)
        if action == AuditAction.CONFIGURATION_CHANGED
    ]


def test_a_role_comes_and_goes(database: Database, database_url: str, tmp_path: Path) -> None:
    with attended(_settings(tmp_path, database_url), "listen"):
        pass
    events = _events(database)
    assert [(action, outcome) for action, outcome, _ in events] == [
        ("application_started", "listen"),
        ("configuration_changed", "first"),
        ("application_stopped", "listen"),
    ]
    assert events[0][2]["pid"] == events[2][2]["pid"]
    assert events[1][2]["settings"]["dicom.port"] == 11112


def test_each_role_tells_of_a_change_once(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    old = _settings(tmp_path, database_url, destinations=[_pacs(104)])
    new = _settings(
        tmp_path, database_url, destinations=[_pacs(105)], dispatch={"settle_seconds": 20}
    )
    for settings, role in (
        (old, "listen"),
        (old, "deliver"),
        (old, "listen"),
        (new, "listen"),
        (new, "listen"),
        (new, "deliver"),
        (old, "listen"),
    ):
        with attended(settings, role):
            pass
    keys = ["destinations.pacs.port", "dispatch.settle_seconds"]
    assert _changes(database) == [
        ("listen", "first", []),
        ("deliver", "first", []),
        ("listen", "changed", keys),
        ("deliver", "changed", keys),
        ("listen", "changed", keys),
    ]


def _pacs(port: int) -> dict[str, Any]:
    return {"name": "pacs", "ae_title": "PACS", "host": "pacs", "port": port}


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    settings = _settings(
        tmp_path,
        "postgresql+psycopg://node:pa55@db/node?sslpassword=pa55",
        broker_url="redis://:pa55@redis:6379/0",
        worklist={"domains": {"token": ["CR1"]}},
    )
    shown = json.dumps(shown_settings(settings))
    assert "pa55" not in shown
    assert "db/node" in shown
    assert "redis:6379" in shown


def test_a_database_that_is_away_keeps_nothing_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    settings = _settings(tmp_path, "postgresql+psycopg://node:pa55@127.0.0.1:1/node")
    with attended(settings, "listen"):
        ran = True
    assert ran
    assert "the start of this role is not in the audit" in caplog.text
    assert "pa55" not in caplog.text


def test_a_command_that_serves_is_attended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the composition root: `deliver` with nothing to do, told to stop at once."""
    settings = _settings(tmp_path / "data")
    with open_database(settings.effective_database_url) as database:
        monkeypatch.setattr(delivery, "wait_for", lambda stop: stop.set())
        done = CliRunner().invoke(cli, ["deliver", "--data-dir", str(settings.data_dir)])
        assert done.exit_code == 0, done.output
        assert [outcome for action, outcome, _ in _events(database) if "appl" in action] == [
            "deliver",
            "deliver",
        ]
