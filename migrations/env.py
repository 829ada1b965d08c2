"""Alembic's entry: takes a live connection or a URL from its caller, reads no settings."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from models.base import UtcDateTime
from models.session import METADATA, Database


def _render_item(
    kind: str,
    item: Any,  # noqa: ANN401  Alembic passes schema objects of any kind
    _context: object,
) -> str | Literal[False]:
    """Write our own column type by its name in migrations."""
    if kind == "type" and isinstance(item, UtcDateTime):
        return "models.base.UtcDateTime()"
    return False


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        compare_type=True,
        compare_server_default=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,  # where the caller has begun none: locks are held shortly
        render_item=_render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Run the migrations on the connection or the URL that was passed."""
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        _run(given)
        return
    url = context.get_x_argument(as_dictionary=True).get("url")
    if url is None:
        msg = "say which database: alembic -c migrations/alembic.ini -x url=sqlite:///node.db ..."
        raise SystemExit(msg)
    database = Database(url)
    try:
        with database.engine.begin() as connection:
            _run(connection)
    finally:
        database.dispose()


main()
