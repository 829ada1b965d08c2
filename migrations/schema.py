"""Bring a database to the newest schema, and ask whether it is there."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from models.session import Database


def _config() -> Config:
    return Config(str(Path(__file__).with_name("alembic.ini")))


def newest_revision() -> str | None:
    """Return the id of the newest migration that this release ships."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def current_revision(database: Database) -> str | None:
    """Return the id of the migration that the database is at; None when it has no tables."""
    with database.read() as session:
        return MigrationContext.configure(session.connection()).get_current_revision()


def upgrade(database: Database) -> None:
    """Apply every missing migration in one transaction.

    Safe to run from several hosts at once: one takes the lock, the others find nothing left to do.
    """
    config = _config()
    with database.engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4242042042)")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
