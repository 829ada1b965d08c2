"""The rows of the reading worklist, page by page, each page by an index however long the list is.

The order is that of `Study.reading_order`: the highest percentage first, studies without a figure
behind them, and of equals what came first. Studies whose result is late have a list of their own
(`late=True`), by what has waited longest, to stand above the others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import merge
from itertools import product
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, not_, select, text
from sqlalchemy.orm import Session

from dicom_node.errors import UnknownStudyError
from dicom_node.paging import Page, after, decode, moment, page_of
from dicom_node.worklist.facts import Facts, facts_of
from models.base import utc_now
from models.fields import Priority
from models.imaging import WITHOUT_FIGURE, WITHOUT_REPORT, Study
from models.reading import Reading
from models.settings import Settings
from models.states import ReadingState, StudyState

_BY_FIGURE: Final = ((Study.reading_order, False), (Study.id, False))
_BY_WAITING: Final = ((Study.last_received_at, False), (Study.id, False))
_WAITING_STATES: Final = (StudyState.OPEN, StudyState.SETTLED)


@dataclass(frozen=True)
class WorklistFilter:
    """What to list; None means any. `since` and `until` are about when a study was received.

    `late`: True lists what the node should have answered by now, in the order of waiting; False
    leaves that out. `reader` is who has claimed a study or has read it.
    """

    reading_state: ReadingState | None = ReadingState.UNREAD
    late: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    min_percent: float | None = None
    state: StudyState | None = None
    severity: str | None = None
    priority: Priority | None = None
    calling_aet: str | None = None
    reader: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions over Study, but of reading, `late` and `priority`."""
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.since, lambda: Study.created_at >= self.since),
            (self.until, lambda: Study.created_at < self.until),
            (self.patient_id, lambda: Study.patient_id == self.patient_id),
            (self.accession_number, lambda: Study.accession_number == self.accession_number),
            (self.study_instance_uid, lambda: Study.study_instance_uid == self.study_instance_uid),
            (self.min_percent, lambda: Study.reading_order <= -(self.min_percent or 0.0)),
            (self.state, lambda: Study.state == self.state),
            (self.severity, lambda: Study.severity == self.severity),
            (self.calling_aet, lambda: Study.calling_aet == self.calling_aet),
        )
        return [clause() for value, clause in wanted if value is not None]


@dataclass(frozen=True)
class WorklistRow:
    """One study as its reader meets it.

    `reasons` are those of images without a figure, `quarantined` those of images that wait for an
    operator: a study in which nothing was analysed has no percentage, never 0 %. `revision` and
    `result_at` are of the newest report (0 and None without one). `seen_percent` is the figure
    that was there when somebody claimed or read the study last, also when that was opened again.
    """

    study_instance_uid: str
    patient_id: str | None
    issuer_of_patient_id: str | None
    accession_number: str | None
    study_date: str | None
    exam_at: datetime | None
    received_at: datetime
    calling_aet: str
    state: StudyState
    percent: float | None
    severity: str | None
    priority: Priority
    reasons: tuple[str, ...]
    quarantined: tuple[str, ...]
    caveats: tuple[str, ...]
    reading_state: ReadingState
    reader: str | None
    reader_since: datetime | None
    reopened_at: datetime | None
    seen_percent: float | None
    revision: int
    result_at: datetime | None
    exam_age_seconds: float | None
    result_age_seconds: float | None
    is_late: bool


def worklist(
    session: Session,
    settings: Settings,
    wanted: WorklistFilter,
    cursor: str | None = None,
    limit: int = 100,
) -> Page[WorklistRow]:
    """Return one page of the worklist, and the cursor of the next. Raises CursorError."""
    now = utc_now()
    columns, key_of = (_BY_WAITING, _waiting_key) if wanted.late else (_BY_FIGURE, _figure_key)
    key = _decoded(cursor, is_waiting=bool(wanted.late))
    parts = [
        _in_order(session, conditions, columns, key, limit)
        for conditions in _parts(wanted, settings, now)
    ]
    studies = list(merge(*parts, key=key_of))[: limit + 1]
    page = page_of(studies, limit, lambda study: _encodable(key_of(study)))
    return Page(_rows(session, settings, page.rows, now), page.next)


def late_studies(session: Session, settings: Settings) -> int:
    """Return how many unread studies the node should have answered by now, at most 1000."""
    (conditions,) = _parts(WorklistFilter(late=True), settings, utc_now())
    return len(session.scalars(select(Study.id).where(*conditions).limit(1000)).all())


def worklist_row(session: Session, settings: Settings, study_instance_uid: str) -> WorklistRow:
    """Return the row of one study, read or not. Raises UnknownStudyError."""
    query = select(Study).where(Study.study_instance_uid == study_instance_uid)
    study = session.scalar(query)
    if study is None:
        raise UnknownStudyError
    return _rows(session, settings, [study], utc_now())[0]


