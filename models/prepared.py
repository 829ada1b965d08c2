"""Statements that are compiled once: for the few that run once per received object."""

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Dialect, Insert, Select, Update
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.sql.compiler import SQLCompiler


class Prepared:
    """A statement with named values, as text for one kind of database.

    SQLAlchemy finds the text again each time and wraps the result, which takes several times as
    long as SQLite takes to execute it. Values are converted as the columns' types say; results come
    as the driver gives them.
    """

    def __init__(
        self, statement: Select[*tuple[Any, ...]] | Update | Insert, dialect: Dialect, *names: str
    ) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=list(names) or None)
        if not isinstance(compiled, SQLCompiler):  # pragma: no cover  it is one for these three
            raise TypeError
        self._text = compiled.string
        self._is_positional = compiled.positiontup is not None
        names_in_order = compiled.positiontup or list(compiled.bind_names.values())
        types = {name: bound.type for bound, name in compiled.bind_names.items()}
        self._places: list[tuple[str, Callable[[Any], Any], Any]] = [
            (
                name,
                types[name].dialect_impl(dialect).bind_processor(dialect) or _as_it_is,
                compiled.params[name],
            )
            for name in names_in_order
        ]
        self._errors: type[Exception] = dialect.loaded_dbapi.Error

    def row(self, connection: Connection, values: Mapping[str, object]) -> tuple[Any, ...]:
        """Run it with a value for each name, and return its first row. Raises SQLAlchemyError."""
        return tuple(self._run(connection, values).fetchone() or ())

    def count(self, connection: Connection, values: Mapping[str, object]) -> int:
        """Run it with a value for each name, and return how many rows it changed.

        Raises SQLAlchemyError.
        """
        return int(self._run(connection, values).rowcount)

    def _run(self, connection: Connection, values: Mapping[str, object]) -> DBAPICursor:
        """Run it by the driver itself: SQLAlchemy's view of the result costs more than the rest."""
        ready = [(name, convert(values.get(name, fixed))) for name, convert, fixed in self._places]
        try:
            cursor = connection.connection.cursor()
            cursor.execute(
                self._text, [value for _, value in ready] if self._is_positional else dict(ready)
            )
        except self._errors as error:
            raise SQLAlchemyError(type(error).__name__) from error
        return cursor


def _as_it_is(value: object) -> object:
    return value
