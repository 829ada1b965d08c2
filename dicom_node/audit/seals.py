"""The sealer: takes events in batches and puts marks and a seal over them (`macs`).

Nothing of this is in the way of what writes an event. A batch is read and hashed without a lock,
and written in one short transaction; of two sealers at once one fails on the number of the seal.

PostgreSQL gives ids before a commit makes them visible, so an id may be missing now and come later.
Such gaps are looked at again for an hour; a late event is sealed in a later batch.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

from sqlalchemy import func, insert, or_, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.audit import anchor
from dicom_node.audit.columns import Values, events_by_id, newest_of
from dicom_node.audit.keys import Keys, key_path, load_keys, make_first_key
from dicom_node.audit.macs import (
    NOTHING_BEFORE,
    SALT_BYTES,
    UNREADABLE,
    Mark,
    SealHead,
    event_mac,
    has_patient,
    patient_mac,
    seal_mac,
)
from dicom_node.errors import AuditKeyError
from dicom_node.loop import run_loop
from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.seal import AuditMark, AuditSeal
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

BATCH: Final = 500
_GAP_HOURS: Final = 1.0  # longer than any transaction takes
_MOST_GAPS: Final = 200  # looked at again; of more the oldest are given up, and `verify` has them
_TROUBLE_SECONDS: Final = 60.0
_ANCHOR_BLOCK: Final = 1000
_END_SECONDS: Final = 10.0
_MAC_LENGTH: Final = 64

Gap = tuple[int, int, float]  # first and last missing id, and until when it is looked at


@dataclass
class _Position:
    """Where the sealing is: the last seal, the highest sealed id, the gaps below it."""

    number: int
    mac: str
    highest: int
    gaps: list[Gap] = field(default_factory=list)


class Sealer:
    """Seals what is there, every `audit.seal_seconds`. One per process."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._database = settings, database
        self._monotonic = monotonic
        self._key_path, self._anchor = key_path(settings), anchor.anchor_path(settings)
        self._position: _Position | None = None
        self._due, self._anchor_due = 0.0, 0.0

    def step(self) -> int:
        """Seal one batch if it is time to; return how many events it has.

        Without its key it says so in the log. An anchor that cannot be written is tried less
        often, and holds up no seal.
        """
        if self._monotonic() < self._due:
            return 0
        self._due = self._monotonic() + self._settings.audit.seal_seconds
        try:
            sealed = self._seal()
        except (AuditKeyError, OSError) as error:
            log.error("seals of the audit cannot be made: %s", error)  # noqa: TRY400  no traceback wanted
            self._due = self._monotonic() + _TROUBLE_SECONDS
            return 0
        if self._monotonic() >= self._anchor_due:
            self._try_anchor()
        if sealed >= BATCH:
            self._due = 0.0
        return sealed

    def seal_batch(self) -> int:
        """Seal what is there, at most one batch, and anchor it; return how many events it has.

        Raises AuditKeyError.
        """
        sealed = self._seal()
        self._try_anchor()
        return sealed

    def _seal(self) -> int:
        with self._database.read() as session:
            position = self._position
            if position is None or not _is_known(session, position):
                position = self._find_position(session)
            keys = self._keys(is_first=position.number == 0)
            late = _late(session, position)
            rows = events_by_id(session, late or _next(session, position))
        self._position = position
        if rows and not self._write(position, keys, rows, is_late=bool(late)):
            return 0
        return len(rows)

    def _try_anchor(self) -> None:
        """Write what the anchor lacks, or say that it cannot be written."""
        try:
            self._anchor_new()
        except OSError as error:
            log.error("the anchor of the audit cannot be written: %s", error)  # noqa: TRY400  no traceback wanted
            self._anchor_due = self._monotonic() + _TROUBLE_SECONDS
        else:
            self._anchor_due = 0.0

    def _keys(self, *, is_first: bool) -> Keys:
        """Return the keys; the first is made, but never another in place of a lost one."""
        if is_first and not self._key_path.exists():
            return make_first_key(self._key_path)
        return load_keys(self._key_path)

    def _find_position(self, session: Session) -> _Position:
        last = session.scalar(select(AuditSeal).order_by(AuditSeal.number.desc()).limit(1))
        if last is None:
            return _Position(0, NOTHING_BEFORE, 0)
        highest = session.scalar(select(func.max(AuditMark.event_id))) or 0
        gaps = [] if self._database.is_sqlite else self._find_gaps(session)
        return _Position(last.number, last.mac, highest, gaps)

    def _find_gaps(self, session: Session) -> list[Gap]:
        """Return the ids that nobody had when the batches of the last hour were sealed."""
        recent = AuditSeal.sealed_at > utc_now() - timedelta(hours=_GAP_HOURS)
        low = session.scalar(select(func.min(AuditSeal.first_event_id)).where(recent))
        if low is None:
            return []
        before = func.lag(AuditMark.event_id).over(order_by=AuditMark.event_id).label("before")
        pairs = select(AuditMark.event_id, before).where(AuditMark.event_id >= low).subquery()
        found = session.execute(
            select(pairs.c.before + 1, pairs.c.event_id - 1)
            .where(pairs.c.event_id > pairs.c.before + 1)
            .order_by(pairs.c.event_id.desc())
            .limit(_MOST_GAPS)
        )
        until = self._monotonic() + _GAP_HOURS * 3600
        return [(first, last, until) for first, last in reversed(found.all())]

    def _write(
        self,
        position: _Position,
        keys: Keys,
        rows: Mapping[int, Values | None],
        *,
        is_late: bool,
    ) -> bool:
        """Write marks and seal; False: another sealer was faster, so look again."""
        key = keys[keys.newest]
        marks, salts = _marks(key, rows)
        head = SealHead(
            number=position.number + 1,
            first_event_id=marks[0].event_id,
            last_event_id=marks[-1].event_id,
            events=len(marks),
            sealed_at=utc_now(),
            key_id=keys.newest,
            previous_mac=position.mac,
        )
        mac = seal_mac(key, head, marks)
        values = [
            vars(mark) | {"seal_number": head.number, "patient_salt": salt}
            for mark, salt in zip(marks, salts, strict=True)
        ]
        try:
            with self._database.write() as session:
                session.execute(insert(AuditSeal).values(**vars(head), mac=mac))
                session.execute(insert(AuditMark), values)
        except IntegrityError:
            self._position = None
            log.info("seal %d of the audit was made by another process", head.number)
            return False
        ids = [mark.event_id for mark in marks]
        if is_late:
            gaps = _without(position.gaps, set(ids))
        else:
            gaps = [*position.gaps, *self._gaps_in(position.highest, ids)]
        highest = max(position.highest, head.last_event_id)
        self._position = _Position(head.number, mac, highest, self._open(gaps))
        return True

    def _gaps_in(self, highest: int, ids: Sequence[int]) -> list[Gap]:
        if self._database.is_sqlite:
            return []  # one writer at a time: ids become visible in their order
        until = self._monotonic() + _GAP_HOURS * 3600
        neighbours = zip([highest, *ids], ids, strict=False)
        return [(low + 1, high - 1, until) for low, high in neighbours if high > low + 1]

    def _open(self, gaps: list[Gap]) -> list[Gap]:
        now = self._monotonic()
        return [gap for gap in gaps if gap[2] > now][-_MOST_GAPS:]

    def _anchor_new(self) -> None:
        """Write what the anchor lacks. Raises OSError."""
        last = anchor.last_anchored(self._anchor)
        with self._database.read() as session:
            is_known = last is None or _is_known(session, last)
            newer = AuditSeal.number > (last.number if last and is_known else 0)
            query = select(AuditSeal).where(newer).order_by(AuditSeal.number)
            seals = list(session.scalars(query.limit(_ANCHOR_BLOCK))) if is_known else []
        if last is not None and not is_known:
            seals = self._not_anchored(last)
        if seals:
            anchor.append(self._anchor, seals)
            log.info("audit sealed: %s", anchor.line_of(seals[-1]))

    def _not_anchored(self, last: anchor.Anchored) -> list[AuditSeal]:
        """Say that the database was cut, or is older than the anchor; return its new seals."""
        details = {"seal": last.number, "mac": last.mac[:_MAC_LENGTH]}
        with self._database.read() as session:
            is_told = _newest_alarm(session) == details
        if not is_told:
            log.error(
                "the anchor %s ends with seal %d, which the database does not have: rows were "
                "deleted, or an older back-up was restored; see `dicom-node audit verify`",
                self._anchor,
                last.number,
            )
            with self._database.write() as session:
                record(session, AuditAction.AUDIT_ALARM, "anchor_ahead", details=details)
        known = {each.mac for _, each in anchor.every_anchored(self._anchor) if each is not None}
        query = select(AuditSeal.number, AuditSeal.mac).order_by(AuditSeal.number)
        with self._database.read() as session:
            there = session.execute(query.execution_options(yield_per=_ANCHOR_BLOCK))
            new = (number for number, mac in there if mac not in known)
            chosen = AuditSeal.number.in_(list(islice(new, _ANCHOR_BLOCK)))
            return list(session.scalars(select(AuditSeal).where(chosen).order_by(AuditSeal.number)))


