"""Counters that are counted from rows, and yet cost little: only what is new is read.

Ids grow, and the columns that are counted here are written once. So a table is read once, in
portions, when the process starts; after that each look reads the rows of the last minutes. The
rows stay the truth: a counter goes on over a restart where it was.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from operator import add
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from dicom_node.sorting import AnyQuery
from models.base import Base
from models.session import Database

PORTION: Final = 50_000  # ids read by one statement
FRESH: Final = 2_000  # the newest ids that a first look takes for unsettled
# A row may be committed after one with a higher id was seen. For so long a look reads again.
SETTLE_SECONDS: Final = 120.0

Numbers = tuple[Any, ...]
Counts = dict[tuple[Any, ...], Numbers]
Merge = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Tally:
    """What is counted of a table.

    `query` takes the condition that says which ids, and selects `keys` columns to count by and then
    the numbers; `merges` says how the numbers of two portions are put together.
    """

    model: type[Base]
    query: Callable[[ColumnElement[bool]], AnyQuery]
    keys: int
    merges: tuple[Merge, ...] = (add,)


@dataclass(eq=False)
class RowCounter:
    """One tally, kept up to date. Safe for several threads."""

    tally: Tally
    monotonic: Callable[[], float] = time.monotonic
    _counts: Counts = field(default_factory=dict, repr=False)
    _floor: int = 0  # up to this id all rows stand in _counts
    _seen: deque[tuple[float, int]] = field(default_factory=deque, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _target: int = 0  # up to this id no row can come any more

    def catch_up(self, database: Database) -> None:
        """Read the table as far as its rows are settled, in portions.

        Raises sqlalchemy.exc.SQLAlchemyError.
        """
        with self._lock:
            is_behind = True
            while is_behind:
                with database.read() as session:
                    is_behind = self._read_portion(session)

    def read(self, session: Session) -> Counts:
        """Return the numbers of all rows by key. Raises sqlalchemy.exc.SQLAlchemyError."""
        with self._lock:
            while self._read_portion(session):
                pass
            return self._merged(self._rows(session, self._id > self._floor))

    def _read_portion(self, session: Session) -> bool:
        """Read a portion of the settled rows; say whether there are more."""
        top = session.scalar(select(func.max(self._id))) or 0
        if top < self._floor:  # the database was restored from a backup
            self._counts, self._floor, self._target = {}, 0, 0
            self._seen.clear()
        self._look(top)
        high = min(self._floor + PORTION, self._target)
        if high > self._floor:
            rows = self._rows(session, (self._id > self._floor) & (self._id <= high))
            self._counts, self._floor = self._merged(rows), high
        return high < self._target

    @property
    def _id(self) -> Any:  # noqa: ANN401  a column
        return self.tally.model.id  # type: ignore[attr-defined]  # every table has one

    def _look(self, top: int) -> None:
        """Note the highest id of now; what was the highest long enough ago is settled."""
        now = self.monotonic()
        if not self._seen:
            self._target = max(0, top - FRESH)
        self._seen.append((now, top))
        while self._seen[0][0] <= now - SETTLE_SECONDS:
            _, seen = self._seen.popleft()
            self._target = max(self._target, seen)

    def _rows(self, session: Session, where: ColumnElement[bool]) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in session.execute(self.tally.query(where))]

    def _merged(self, rows: Iterable[tuple[Any, ...]]) -> Counts:
        merged = dict(self._counts)
        for row in rows:
            key, numbers = row[: self.tally.keys], row[self.tally.keys :]
            known = merged.get(key)
            merged[key] = numbers if known is None else self._put_together(known, numbers)
        return merged

    def _put_together(self, one: Numbers, other: Numbers) -> Numbers:
        merges = self.tally.merges
        return tuple(merge(a, b) for merge, a, b in zip(merges, one, other, strict=True))
