"""Engine and sessions: one `Database` per process, opened by its composition root."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

import models.account
import models.audit
import models.commitment
import models.job
import models.reading
import models.rejection
import models.seal
import models.workitem

_BUSY_SECONDS = 30
_SHORT_SECONDS = 0.0002
# libpq: how long to wait for a PostgreSQL that is silent. Without them a host that went away takes
# a quarter of an hour to fail, and a heartbeat or a C-STORE with it. The URL may say otherwise.
_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,  # milliseconds in which what we sent must be acknowledged
}

# Naming one class of each topmost module makes sure that every table is in the metadata.
_TOPMOST = (
    models.audit.AuditEvent,
    models.commitment.CommitmentRequest,
    models.job.Job,
    models.rejection.KeyObject,
    models.seal.AuditSeal,
)
METADATA = _TOPMOST[0].metadata


def _configure_sqlite(engine: Engine) -> None:
    """Durable WAL, and write transactions that take their lock at BEGIN.

    A deferred transaction that reads first and writes later fails with SQLITE_BUSY at once when
    another writer came between, whatever the busy time-out; IMMEDIATE waits its turn instead.
    """

    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:  # noqa: ANN401  DBAPI connection
        connection.isolation_level = None  # we emit BEGIN ourselves
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={_BUSY_SECONDS * 1000}",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        read_only = options.get("read_only", False)
        patience = options.get("patience", _BUSY_SECONDS)
        if connection.info.get("patience", _BUSY_SECONDS) != patience:
            connection.exec_driver_sql(f"PRAGMA busy_timeout={patience * 1000:.0f}")
            connection.info["patience"] = patience
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


class _Turns:
    """Whose turn it is to write to an SQLite file, among the threads of all processes.

    SQLite has one writer at a time, and whoever meets another one sleeps: 1 ms, 2, 5, up to 100.
    Under load most of the time is slept away. Here the sleeps are short. The lock only saves time:
    who does not get it goes on, and SQLite's own lock decides. It ends with its process.
    """

    def __init__(self, database: str) -> None:
        self._path = Path(f"{database}.lock")
        self._mutex = threading.Lock()
        self._descriptor = -1

    @contextmanager
    def turn(self, patience: float) -> Iterator[None]:
        """Have the turn while the block runs, or after so many seconds go on without."""
        deadline = time.monotonic() + patience
        has_mutex = self._mutex.acquire(timeout=patience)
        try:
            has_lock = has_mutex and self._lock(deadline)
            try:
                yield
            finally:
                if has_lock:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            if has_mutex:
                self._mutex.release()

    def _lock(self, deadline: float) -> bool:
        with contextlib.suppress(OSError):  # a folder that cannot be written to
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o640)
            while time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return True
                time.sleep(_SHORT_SECONDS)
        return False

    def close(self) -> None:
        """Close the file of the lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:  # noqa: ANN401  DBAPI connection
    record.invalidate()


class Database:
    """The sessions of one process. Make it after fork, never before.

    Parameters are hidden in errors: they hold patient data, and errors are logged.
    """

    def __init__(self, url: str) -> None:
        self.url = make_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            Path(self.url.database or "").parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(
                self.url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True
            )
            _configure_sqlite(self.engine)
        else:
            if self.url.drivername == "postgresql":
                self.url = self.url.set(drivername="postgresql+psycopg")
            self.engine = create_engine(
                self.url,
                connect_args={
                    key: value for key, value in _PATIENCE.items() if key not in self.url.query
                },
                pool_pre_ping=True,
                pool_size=10,
                max_overflow=20,
                hide_parameters=True,
            )
        self._turns = _Turns(self.url.database) if self.is_sqlite and self.url.database else None
        snapshot = {} if self.is_sqlite else {"isolation_level": "REPEATABLE READ"}
        self._reader = self.engine.execution_options(read_only=True, **snapshot)

    def turn(self, patience: float = _BUSY_SECONDS) -> AbstractContextManager[None]:
        """Wait for this writer's turn, where the database has one writer at a time."""
        return contextlib.nullcontext() if self._turns is None else self._turns.turn(patience)

    @contextmanager
    def write(self, patience: float = _BUSY_SECONDS) -> Iterator[Session]:
        """One transaction: committed when the block ends, rolled back when it raises.

        `patience`: seconds to wait for the turn, and then for whoever has SQLite locked.
        """
        engine = self.engine.execution_options(patience=patience)
        with (
            self.turn(patience),
            Session(engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """One consistent view for queries; takes no write lock."""
        with Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Close every connection; one that a thread still uses, when it gives it back."""
        event.listen(self.engine, "checkin", _close_returned)
        self.engine.dispose()
        if self._turns is not None:
            self._turns.close()
