"""Retention: purges the bytes of what is delivered and old, when it is told to; rows stay.

The row says `purged` before the file goes. Killed in between, a file is left over whose row says
that it is gone: nobody reads it, the orphan sweep knows its row, and the next sweep here deletes
it. The other way round a row would promise bytes that are lost.

While a backup holds `retention.lock` in the data folder (flock), nothing is purged.
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Final, cast

from sqlalchemy import CursorResult, Select, func, select, update
from sqlalchemy.orm import Session

from dicom_node.errors import OperatorError
from dicom_node.kept_header import keep_header
from dicom_node.purgeable import OBJECTS, images, results, unchecked_images, uncompared_images
from dicom_node.purged_files import SWEEP_SECONDS, delete_file, sweep_purged
from models.audit import AuditAction, record
from models.base import utc_now
from models.files import make_directory
from models.imaging import Instance, Study
from models.job import SHADOW, Job
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState
from models.storage import Store

log = logging.getLogger(__name__)

_PORTION: Final = 20  # purged in one step: the dispatcher has other things to do
_COMPARING: Final = 200  # images that wait for a worker at once
_HELD_SECONDS: Final = 5.0  # longer than a portion takes
_SKIPPED: Final = 1000  # with so many bad files at once somebody has to look


@dataclass(frozen=True)
class Purge:
    """One object that was purged, or would be."""

    kind: str  # `image`, or the kind of the result
    id: int
    study_instance_uid: str
    sop_instance_uid: str | None
    stored_at: datetime
    size_bytes: int
    cause: str  # `age` or `floor`
    storage_key: str


class Retention:
    """Purges by the settings; `step` does a small portion."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._wanted = settings.retention
        self._database = database
        self._next_look = self._next_sweep = 0.0
        # Could not be purged: looked at again after a pause.
        self._skipped: dict[type[Instance | Artifact], set[int]] = {
            Instance: set(),
            Artifact: set(),
        }

    def step(self) -> int:
        """Purge one portion when it is time to look; return how many objects it were.

        A folder or lock that cannot be used is logged: nothing else is to wait for retention.
        """
        if not self._wanted.is_on or time.monotonic() < self._next_look:
            return 0
        purged: list[Purge] = []
        try:
            with locked(self._settings) as is_ours:
                purged = self._portion() if is_ours else []
        except OSError as error:
            log.error("retention cannot work: %s", error)  # noqa: TRY400  it names the file
        if not purged:
            self._next_look = time.monotonic() + self._wanted.interval_seconds
            if (number := len(self._skipped[Instance])) > _SKIPPED:
                log.error("%d images cannot be purged, no more are tried: scrub the spool", number)
            for ids in self._skipped.values():
                ids.clear()
        return len(purged)

    def run(self) -> Iterator[Purge]:
        """Purge everything that may be purged now, and yield it.

        Raises OperatorError when somebody else holds the lock for long: a backup.
        """
        self._next_sweep = 0.0
        while portion := self._patient_portion():
            yield from portion

    def _patient_portion(self) -> list[Purge]:
        deadline = time.monotonic() + _HELD_SECONDS
        while time.monotonic() < deadline:
            with locked(self._settings) as is_ours:
                if is_ours:
                    return self._portion()
            time.sleep(_HELD_SECONDS / 50)
        msg = "retention.lock is held, by a backup or another purge: run it again when that ends"
        raise OperatorError(msg)

    def preview(self) -> Iterator[Purge]:
        """Yield what `run` would purge, also what a worker has to compare first."""
        aged, freed = set[int](), 0
        with self._database.read() as session:
            if (before := _before(self._wanted.images_days)) is not None:
                for row in session.scalars(unchecked_images(self._settings, before)):
                    aged.add(row.id)
                    freed += row.size_bytes
                    yield _image(row, "age")
            missing = self._below_floor() - freed
            queries = _restored_last(unchecked_images(self._settings, None))
            for row in chain.from_iterable(map(session.scalars, queries)):
                if missing <= 0:
                    break
                if row.id not in aged:
                    missing -= row.size_bytes
                    yield _image(row, "floor")
            if (before := _before(self._wanted.results_days)) is not None:
                for artifact in session.scalars(results(self._settings, before)):
                    yield _result(artifact)

    def waiting(self) -> int:
        """Return how many images wait for a worker to compare them before they can be purged."""
        with self._database.read() as session:
            return session.scalar(_comparing()) or 0

    def _portion(self) -> list[Purge]:
        if time.monotonic() >= self._next_sweep:
            sweep_purged(self._database, self._settings)
            self._next_sweep = time.monotonic() + SWEEP_SECONDS
        purged = self._by_age() or self._by_floor()
        self._have_compared()
        return purged or self._results()

    def _by_age(self) -> list[Purge]:
        before = _before(self._wanted.images_days)
        while before is not None and (rows := self._next(before)):
            if purged := [each for row in rows if (each := self._purge(row, before, "age"))]:
                return purged
        return []

    def _by_floor(self) -> list[Purge]:
        purged: list[Purge] = []
        while not purged and self._below_floor() > 0 and (rows := self._next(None)):
            purged = [
                each
                for row in rows
                if self._below_floor() > 0 and (each := self._purge(row, None, "floor"))
            ]
        return purged

    def _below_floor(self) -> int:
        """Return how many bytes are missing up to the floor."""
        if not self._wanted.floor_bytes:
            return 0
        make_directory(self._settings.spool_dir)
        return self._wanted.floor_bytes - shutil.disk_usage(self._settings.spool_dir).free

    def _next(self, before: datetime | None) -> list[Instance]:
        """Return the next candidates but for those that were skipped; none after too many."""
        query = images(self._settings, before).limit(_PORTION)
        if before is not None:
            return self._but_for_skipped(query)
        for in_turn in _restored_last(query):
            if rows := self._but_for_skipped(in_turn):
                return rows
        return []

    def _but_for_skipped(self, query: Select[Any]) -> list[Instance]:
        if len(self._skipped[Instance]) > _SKIPPED:
            return []
        query = query.where(Instance.id.not_in(self._skipped[Instance]))
        with self._database.read() as session:
            return list(session.scalars(query))

    def _purge(self, row: Instance, before: datetime | None, cause: str) -> Purge | None:
        """Keep the header, say in the row that the bytes are gone, delete them: in that order."""
        store = self._settings.image_store
        if not self._keeps(store, row.storage_key, required=row.state is InstanceState.ANALYSED):
            self._skipped[Instance].add(row.id)
            return None
        still = images(self._settings, before).where(
            Instance.id == row.id, Instance.storage_key == row.storage_key
        )
        with self._database.write() as session:
            purge = _image(session.get_one(Instance, row.id), cause)
            if not self._mark(session, row, purge, still.with_only_columns(Instance.id)):
                return None
        delete_file(store, row.storage_key)
        return purge

    def _mark(
        self,
        session: Session,
        row: Instance | Artifact,
        purge: Purge,
        still: Select[Any],
    ) -> bool:
        """Purge one row with its audit event, unless somebody needs it again by now."""
        _lock(session, purge.study_instance_uid)
        if not _mark(session, row, still, with_promised=self._wanted.purge_promised):
            self._skipped[type(row)].add(row.id)
            return False
        action = AuditAction.ARTIFACT_PURGED
        if isinstance(row, Instance):
            action = AuditAction.INSTANCE_PURGED
        record(
            session,
            action,
            purge.cause,
            study_instance_uid=purge.study_instance_uid,
            sop_instance_uid=purge.sop_instance_uid,
            details={"id": row.id, "kind": purge.kind, "size_bytes": row.size_bytes},
        )
        return True

    @staticmethod
    def _keeps(store: Store, key: str, *, required: bool) -> bool:
        """Say whether all that is needed of a file is kept."""
        try:
            return keep_header(store, key) or not required
        except OSError as error:
            log.error("%s cannot be purged: %s", key, error.strerror)  # noqa: TRY400  no traceback
            return False

    def _have_compared(self) -> None:
        """Have workers say what the pixels are of the oldest that are due."""
        before = _before(self._wanted.images_days)
        if before is None and self._below_floor() <= 0:
            return
        while (room := _COMPARING - self.waiting()) > 0 and (rows := self._uncompared(before)):
            # A lost file no worker can read: the ledger and a scrub say so.
            images = self._settings.image_store
            here = [row for row in rows if images.exists(row.storage_key)]
            self._skipped[Instance] |= {row.id for row in rows} - {row.id for row in here}
            if here:
                self._ask(here[:room])
                return

    def _uncompared(self, before: datetime | None) -> list[Instance]:
        """Return the next that wait to be compared, but for those whose file is lost."""
        query = uncompared_images(self._settings, before).limit(_COMPARING)
        return self._but_for_skipped(query)

    def _ask(self, rows: list[Instance]) -> None:
        with self._database.write() as session:
            for row in rows:
                job = Job(kind=JobKind.COMPARE, instance_id=row.id, priority=SHADOW)
                job.identity_revision = row.identity_revision
                session.add(job)

    def _results(self) -> list[Purge]:
        before = _before(self._wanted.results_days)
        if before is None:
            return []
        query = results(self._settings, before).limit(_PORTION)
        query = query.where(Artifact.id.not_in(self._skipped[Artifact]))
        with self._database.read() as session:
            rows = list(session.scalars(query))
        return [each for row in rows if (each := self._purge_result(row, before))]

    def _purge_result(self, row: Artifact, before: datetime) -> Purge | None:
        store = self._settings.artifact_store
        if row.kind in OBJECTS and not self._keeps(store, row.storage_key, required=True):
            self._skipped[Artifact].add(row.id)
            return None
        still = results(self._settings, before).where(Artifact.id == row.id)
        with self._database.write() as session:
            purge = _result(session.get_one(Artifact, row.id))
            if not self._mark(session, row, purge, still.with_only_columns(Artifact.id)):
                return None
        delete_file(store, row.storage_key)
        return purge