def _parts(
    wanted: WorklistFilter, settings: Settings, now: datetime
) -> list[list[ColumnElement[bool]]]:
    """Return the conditions of the queries that together give the list.

    An index gives the order within one reading state and one band; over several of them the whole
    list would have to be sorted.
    """
    priorities, everywhere = settings.worklist.priorities, wanted.clauses()
    if wanted.late is not None:
        before = _late_before(settings, now)
        late = and_(text(WITHOUT_REPORT), Study.last_received_at <= before)
        everywhere.append(late if wanted.late else not_(late))
    states = list(ReadingState) if wanted.reading_state is None else [wanted.reading_state]
    readings = [_is_read(state, wanted.reader) for state in states]
    bands: list[list[ColumnElement[bool]]] = [[]]
    if wanted.priority is not None:
        bands = [[_is_of_band(band)] for band in priorities.bands(wanted.priority)]
    return [[*reading, *band, *everywhere] for reading, band in product(readings, bands) if reading]


def _is_read(state: ReadingState, reader: str | None) -> list[ColumnElement[bool]]:
    """Return the conditions that a reading is so far, by that reader; none where it cannot be."""
    is_so_far = Study.reading_state == state
    if reader is None:
        return [is_so_far]
    if state is ReadingState.UNREAD:
        return []
    column = Reading.claimed_by if state is ReadingState.CLAIMED else Reading.read_by
    return [is_so_far, Study.id.in_(select(Reading.study_id).where(column == reader))]


def _is_of_band(band: str | None) -> ColumnElement[bool]:
    return Study.reading_order == WITHOUT_FIGURE if band is None else Study.severity == band


def _late_before(settings: Settings, now: datetime) -> datetime:
    return now - timedelta(minutes=settings.worklist.late_minutes)


def _in_order(
    session: Session,
    conditions: Iterable[ColumnElement[bool]],
    columns: Sequence[tuple[Any, bool]],
    key: Sequence[Any] | None,
    limit: int,
) -> Sequence[Study]:
    query = select(Study).where(*conditions).order_by(*(column for column, _ in columns))
    if key is not None:
        query = query.where(after(columns, key))
    return session.scalars(query.limit(limit + 1)).all()


def _figure_key(study: Study) -> tuple[Any, int]:
    return study.reading_order, study.id


def _waiting_key(study: Study) -> tuple[Any, int]:
    return study.last_received_at, study.id


def _encodable(key: tuple[Any, int]) -> tuple[Any, int]:
    first, second = key
    return first.isoformat() if isinstance(first, datetime) else first, second


def _decoded(cursor: str | None, *, is_waiting: bool) -> tuple[Any, ...] | None:
    if cursor is None:
        return None
    first, second = decode(cursor, (str if is_waiting else float, int))
    return (moment(first) if is_waiting else first), second


def _rows(
    session: Session, settings: Settings, studies: Sequence[Study], now: datetime
) -> list[WorklistRow]:
    facts = facts_of(session, [study.id for study in studies])
    return [_row(settings, study, facts[study.id], now) for study in studies]


def _row(settings: Settings, study: Study, facts: Facts, now: datetime) -> WorklistRow:
    reading = facts.reading
    return WorklistRow(
        study_instance_uid=study.study_instance_uid,
        patient_id=study.patient_id,
        issuer_of_patient_id=study.issuer_of_patient_id,
        accession_number=study.accession_number,
        study_date=study.study_date,
        exam_at=study.exam_at,
        received_at=study.created_at,
        calling_aet=study.calling_aet,
        state=study.state,
        percent=study.opacity_percent,
        severity=study.severity,
        priority=settings.worklist.priorities.of(study.severity),
        reasons=facts.reasons,
        quarantined=facts.quarantined,
        caveats=facts.caveats,
        reading_state=study.reading_state,
        reader=reading.reader if reading else None,
        reader_since=reading.since if reading else None,
        reopened_at=reading.reopened_at if reading else None,
        seen_percent=reading.percent if reading else None,
        revision=facts.revision,
        result_at=facts.result_at,
        exam_age_seconds=_age(study.exam_at, now),
        result_age_seconds=_age(facts.result_at, now),
        is_late=_is_late(settings, study, now),
    )


def _age(moment: datetime | None, now: datetime) -> float | None:
    return None if moment is None else max(0.0, (now - moment).total_seconds())


def _is_late(settings: Settings, study: Study, now: datetime) -> bool:
    """Say whether somebody should read the study without waiting any longer; not once it is read.

    The time runs from its last image.
    """
    return (
        study.state in _WAITING_STATES
        and study.reading_order > 0
        and study.reading_state is not ReadingState.READ
        and study.last_received_at <= _late_before(settings, now)
    )
