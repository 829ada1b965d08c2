"""A consistent copy of the embedded database while the node runs."""

import os
import secrets
import sqlite3
from contextlib import closing
from pathlib import Path

from dicom_node.errors import OperatorError
from models.files import publish
from models.session import Database


def backup_database(database: Database, target: Path) -> int:
    """Write the SQLite database into the new file `target` and return its size in bytes.

    All of one moment, whoever writes meanwhile; nobody waits for it. When this returns, the copy
    survives a power cut, and was checked. Raises OperatorError when the database is none of SQLite,
    when `target` exists or its folder does not, or when the copy is damaged; OSError and
    sqlite3.Error when it cannot be written: then there is no `target`.
    """
    source = _source(database)
    if target.exists():
        msg = f"{target} exists: name a new file, a backup never replaces an older one"
        raise OperatorError(msg)
    if not target.absolute().parent.is_dir():
        msg = f"{target.absolute().parent} is no folder: make it first"
        raise OperatorError(msg)
    part = target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        _copy(source, part)
        _sync(part)
        size = part.stat().st_size
        publish(part, target.absolute())
    finally:
        for left in (part, *(part.with_name(part.name + end) for end in ("-wal", "-shm"))):
            left.unlink(missing_ok=True)
    return size


def _source(database: Database) -> Path:
    if not database.is_sqlite:
        msg = (
            "the database is no SQLite: `pg_dump --format=custom --file=FILE DATABASE` copies "
            "PostgreSQL while it runs"
        )
        raise OperatorError(msg)
    source = Path(database.url.database or "")
    if not source.is_file():
        msg = f"there is no database {source}: is --data-dir right?"
        raise OperatorError(msg)
    return source


def _copy(source: Path, part: Path) -> None:
    address = f"{source.absolute().as_uri()}?mode=ro"
    with (
        closing(sqlite3.connect(address, uri=True, timeout=30)) as ours,
        closing(sqlite3.connect(part)) as copy,
    ):
        ours.backup(copy)
        (result,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, whatever it is copied by
    if result != "ok":
        msg = f"the copy is damaged ({result}): so is the database, or the disk of the copy"
        raise OperatorError(msg)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