def _mark(
    session: Session,
    row: Instance | Artifact,
    still: Select[Any],
    *,
    with_promised: bool,
) -> bool:
    """Say in the row that its bytes are gone, unless somebody needs them again by now.

    The caller holds the lock of the study; a promise to a sender is made without it.
    """
    if session.scalar(still.order_by(None)) is None:
        return False
    table = type(row)
    change = update(table).where(table.id == row.id, table.purged_at.is_(None))
    if not with_promised:
        change = change.where(table.promised_at.is_(None))
    change = change.values(purged_at=utc_now()).execution_options(synchronize_session=False)
    return cast("CursorResult[object]", session.execute(change)).rowcount == 1


def _comparing() -> Select[Any]:
    """Count the images that wait for a worker because retention asked for it."""
    return select(func.count()).where(
        Job.kind == JobKind.COMPARE,
        Job.priority == SHADOW,
        Job.state.in_((JobState.PENDING, JobState.LEASED)),
    )


def _restored_last(query: Select[Any]) -> tuple[Select[Any], Select[Any]]:
    """Return what never came again, then what did: somebody had it sent because it is needed."""
    again = query.where(Instance.stored_at.is_not(None)).order_by(None)
    return (
        query.where(Instance.stored_at.is_(None)),
        again.order_by(Instance.stored_at, Instance.id),
    )