def seal_rest(settings: Settings, database: Database) -> None:
    """Seal all that is there, at the end of a node: nothing is to lie unsealed while it is off."""
    sealer = Sealer(settings, database)
    try:
        while sealer.seal_batch():
            pass
    except (AuditKeyError, OSError, SQLAlchemyError) as error:
        log.warning("the last audit events have no seal yet: %s", type(error).__name__)


@contextmanager
def sealing(settings: Settings, database: Database, stop: threading.Event) -> Iterator[None]:
    """Seal in a thread while the block runs: a disk that hangs holds up nothing else.

    `stop` ends it. A thread that hangs then is left to the end of the process.
    """
    sealer = Sealer(settings, database)
    thread = threading.Thread(
        target=run_loop,
        args=(sealer.step, stop, settings.audit.seal_seconds),
        name="audit-sealing",
        daemon=True,
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_END_SECONDS)


def _is_known(session: Session, last: anchor.Anchored | _Position) -> bool:
    """Say whether the database has this seal, as it was; before the first there is none to have."""
    mac = session.scalar(select(AuditSeal.mac).where(AuditSeal.number == last.number))
    return mac == last.mac or last.number == 0


def _newest_alarm(session: Session) -> object:
    """Return what the last alarm was about."""
    number = newest_of(session, AuditAction.AUDIT_ALARM)
    row = events_by_id(session, [number]).get(number) if number is not None else None
    return None if row is None else row["details"]


