"""The anchor against the database: which seals were there, and are gone or others now."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.audit.anchor import Anchored, every_anchored
from dicom_node.audit.findings import Finding, FindingKind
from models.seal import AuditSeal

_BLOCK: Final = 1000


def compare_with_anchor(
    session: Session, path: Path, size: int, old: datetime
) -> Iterator[Finding]:
    """Yield where anchor and database differ. Seals younger than `old` may lack in the anchor.

    `size` is that of the anchor before the session looked at anything: a seal is in the database
    before it is in the anchor, so whatever the anchor had then, the session must have.
    """
    last = session.scalar(select(func.max(AuditSeal.number))) or 0
    try:
        yield from _Comparison(session, last).findings(every_anchored(path, size), old)
    except FileNotFoundError:
        if last:
            what = f"the anchor {path} is not there, so nobody knows whether seals were cut off"
            yield Finding(FindingKind.ANCHOR_INCOMPLETE, what)
    except OSError as error:
        what = f"the anchor {path} cannot be read: {error.strerror}"
        yield Finding(FindingKind.ANCHOR_UNREADABLE, what)


class _Comparison:
    """What is known while the anchor is read; one byte per seal."""

    def __init__(self, session: Session, last: int) -> None:
        self._session, self._last = session, last
        self._agree = bytearray(last + 1)
        self._first: int | None = None
        self._gone: Anchored | None = None  # the newest seal that only the anchor has

    def findings(
        self, lines: Iterator[tuple[int, Anchored | None]], old: datetime
    ) -> Iterator[Finding]:
        """Yield what is wrong, the cut tail last."""
        while block := list(islice(lines, _BLOCK)):
            for number, each in block:
                if each is None:
                    what = f"line {number} of the anchor says nothing of a seal"
                    yield Finding(FindingKind.ANCHOR_UNREADABLE, what)
            yield from self._compare([each for _, each in block if each is not None])
        yield from self._not_anchored(old)
        if self._gone is not None:
            what = (
                f"the tail was cut after seal {self._last}: the anchor goes on to seal "
                f"{self._gone.number}, up to event {self._gone.last_event_id}"
            )
            number, event_id = self._last + 1, self._gone.last_event_id
            yield Finding(
                FindingKind.TAIL_CUT, what, number, last_event_id=event_id, at=self._gone.sealed_at
            )

    def _compare(self, said: list[Anchored]) -> Iterator[Finding]:
        numbers = [each.number for each in said if 0 < each.number <= self._last]
        query = select(AuditSeal.number, AuditSeal.mac).where(AuditSeal.number.in_(numbers))
        macs: dict[int, str] = dict(self._session.execute(query).all())
        for each in said:
            self._first = min(self._first or each.number, each.number)
            if each.number > self._last:
                if self._gone is None or each.number > self._gone.number:
                    self._gone = each
            elif macs.get(each.number) == each.mac:
                self._agree[each.number] = 1
            elif each.number in macs:  # a seal that is missing has a finding of its own
                what = f"seal {each.number} is another one than the anchor has"
                yield Finding(FindingKind.ANCHOR_DIFFERS, what, each.number, at=each.sealed_at)

    def _not_anchored(self, old: datetime) -> Iterator[Finding]:
        first = self._first or 1
        lacking = [number for number in range(first, self._last + 1) if not self._agree[number]]
        if not lacking:
            return
        within = AuditSeal.number.between(lacking[0], lacking[-1])
        query = select(AuditSeal.number).where(within, AuditSeal.sealed_at < old)
        there = set(self._session.scalars(query)).intersection(lacking)
        for start, end in ranges(sorted(there)):
            named = f"seal {start} is" if start == end else f"seals {start} to {end} are"
            what = f"{named} not in the anchor, which begins with seal {first}"
            yield Finding(FindingKind.ANCHOR_INCOMPLETE, what, start)


def ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield first and last of each run in ascending numbers."""
    start = end = None
    for number in numbers:
        if start is None or end is None or number != end + 1:
            if start is not None and end is not None:
                yield start, end
            start = number
        end = number
    if start is not None and end is not None:
        yield start, end
