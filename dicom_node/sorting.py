"""How a listing is sorted: its order as an index has it, and the cursor that is bound to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

from sqlalchemy import ColumnElement, Row, Select
from sqlalchemy.orm import Session

from dicom_node.errors import CursorError
from dicom_node.paging import Page, after, decode, encode, moment
from models.base import UtcDateTime

# Of whatever columns.
AnyQuery: TypeAlias = Select[*tuple[Any, ...]]
AnyRow: TypeAlias = Row[*tuple[Any, ...]]
_JSON: Final[dict[type, type]] = {datetime: str}


@dataclass(frozen=True)
class Segment:
    """A part of a listing, and its columns of ORDER BY, each with whether it descends.

    None of them is NULL in a row of the part.
    """

    columns: tuple[tuple[Any, bool], ...]
    where: tuple[ColumnElement[bool], ...] = ()

    @property
    def kinds(self) -> list[type]:
        """The Python types of the columns."""
        return [
            datetime if isinstance(column.type, UtcDateTime) else column.type.python_type
            for column, _ in self.columns
        ]

    def select(self, query: AnyQuery) -> AnyQuery:
        """Return the rows of this part in order, the columns of the order behind them."""
        order = [column.desc() if descends else column.asc() for column, descends in self.columns]
        columns = (column for column, _ in self.columns)
        return query.where(*self.where).order_by(*order).add_columns(*columns)

    def key(self, row: AnyRow) -> list[Any]:
        """Return where a row stands, as JSON values."""
        values = row[-len(self.columns) :]
        return [each.isoformat() if isinstance(each, datetime) else each for each in values]

    def beyond(self, key: Sequence[Any]) -> ColumnElement[bool]:
        """Return the condition that a row comes after `key`. Raises CursorError."""
        pairs = zip(key, self.kinds, strict=True)
        values = [moment(value) if kind is datetime else value for value, kind in pairs]
        return after(self.columns, values)


@dataclass(frozen=True)
class Sort:
    """An order of a whole listing: its parts one after the other. The cursor holds the name."""

    name: str
    segments: tuple[Segment, ...]

    def page(
        self, session: Session, query: AnyQuery, cursor: str | None, limit: int
    ) -> Page[AnyRow]:
        """Return the rows of one page. Raises CursorError unless the cursor is of this order."""
        at, key = (0, None) if cursor is None else self._start(cursor)
        found: list[tuple[int, AnyRow]] = []
        for number, segment in enumerate(self.segments[at:], at):
            part = segment.select(query)
            if key is not None and number == at:
                part = part.where(segment.beyond(key))
            rows = session.execute(part.limit(limit + 1 - len(found))).all()
            found += ((number, row) for row in rows)
            if len(found) > limit:
                break
        kept = [row for _, row in found[:limit]]
        if len(found) <= limit:
            return Page(kept, None)
        number, last = found[limit - 1]
        return Page(kept, encode([self.name, number, *self.segments[number].key(last)]))

    def whole(self, query: AnyQuery) -> list[AnyQuery]:
        """Return the queries that together give every row in order."""
        return [segment.select(query) for segment in self.segments]

    def _start(self, cursor: str) -> tuple[int, list[Any]]:
        """Return the part in which a page begins, and after which key. Raises CursorError."""
        for number, segment in enumerate(self.segments):
            kinds = [_JSON.get(kind, kind) for kind in segment.kinds]
            try:
                name, part, *key = decode(cursor, [str, int, *kinds])
            except CursorError:
                continue
            if (name, part) == (self.name, number):
                return number, key
        raise CursorError
