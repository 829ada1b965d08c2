"""PostgreSQL databases with the newest schema that one test has after the other, emptied between.

Making a database and its tables costs twenty times what emptying one does. A database goes back to
the others only as it was made: with the same tables, columns, constraints and triggers, small, and
with nobody connected. Each test finds it under a name of its own, so that what an earlier one left
behind reaches it no more.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
from rows import open_database

from models.session import METADATA

_MOST_BYTES = 4 << 20  # of tables: dead rows and statistics would change how queries are planned
_LEAVING_SECONDS = 5.0
_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s"
_SCHEMA = """
WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace)
SELECT md5(string_agg(line, chr(10) ORDER BY line)) FROM (
  SELECT concat_ws(' ', 'table', oid, relname, relkind, reloptions) AS line FROM ours
  UNION ALL SELECT concat_ws(' ', 'column', attrelid, attname, atttypid, attnotnull, atthasdef)
    FROM pg_attribute WHERE attrelid IN (SELECT oid FROM ours)
  UNION ALL SELECT concat_ws(' ', 'constraint', oid, conname) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
    WHERE NOT tgisinternal
  UNION ALL SELECT concat_ws(' ', 'function', oid, proname) FROM pg_proc
    WHERE pronamespace = 'public'::regnamespace
  UNION ALL SELECT concat_ws(' ', 'setting', setdatabase, setconfig) FROM pg_db_role_setting
  UNION ALL SELECT concat_ws(' ', 'revision', version_num) FROM alembic_version
) AS lines
"""
_BYTES = (
    "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
)
_RESTART = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"


class KeptDatabases:
    """Those of one server; to be closed."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._admin = self._connected("postgres")
        self._free: list[str] = []
        self._schemas: dict[str, str] = {}

    def close(self) -> None:
        """Hang up; the databases go with their server."""
        self._admin.close()

    @contextmanager
    def lent(self) -> Iterator[str]:
        """Yield the URL of a database with the newest schema and without rows."""
        name = f"test_{uuid4().hex}"
        if self._free:
            kept = self._free.pop()
            self._admin.execute(f"ALTER DATABASE {kept} RENAME TO {name}")
            schema = self._schemas.pop(kept)
        else:
            self._admin.execute(f"CREATE DATABASE {name}")
            with open_database(f"{self._server}/{name}"):
                pass
            schema = self._schema(name)
        yield f"{self._server}/{name}"
        if self._is_left(name) and self._emptied(name, schema) and self._is_left(name):
            self._free.append(name)
            self._schemas[name] = schema
        else:
            self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _connected(self, name: str) -> "psycopg.Connection[tuple[Any, ...]]":
        address = f"{self._server}/{name}".replace("+psycopg", "", 1)
        return psycopg.connect(address, autocommit=True)

    def _schema(self, name: str) -> str:
        with self._connected(name) as connection:
            ((found,),) = connection.execute(_SCHEMA).fetchall()
        return str(found)

    def _is_left(self, name: str) -> bool:
        """Whether nobody is connected; who has just hung up may take a moment."""
        deadline = time.monotonic() + _LEAVING_SECONDS
        while self._admin.execute(_OTHERS, [name]).fetchone() != (0,):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def _emptied(self, name: str, schema: str) -> bool:
        """Delete all rows and restart the ids; False when the database is not as it was made."""
        with self._connected(name) as connection:
            try:
                ((found,),) = connection.execute(_SCHEMA).fetchall()
            except psycopg.errors.UndefinedTable:
                return False
            ((size,),) = connection.execute(_BYTES).fetchall()
            if found != schema or size > _MOST_BYTES:
                return False
            tables = [table.name for table in reversed(METADATA.sorted_tables)]
            emptying = [f'DELETE FROM "{name}"' for name in tables]  # noqa: S608  our own names
            connection.execute(";".join([*emptying, _RESTART]).encode())
        return True