def _before(days: float | None) -> datetime | None:
    return None if days is None else utc_now() - timedelta(days=days)


def _image(row: Instance, cause: str) -> Purge:
    return Purge(
        kind="image",
        id=row.id,
        study_instance_uid=row.series.study.study_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        stored_at=row.stored_at or row.received_at,
        size_bytes=row.size_bytes,
        cause=cause,
        storage_key=row.storage_key,
    )


def _result(row: Artifact) -> Purge:
    analysis = row.analysis
    study = row.study if analysis is None else analysis.instance.series.study
    return Purge(
        kind=row.kind.value,
        id=row.id,
        study_instance_uid=study.study_instance_uid if study else "",
        sop_instance_uid=row.sop_instance_uid,
        stored_at=row.created_at,
        size_bytes=row.size_bytes,
        cause="age",
        storage_key=row.storage_key,
    )


def _lock(session: Session, study_instance_uid: str) -> None:
    """Hold the study: whoever makes its bytes needed again takes this lock too."""
    uid = Study.study_instance_uid == study_instance_uid
    session.scalars(select(Study).where(uid).with_for_update()).one()


@contextmanager
def locked(settings: Settings) -> Iterator[bool]:
    """Hold `retention.lock` while the block runs; False when a backup, or another run, has it."""
    make_directory(settings.data_dir)
    descriptor = os.open(settings.data_dir / "retention.lock", os.O_RDWR | os.O_CREAT, 0o660)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
