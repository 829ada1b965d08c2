"""Scrub: read every stored file and compare it with the hash that was taken when it came.

What it finds is written into the rows (`scrubbed_at`, `damaged_at`), so that it can go on where it
was interrupted, and so that intake knows whose bytes are welcome again (`healing`).
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, update

from dicom_node.receive import data_set_offset
from dicom_node.spool import Spool
from models.audit import AuditAction, record
from models.base import utc_now
from models.files import sha256_of
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.storage import Store

_BLOCK: Final = 200
_ARRIVING_SECONDS: Final = 3600.0  # a younger file without a row may be of a job that runs
_Table = type[Instance] | type[Artifact]


class Fault(StrEnum):
    """What is wrong with a stored file."""

    MISSING = "missing"
    DAMAGED = "damaged"
    UNKNOWN = "unknown"  # no row has it


@dataclass(frozen=True)
class ScrubFilter:
    """Which files to read; None means all. `since` is when they were stored."""

    since: datetime | None = None
    unread_for_days: float | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Found:
    """One file with a fault. `id` is None where no row has the file."""

    kind: str  # `image`, or the kind of the result
    id: int | None
    fault: Fault
    path: str
    sop_instance_uid: str | None


@dataclass
class Tally:
    """What a scrub has done so far."""

    files: int = 0
    size_bytes: int = 0
    faults: dict[Fault, int] = field(default_factory=lambda: dict.fromkeys(Fault, 0))

    @property
    def is_sound(self) -> bool:
        """Whether every file that a row has is there, with its bytes."""
        return not (self.faults[Fault.MISSING] or self.faults[Fault.DAMAGED])


class Scrub:
    """One run over spool and results."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        wanted: ScrubFilter,
        bytes_per_second: float | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._wanted = wanted
        self._rate = bytes_per_second
        self._started = time.monotonic()
        self._began = utc_now()
        self.tally = Tally()

    @property
    def seconds(self) -> float:
        """How long it runs."""
        return time.monotonic() - self._started

    def expected(self) -> int:
        """Return how many files will be read."""
        with self._database.read() as session:
            total = sum(
                session.scalar(select(func.count()).select_from(table).where(*self._where(table)))
                or 0
                for table in (Instance, Artifact)
            )
        return total if self._wanted.limit is None else min(total, self._wanted.limit)

    def run(self, advance: Callable[[], object] = lambda: None) -> Iterator[Found]:
        """Read the files, yield what is wrong, write one audit event with the counts.

        Also when it is interrupted: what was read by then stands in the rows.
        """
        try:
            for table in (Instance, Artifact):
                yield from self._read(table, advance)
            if self._wanted == ScrubFilter():
                yield from self._unknown()
        finally:
            with self._database.write() as session:
                record(
                    session,
                    AuditAction.STORAGE_SCRUBBED,
                    "sound" if self.tally.is_sound else "damaged",
                    details={
                        "files": self.tally.files,
                        "size_bytes": self.tally.size_bytes,
                        **{fault.value: number for fault, number in self.tally.faults.items()},
                    },
                )

    def _where(self, table: _Table) -> list[ColumnElement[bool]]:
        """Return the conditions on the rows to read."""
        unread: ColumnElement[bool] = or_(
            table.scrubbed_at.is_(None), table.scrubbed_at < self._began
        )
        if self._wanted.unread_for_days is not None:
            limit = self._began - timedelta(days=self._wanted.unread_for_days)
            unread = or_(table.scrubbed_at.is_(None), table.scrubbed_at < limit)
        # What is damaged is read each time, so that the exit status tells of it until it is mended.
        conditions = [table.purged_at.is_(None), or_(unread, table.damaged_at.is_not(None))]
        if self._wanted.since is not None:
            stored_at = Artifact.created_at if table is Artifact else Instance.received_at
            conditions.append(stored_at >= self._wanted.since)
        return conditions

    def _read(self, table: _Table, advance: Callable[[], object]) -> Iterator[Found]:
        last = 0
        while (room := self._room()) > 0:
            query: Select[Any] = select(table).where(and_(*self._where(table)), table.id > last)
            with self._database.read() as session:
                rows = list(session.scalars(query.order_by(table.id).limit(min(room, _BLOCK))))
            if not rows:
                return
            last = rows[-1].id
            yield from self._read_block(table, rows, advance)

    def _room(self) -> int:
        limit = self._wanted.limit
        return _BLOCK if limit is None else limit - self.tally.files

    def _read_block(
        self, table: _Table, rows: Sequence[Any], advance: Callable[[], object]
    ) -> Iterator[Found]:
        sound: list[tuple[int, str]] = []
        faulty: list[tuple[int, str]] = []
        for row in rows:
            store = self._store(row)
            fault = self._fault(row, store)
            advance()
            (sound if fault is None else faulty).append((row.id, row.storage_key))
            if fault is not None and not self._has_changed(table, row):
                kind = "image" if table is Instance else row.kind.value
                self.tally.faults[fault] += 1
                yield Found(kind, row.id, fault, store.name(row.storage_key), row.sop_instance_uid)
        self._write(table, sound, damaged=False)
        self._write(table, faulty, damaged=True)

    def _store(self, row: Instance | Artifact) -> Store:
        is_image = isinstance(row, Instance)
        return self._settings.image_store if is_image else self._settings.artifact_store

    def _fault(self, row: Instance | Artifact, store: Store) -> Fault | None:
        self.tally.files += 1
        wanted = row.data_set_sha256 if isinstance(row, Instance) else row.sha256
        path = store.read_again(row.storage_key)
        try:
            offset = data_set_offset(path) if isinstance(row, Instance) else 0
            found = sha256_of(path, offset)
            size = path.stat().st_size
        except FileNotFoundError:
            return Fault.MISSING
        except OSError:  # the disk cannot read it
            return Fault.DAMAGED
        self.tally.size_bytes += size
        self._pace()
        return None if (found, size) == (wanted, row.size_bytes) else Fault.DAMAGED

    def _pace(self) -> None:
        """Wait so long that no more is read than the rate allows."""
        if self._rate:
            ahead = self.tally.size_bytes / self._rate - self.seconds
            time.sleep(max(ahead, 0.0))

    def _has_changed(self, table: _Table, row: Instance | Artifact) -> bool:
        """Say whether the row has another file by now, or none: purged, or sent again."""
        with self._database.read() as session:
            same = select(table.id).where(
                table.id == row.id,
                table.storage_key == row.storage_key,
                table.purged_at.is_(None),
            )
            return session.scalar(same) is None

    def _write(self, table: _Table, found: list[tuple[int, str]], *, damaged: bool) -> None:
        if not found:
            return
        with self._database.write() as session:
            session.execute(
                update(table)
                .where(
                    table.id.in_([key for key, _ in found]),
                    table.storage_key.in_([key for _, key in found]),
                    table.purged_at.is_(None),
                )
                .values(scrubbed_at=utc_now(), damaged_at=utc_now() if damaged else None)
                .execution_options(synchronize_session=False)
            )

    def _unknown(self) -> Iterator[Found]:
        """Yield the files that no row has: left by a crash, or by a restored older database."""
        spool = Spool(self._settings.image_store, 0)
        yield from self._without_row("image", Instance, spool.store, spool.keys(_ARRIVING_SECONDS))
        store = self._settings.artifact_store
        keys = (
            each.key
            for shard in store.shards()
            for each in store.listed(shard)
            if time.time() - each.modified > _ARRIVING_SECONDS
        )
        yield from self._without_row("result", Artifact, store, keys)

    def _without_row(
        self, kind: str, table: _Table, store: Store, keys: Iterator[str]
    ) -> Iterator[Found]:
        block: list[str] = []
        for key in keys:
            block.append(key)
            if len(block) == _BLOCK:
                yield from self._unknown_among(kind, table, store, block)
                block = []
        yield from self._unknown_among(kind, table, store, block)

    def _unknown_among(
        self, kind: str, table: _Table, store: Store, keys: list[str]
    ) -> Iterator[Found]:
        with self._database.read() as session:
            query = select(table.storage_key).where(table.storage_key.in_(keys))
            known = set(session.scalars(query))
        for key in keys:
            if key not in known:
                self.tally.faults[Fault.UNKNOWN] += 1
                yield Found(kind, None, Fault.UNKNOWN, store.name(key), None)
