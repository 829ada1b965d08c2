"""What earlier releases left on disk, as `tests/releases/keep.py` kept it, and how to use it."""

import json
import sqlite3
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from absent import missing
from sqlalchemy import Connection, Inspector, inspect, make_url, text

from models.session import Database

ARCHIVES = Path(__file__).with_name("releases")

# A row is known by its first columns; of tables without `id` by all of them.
Facts = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, order=True)
class Release:
    """One earlier release: the revision of its schema and the commit of its code."""

    archive: Path

    @property
    def revision(self) -> str:
        """The last migration that it shipped."""
        return self.archive.name.partition(".")[0]

    def unpack(self, folder: Path, url: str) -> Path:
        """Load the rows into an empty database and return the folder with the files."""
        with tarfile.open(self.archive) as archive:
            archive.extractall(folder, filter="data")
        if url.startswith("sqlite"):
            with closing(sqlite3.connect(str(make_url(url).database))) as connection:
                connection.executescript((folder / "sqlite.sql").read_text())
        else:
            with psycopg.connect(url.replace("+psycopg", "")) as connection:
                connection.execute((folder / "postgresql.sql").read_bytes())
        return folder / "data"

    def checkout(self, folder: Path, repository: Path) -> Path:
        """Return a folder with the code of the release."""
        with tarfile.open(self.archive) as archive:
            member = archive.extractfile("release.json")
            commit = json.loads(member.read())["commit"] if member else ""
        command = ["git", "-C", str(repository), "archive", commit, "dicom_node", "models"]
        packed = subprocess.run([*command, "migrations"], capture_output=True, check=False)
        if packed.returncode and _is_shallow(repository):
            pytest.skip(f"a shallow clone, without {commit}")
        if packed.returncode:
            missing(f"the history of the repository lacks {commit}")
        folder.mkdir()
        subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
        return folder


def _is_shallow(repository: Path) -> bool:
    """Say whether somebody cloned only the newest commits: then nothing is wrong with history."""
    command = ["git", "-C", str(repository), "rev-parse", "--is-shallow-repository"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() == "true"


RELEASES = [Release(path) for path in sorted(ARCHIVES.glob("*.tar.xz"))]


def facts_of(database: Database) -> Facts:
    """Return every cell of every table as the driver gives it, by table, row and column."""
    with database.engine.connect() as connection:
        tables = inspect(connection)
        return {
            name: dict(_rows(connection, tables, name))
            for name in tables.get_table_names()
            if name != "alembic_version"
        }


def _rows(
    connection: Connection, tables: Inspector, name: str
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    rows = connection.execute(text(f'SELECT * FROM "{name}"')).mappings().all()  # noqa: S608  names of tables
    has_id = bool(rows) and "id" in rows[0]
    key = ["id"] if has_id else tables.get_pk_constraint(name)["constrained_columns"]
    for row in rows:
        yield tuple(row[column] for column in key), dict(row)
