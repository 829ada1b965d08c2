"""The proof: every seal, mark and event is hashed again and compared, and the anchor with both.

It reads some thousand rows at a time, in one view of the database, and yields what it finds as it
finds it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Final

from sqlalchemy import and_, exists, func, or_, select
from sqlalchemy.orm import Session

from dicom_node.audit.anchor import size_of
from dicom_node.audit.anchored import compare_with_anchor, ranges
from dicom_node.audit.columns import Values, events_by_id
from dicom_node.audit.findings import Finding, FindingKind
from dicom_node.audit.keys import Keys
from dicom_node.audit.macs import (
    NOTHING_BEFORE,
    Mark,
    SealHead,
    event_mac,
    has_patient,
    is_same,
    patient_mac,
    seal_mac,
)
from dicom_node.audit.redactions import redacted_events
from models.audit import AuditEvent
from models.base import utc_now
from models.seal import AuditMark, AuditSeal

GRACE: Final = timedelta(minutes=15)  # within which an event is sealed, and a seal anchored
_BLOCK_EVENTS: Final = 5000
_BLOCK_SEALS: Final = 500
_WRITTEN: Final = "dddd-dd-dd dd:dd:dd.dddddd".replace("d", "[0-9]")  # a time, in SQLite

Rows = dict[int, Values | None]


@dataclass
class Verification:
    """One look at the whole audit. `progress` is told after each block how many events it had."""

    session: Session
    keys: Keys
    anchor: Path | None
    progress: Callable[[int], None] = lambda _: None
    events: int = 0
    seals: int = 0
    _redacted: set[int] = field(default_factory=set)
    _changed: set[int | None] = field(default_factory=set)

    def findings(self) -> Iterator[Finding]:
        """Yield all that is wrong, in the order of seals; then what no seal covers; the anchor.

        The node goes on meanwhile: time and anchor are those from before the first query.
        """
        old, size = utc_now() - GRACE, 0 if self.anchor is None else size_of(self.anchor)
        self._redacted = redacted_events(self.session, self.keys)
        last: AuditSeal | None = None
        for block in self._blocks():
            marks = self._marks(block)
            for seal in block:
                yield from _chain(last, seal)
                yield from self._batch(seal, marks.get(seal.number, []))
                last = seal
            self.session.expunge_all()
        yield from self._unsealed_marks()
        yield from self._unsealed_events(old)
        yield from self._odd_times()
        if self.anchor is not None:
            yield from compare_with_anchor(self.session, self.anchor, size, old)

    def _blocks(self) -> Iterator[list[AuditSeal]]:
        """Yield the seals in blocks that have not too many events."""
        number, block, size = 0, list[AuditSeal](), 0
        while True:
            query = select(AuditSeal).where(AuditSeal.number > number).order_by(AuditSeal.number)
            seals = self.session.scalars(query.limit(_BLOCK_SEALS)).all()
            if not seals:
                break
            for seal in seals:
                if block and size + max(seal.events, 0) > _BLOCK_EVENTS:
                    yield block
                    block, size = [], 0
                block.append(seal)
                size += max(seal.events, 0)
            number = seals[-1].number
        if block:
            yield block

    def _marks(self, block: Sequence[AuditSeal]) -> dict[int, list[AuditMark]]:
        query = (
            select(AuditMark)
            .where(AuditMark.seal_number.between(block[0].number, block[-1].number))
            .order_by(AuditMark.seal_number, AuditMark.event_id)
        )
        marks = self.session.scalars(query)
        return {
            number: list(group) for number, group in groupby(marks, lambda mark: mark.seal_number)
        }

    def _batch(self, seal: AuditSeal, marks: list[AuditMark]) -> Iterator[Finding]:
        """Prove one seal and the events below it."""
        self.seals += 1
        self.events += len(marks)
        self.progress(len(marks))
        if seal.key_id not in self.keys:
            what = f"seal {seal.number} was made with the key {seal.key_id}, which is not ours"
            yield _of_seal(FindingKind.SEAL_UNKNOWN_KEY, seal, what)
            return
        key = self.keys[seal.key_id]
        if len(marks) < seal.events:
            what = f"seal {seal.number} is over {seal.events} events; {len(marks)} marks are left"
            yield _of_seal(FindingKind.MARKS_MISSING, seal, what)
        is_sound = seal_mac(key, _head(seal), [_mark(each) for each in marks]) == seal.mac
        if not is_sound:
            what = f"seal {seal.number} or its marks were changed, or made without the key"
            yield _of_seal(FindingKind.SEAL_CHANGED, seal, what)
        rows = events_by_id(self.session, [mark.event_id for mark in marks])
        found = [each for mark in marks for each in self._event(key, seal, mark, rows)]
        wrong = {each.event_id for each in found}
        self._changed |= {each.event_id for each in found if each.kind is FindingKind.EVENT_CHANGED}
        if not is_sound and len(wrong) == len(marks) > 1:
            yield Finding(
                FindingKind.EVENT_CHANGED,
                f"none of the {len(marks)} events below seal {seal.number} is proved by its mark",
                seal.number,
                marks[0].event_id,
                marks[-1].event_id,
                seal.sealed_at,
            )
        else:
            yield from found

    def _event(self, key: bytes, seal: AuditSeal, mark: AuditMark, rows: Rows) -> Iterator[Finding]:
        event_id = mark.event_id
        if event_id not in rows:
            what = f"event {event_id} was deleted; it was sealed at {seal.sealed_at:%Y-%m-%d %H:%M}"
            yield Finding(FindingKind.EVENT_DELETED, what, seal.number, event_id, at=seal.sealed_at)
            return
        row = rows[event_id]
        if row is None or not is_same(event_mac(key, row), mark.event_mac):
            at = row["at"] if row is not None else seal.sealed_at
            what = f"event {event_id} was changed after it was sealed"
            yield Finding(FindingKind.EVENT_CHANGED, what, seal.number, event_id, at=at)
        if row is not None:
            yield from self._patient(key, mark, row)

    def _patient(self, key: bytes, mark: AuditMark, row: Values) -> Iterator[Finding]:
        """Prove the patient payload, or that it may be missing."""
        event_id, kind, what = mark.event_id, FindingKind.PATIENT_CHANGED, ""
        if not has_patient(row):
            if mark.patient_mac is None or event_id in self._redacted:
                return
            kind = FindingKind.PATIENT_REMOVED
            what = f"the patient of event {event_id} was removed, and no redaction names it"
        elif mark.patient_mac is None or mark.patient_salt is None:
            what = f"the patient of event {event_id} was added after it was sealed"
        elif not is_same(patient_mac(key, mark.patient_salt, row), mark.patient_mac):
            what = f"the patient of event {event_id} was changed after it was sealed"
        if what:
            yield Finding(kind, what, mark.seal_number, event_id, at=row["at"])

    def _unsealed_marks(self) -> Iterator[Finding]:
        of_seal = exists().where(AuditSeal.number == AuditMark.seal_number)
        query = (
            select(
                AuditMark.seal_number,
                func.count(),
                func.min(AuditMark.event_id),
                func.max(AuditMark.event_id),
            )
            .where(~of_seal)
            .group_by(AuditMark.seal_number)
            .order_by(AuditMark.seal_number)
        )
        for number, count, first, last in self.session.execute(query):
            what = f"{count} marks are of seal {number}, which is not there"
            yield Finding(FindingKind.MARKS_UNSEALED, what, number, first, last)

    def _unsealed_events(self, old: datetime) -> Iterator[Finding]:
        """Yield the events that no seal covers, as ranges of ids without another between.

        Those that are old, and those that no sealer would ever take: with an id that the node
        does not give, or among sealed ones with a time that is still to come.
        """
        marked = exists().where(AuditMark.event_id == AuditEvent.id)
        highest = select(func.max(AuditMark.event_id)).scalar_subquery()
        is_to_come = and_(AuditEvent.at > old + 2 * GRACE, AuditEvent.id < highest)
        query = (
            select(AuditEvent.id)
            .where(~marked, or_(AuditEvent.at < old, AuditEvent.id < 1, is_to_come))
            .order_by(AuditEvent.id)
            .execution_options(yield_per=_BLOCK_EVENTS)
        )
        for first, last in ranges(self.session.scalars(query)):
            row = events_by_id(self.session, [first])[first]
            yield _unsealed(first, last, row["at"] if row is not None else None)

    def _odd_times(self) -> Iterator[Finding]:
        """Yield the events whose time SQLite, which compares it as text, does not find by it."""
        if self.session.get_bind().dialect.name != "sqlite":
            return
        is_odd = or_(func.glob(_WRITTEN, AuditEvent.at) == 0, func.typeof(AuditEvent.at) != "text")
        query = select(AuditEvent.id, AuditMark.seal_number).outerjoin(
            AuditMark, AuditMark.event_id == AuditEvent.id
        )
        for event_id, seal in self.session.execute(query.where(is_odd).order_by(AuditEvent.id)):
            if event_id not in self._changed:
                what = f"the time of event {event_id} is not as the node writes it: it was changed"
                yield Finding(FindingKind.EVENT_CHANGED, what, seal, event_id)


def _unsealed(first: int, last: int, at: datetime | None) -> Finding:
    named = (
        f"event {first} is"
        if first == last
        else f"{last - first + 1} events from {first} to {last} are"
    )
    what = f"{named} not sealed: written past the node, or `dicom-node dispatch` does not run"
    return Finding(FindingKind.EVENT_UNSEALED, what, None, first, last, at)


def _chain(last: AuditSeal | None, seal: AuditSeal) -> Iterator[Finding]:
    """Prove that a seal follows the one before."""
    number, mac = (last.number, last.mac) if last else (0, NOTHING_BEFORE)
    if seal.number != number + 1:
        gone = (
            f"seal {number + 1} is"
            if seal.number == number + 2
            else (f"seals {number + 1} to {seal.number - 1} are")
        )
        what = f"{gone} missing before seal {seal.number}"
        yield _of_seal(FindingKind.SEAL_MISSING, seal, what)
    elif seal.previous_mac != mac:
        what = f"seal {seal.number} was not made after seal {number} as it is now"
        yield _of_seal(FindingKind.SEAL_CHANGED, seal, what)


def _of_seal(kind: FindingKind, seal: AuditSeal, what: str) -> Finding:
    return Finding(kind, what, seal.number, seal.first_event_id, seal.last_event_id, seal.sealed_at)


def _head(seal: AuditSeal) -> SealHead:
    return SealHead(
        seal.number,
        seal.first_event_id,
        seal.last_event_id,
        seal.events,
        seal.sealed_at,
        seal.key_id,
        seal.previous_mac,
    )


def _mark(mark: AuditMark) -> Mark:
    return Mark(mark.event_id, mark.event_mac, mark.patient_mac)
