"""Pages of a long listing by keyset: the next one begins after the last key, however long it is."""

import base64
import binascii
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Integer, and_, literal, or_, tuple_

from dicom_node.errors import CursorError

MAX_LIMIT: Final = 1000
_MAX_INTEGER: Final = (1 << 31) - 1  # of a column that is no BigInteger
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # alone it is no text of any database
Row = TypeVar("Row")


@dataclass(frozen=True)
class Page(Generic[Row]):
    """Some rows, and the cursor of the next page; None: these are the last."""

    rows: list[Row]
    next: str | None


def encode(key: Sequence[Any]) -> str:
    """Return the cursor of a key of JSON values."""
    text = json.dumps(list(key), separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode(cursor: str, kinds: Sequence[type]) -> tuple[Any, ...]:
    """Return the key in a cursor. Raises CursorError unless its values are of these kinds."""
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        key = json.loads(text)
    except (ValueError, binascii.Error, RecursionError) as error:
        raise CursorError from error
    fits = (
        isinstance(key, list)
        and len(key) == len(kinds)
        and all(_is(value, kind) for value, kind in zip(key, kinds, strict=True))
    )
    if not fits:
        raise CursorError
    return tuple(key)


def _is(value: object, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool
    if isinstance(value, int):
        return kind in {int, float} and abs(value) < 1 << 63
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    return isinstance(value, kind) and not (isinstance(value, str) and _SURROGATE.search(value))


def moment(text: str) -> datetime:
    """Return the time in a key. Raises CursorError without a zone, or beyond the calendar."""
    try:
        found = datetime.fromisoformat(text)
        if found.tzinfo is not None:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise CursorError


def after(columns: Sequence[tuple[Any, bool]], key: Sequence[Any]) -> ColumnElement[bool]:
    """Return the condition that a row comes after `key`, so that an index in this order finds it.

    `columns` are those of ORDER BY, each with whether it descends; none may be NULL.
    Raises CursorError for a value that such a column cannot have.
    """
    names = [column for column, _ in columns]
    if not all(_fits(value, column.type) for value, column in zip(key, names, strict=True)):
        raise CursorError
    values = [literal(value, column.type) for value, column in zip(key, names, strict=True)]
    if len({descends for _, descends in columns}) == 1:
        ours, theirs = tuple_(*names), tuple_(*values)
        return ours < theirs if columns[0][1] else ours > theirs
    beyond = [
        column < value if descends else column > value
        for (column, descends), value in zip(columns, values, strict=True)
    ]
    equal = [column == value for column, value in zip(names, values, strict=True)]
    first = names[0] <= values[0] if columns[0][1] else names[0] >= values[0]
    return and_(first, or_(*(and_(*equal[:at], each) for at, each in enumerate(beyond))))


def _fits(value: object, kind: Any) -> bool:  # noqa: ANN401  the type of a column
    """Say whether a column can have the value: PostgreSQL ends a query with one that it cannot."""
    if isinstance(value, str):
        return "\0" not in value
    is_short = isinstance(kind, Integer) and not isinstance(kind, BigInteger)
    return not (is_short and isinstance(value, int)) or abs(value) <= _MAX_INTEGER


def page_of(
    rows: Sequence[Row], limit: int, key_of_row: Callable[[Row], Sequence[Any]]
) -> Page[Row]:
    """Return a page of at most `limit` from one row more than that."""
    if len(rows) <= limit:
        return Page(list(rows), None)
    kept = list(rows[:limit])
    return Page(kept, encode(key_of_row(kept[-1])))
