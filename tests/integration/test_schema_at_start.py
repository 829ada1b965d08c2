"""A process starts on its own schema and on a newer one; an older one it refuses in a sentence."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rows import open_database

from dicom_node.supervisor import Supervisor
from dicom_node.web.api import system
from migrations import schema
from models.session import Database
from models.settings import Settings, load_settings

OLDER = "0012"
ROLES = ("listen", "dispatch", "deliver", "web", "run")
# All roles in one process: each ends before it does anything.
RUN_ALL = """
import sys
from click.testing import CliRunner
from dicom_node.cli import cli
from worker.cli import main
for role in sys.argv[2:]:
    program = main if role == "run" else cli
    answer = CliRunner().invoke(program, [role, "--data-dir", sys.argv[1]])
    print(role, answer.exit_code, answer.output.strip() or answer.exception)
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node on SQLite."""
    return load_settings(None, data_dir=tmp_path / "data", dicom={"min_free_bytes": 0})


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """Its database, with the newest schema."""
    with open_database(settings.effective_database_url) as opened:
        yield opened


def test_every_role_refuses_an_older_schema(settings: Settings, database: Database) -> None:
    schema.downgrade(database, OLDER)
    command = [sys.executable, "-c", RUN_ALL, str(settings.data_dir), *ROLES]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = said.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[role, "1"] for role in ROLES]
    for line in lines:
        assert f"the database has schema {OLDER}, this release wants schema" in line
        assert "back it up and run `dicom-node db upgrade`" in line


def test_the_sentence_is_all_that_is_said(settings: Settings, database: Database) -> None:
    schema.downgrade(database, OLDER)
    command = [sys.executable, "-m", "dicom_node", "listen", "--data-dir", str(settings.data_dir)]
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr.startswith(f"dicom-node: the database has schema {OLDER}")
    assert len(said.stderr.splitlines()) == 1


def test_a_node_goes_on_with_the_schema_of_a_newer_release(
    settings: Settings, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with database.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with caplog.at_level(logging.WARNING):
        Supervisor(settings)._prepare_database()
    assert "has schema 9999, made by a newer release" in caplog.text
    assert "goes on" in (schema.require_usable(settings.effective_database_url) or "")
    assert system._database(database).ok, "a load balancer takes no host out for it"


def test_a_database_that_is_away_keeps_no_role_from_starting() -> None:
    remark = schema.require_usable("postgresql://nobody@127.0.0.1:9/none")
    assert remark is not None
    assert "cannot be asked" in remark