def _next(session: Session, position: _Position) -> list[int]:
    query = select(AuditEvent.id).where(AuditEvent.id > position.highest).order_by(AuditEvent.id)
    return list(session.scalars(query.limit(BATCH)))


def _late(session: Session, position: _Position) -> list[int]:
    """Return the events that came into gaps."""
    if not position.gaps:
        return []
    within = [AuditEvent.id.between(first, last) for first, last, _ in position.gaps]
    query = select(AuditEvent.id).where(or_(*within)).order_by(AuditEvent.id)
    return list(session.scalars(query.limit(BATCH)))


def _without(gaps: list[Gap], ids: set[int]) -> list[Gap]:
    """Return what is still missing."""
    left: list[Gap] = []
    for first, last, until in gaps:
        start = first
        for each in sorted(each for each in ids if first <= each <= last):
            if each > start:
                left.append((start, each - 1, until))
            start = each + 1
        if start <= last:
            left.append((start, last, until))
    return left


def _marks(key: bytes, rows: Mapping[int, Values | None]) -> tuple[list[Mark], list[bytes | None]]:
    """Return a mark and its salt for each event. One that cannot be read is never proved."""
    marks: list[Mark] = []
    salts: list[bytes | None] = []
    for event_id, row in sorted(rows.items()):
        if row is None:
            log.error("event %d of the audit cannot be read: nothing will prove it", event_id)
        salt = secrets.token_bytes(SALT_BYTES) if row and has_patient(row) else None
        mac = patient_mac(key, salt, row) if row and salt else None
        marks.append(Mark(event_id, event_mac(key, row) if row else UNREADABLE, mac))
        salts.append(salt)
    return marks, salts
