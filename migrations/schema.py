"""Bring a database to the newest schema, and say whether code and schema fit."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, event
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from models.session import Database

_ADVISORY_LOCK: Final = 4242042042
# PostgreSQL: a change of a table waits for whoever uses it, and everybody who comes later waits for
# the change. So it waits shortly, gives up, lets them through and tries again. It waits less than
# deadlock_timeout (1 s): of two that wait for each other it is this one that gives up.
_LOCK_MILLISECONDS: Final = 800
_PAUSE_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 600.0
_BUSY: Final = frozenset({"55P03", "40P01"})  # lock_not_available, deadlock_detected


class SchemaError(RuntimeError):
    """Code and schema do not fit, or the schema cannot be changed; the message says what to do."""


class NewerSchemaError(SchemaError):
    """A newer release made the schema."""


def _config() -> Config:
    return Config(str(Path(__file__).with_name("alembic.ini")))


def newest_revision() -> str | None:
    """Return the id of the newest migration that this release ships."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(database: Database) -> str | None:
    """Return the id of the migration that the database is at; None when it has no tables."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def require_newest(database: Database) -> str | None:
    """Return the revision when the database has this release's schema.

    Raises SchemaError when it has an older one or none, NewerSchemaError when it has one that this
    release does not know.
    """
    at, wanted = current_revision(database), newest_revision()
    _require_known(at)
    if at == wanted:
        return at
    has = "no tables yet" if at is None else f"schema {at}"
    first = "" if at is None else "back it up and "
    msg = (
        f"the database has {has}, this release wants schema {wanted}: "
        f"{first}run `dicom-node db upgrade` (docs/upgrading.md)"
    )
    raise SchemaError(msg)


def require_usable(url: str) -> str | None:
    """Return None when a process may start on the database, else a remark for its log.

    It may on this release's schema, on a newer one, as an upgrade of several hosts has it for a
    while, and on a database that cannot be asked now. Raises SchemaError when the schema is older.
    """
    database = Database(url)
    try:
        require_newest(database)
    except NewerSchemaError as error:
        return f"{error}; until then this process goes on"
    except SQLAlchemyError as error:
        return f"the database cannot be asked for its schema: {type(error).__name__}"
    finally:
        database.dispose()
    return None


def _require_known(revision: str | None) -> None:
    """Raise NewerSchemaError when this release does not ship the migration."""
    try:
        ScriptDirectory.from_config(_config()).get_revision(revision or "base")
    except CommandError as error:
        msg = (
            f"the database has schema {revision}, made by a newer release, and this one knows "
            f"{newest_revision()} and older: install the newer release here (docs/upgrading.md)"
        )
        raise NewerSchemaError(msg) from error


def upgrade(database: Database, revision: str = "head") -> None:
    """Apply every missing migration up to `revision`, each in a transaction; on SQLite all in one.

    Safe to run from several hosts at once: one takes the lock, the others find nothing left to do.
    Raises NewerSchemaError when the database is ahead of this release, SchemaError when a table
    stays in use for so long that it cannot be changed: then what was applied stays applied.
    """
    wanted = newest_revision() if revision == "head" else revision
    if current_revision(database) != wanted:
        _change(database, command.upgrade, revision)


def downgrade(database: Database, revision: str) -> None:
    """Take back every migration after `revision`; what only they can hold is deleted.

    Raises as `upgrade`, and SchemaError when this release knows no such revision before the
    database's own.
    """
    at = current_revision(database)
    known = [each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()]
    older = [] if at not in known else sorted(known[known.index(at) + 1 :])
    if revision not in older:
        named = ", ".join(older) or "none"
        msg = f"the database is at schema {at}: {revision} is not older; older ones are {named}"
        raise SchemaError(msg)
    _change(database, command.downgrade, revision)


def _change(database: Database, step: Callable[[Config, str], None], to: str) -> None:
    if database.is_sqlite:
        with database.engine.begin() as connection:
            _run(connection, step, to)
        return
    deadline = time.monotonic() + _PATIENCE_SECONDS
    with _alone(database):
        while not _was_applied(database, step, to):
            if time.monotonic() > deadline:
                msg = (
                    f"a table stayed in use for {_PATIENCE_SECONDS / 60:.0f} minutes: end the long "
                    "transaction that pg_stat_activity names, and run this again"
                )
                raise SchemaError(msg)
            time.sleep(_PAUSE_SECONDS)


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Hold the lock of whoever changes the schema of a PostgreSQL database."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_ADVISORY_LOCK})")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})")


def _was_applied(database: Database, step: Callable[[Config, str], None], to: str) -> bool:
    """Apply what is missing; False when a table was in use for too long."""
    with database.engine.connect() as connection:
        event.listen(connection, "begin", _lock_everything)
        try:
            _run(connection, step, to)
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in _BUSY:
                raise
            connection.rollback()
            return False
    return True


def _lock_everything(connection: Connection) -> None:
    """Have every table before a migration begins: what it has done by then is not done in vain."""
    names = "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = current_schema()"
    wanted = f"{names} AND tablename <> 'alembic_version' ORDER BY tablename"
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
    if tables := connection.exec_driver_sql(wanted).scalars().all():
        connection.exec_driver_sql(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE")


def _run(connection: Connection, step: Callable[[Config, str], None], to: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    _require_known(MigrationContext.configure(connection).get_current_revision())
    if connection.dialect.name != "sqlite":
        connection.commit()  # else Alembic takes it for a transaction of ours, and ends none
    step(config, to)
