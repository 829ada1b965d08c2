"""Rows for received objects at the rate at which they come: one commit for all that wait for it.

`intake.record_instance` knows every case, one object and one transaction at a time, and takes some
milliseconds. Nearly every object is a plain one (`plain.PlainRows`): its rows are written by few
statements, and those that arrive at the same time share a transaction. Whatever is not plain, and
whatever meets a race, goes to `record_instance`.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import StoreError
from dicom_node.intake import record_instance
from dicom_node.plain import PlainRows
from dicom_node.types import SpooledInstance
from models.session import Database
from models.settings import Settings
from models.states import StoreOutcome

log = logging.getLogger(__name__)

_BATCH: Final = 64  # objects in one transaction
_PATIENCE_SECONDS: Final = 12.0  # for a locked database, twice at worst: senders give up after 30


@dataclass(eq=False)
class _Waiting:
    """One object on its way to its rows."""

    spooled: SpooledInstance
    keep: Callable[[], None]
    is_recorded: bool = False
    is_done: bool = False
    error: SQLAlchemyError | None = None  # the database cannot be had at all


class Recorder:
    """Writes the rows of one process's received objects. For use by any number of threads."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._plain = PlainRows(database.engine.dialect, settings)
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._connection: Connection | None = None  # used by who writes

    def record(self, spooled: SpooledInstance, keep: Callable[[], None]) -> StoreOutcome:
        """Write the rows of one object; when this returns, they are committed.

        Before the commit `keep` is called: it returns when the object's bytes are durable, or
        raises; then there are no rows. Raises what `keep` raises, and
        sqlalchemy.exc.SQLAlchemyError when the database cannot be written.
        """
        mine = _Waiting(spooled, keep)
        with self._lock:
            self._waiting.append(mine)
        with self._writing:  # who comes first writes for all who came meanwhile
            while not mine.is_done:
                with self._lock:
                    batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                self._write(batch)
        if mine.error is not None:
            raise mine.error
        if mine.is_recorded:
            return StoreOutcome.STORED
        keep()
        return record_instance(self._database, self._settings, spooled)

    def _write(self, batch: list[_Waiting]) -> None:
        """Write the plain ones of a batch in one transaction; each thread does its own others."""
        recorded: set[_Waiting] = set()
        has_begun = False
        try:
            with self._database.turn(_PATIENCE_SECONDS), self._transaction() as connection:
                has_begun = True
                in_order = sorted(batch, key=_study)  # of locks: the same in every process
                plain = {each for each in in_order if self._plain.add(connection, each.spooled)}
                for each in plain:
                    each.keep()
            recorded = plain  # committed, not before
        except SQLAlchemyError as error:
            if not has_begun:
                batch = self._give_up(batch, error)
            log.info("%d objects are not recorded together: %s", len(batch), type(error).__name__)
        except (StoreError, OSError) as error:  # of one file; `record` finds out whose
            log.info("%d objects are not recorded together: %s", len(batch), type(error).__name__)
        finally:
            for each in batch:
                each.is_recorded, each.is_done = each in recorded, True

    def _give_up(self, batch: list[_Waiting], error: SQLAlchemyError) -> list[_Waiting]:
        """Tell all who wait for the database that it was waited for in vain: once is enough."""
        with self._lock:
            everybody, self._waiting = batch + self._waiting, []
        for each in everybody:
            each.error = error
        return everybody

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Begin and commit on a connection that is kept: to get one costs as much as to use it."""
        if self._connection is None:
            engine = self._database.engine.execution_options(patience=_PATIENCE_SECONDS)
            self._connection = engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            connection, self._connection = self._connection, None
            with contextlib.suppress(SQLAlchemyError):
                connection.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        with self._writing:
            if self._connection is not None:
                self._connection.close()
                self._connection = None


def _study(waiting: _Waiting) -> str:
    return waiting.spooled.identity.study_instance_uid
