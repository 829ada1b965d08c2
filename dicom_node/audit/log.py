"""Queries over the audit, for the command, the API and the page: by any column, newest first.

The order is that of time and then of ids, and every filter has an index in that order: a page takes
as long with a million events as with a thousand. A filter that two indexes serve, such as the AE at
the other end, is asked twice and merged, since a database sorts all rows of an OR.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import product
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    RowMapping,
    String,
    and_,
    or_,
    select,
    text,
    type_coerce,
    union_all,
)
from sqlalchemy.orm import Session

from dicom_node.paging import MAX_LIMIT, Page, after, decode, moment, page_of
from models.audit import RARE_ACTION, RARE_OUTCOME, WE_CALLED, AuditAction, AuditEvent
from models.imaging import Study
from models.result import ModelVersion
from models.seal import AuditMark
from models.states import StoreOutcome

Clause = ColumnElement[bool]
_COLUMNS: Final = (
    *("calling_aet", "called_aet", "peer", "actor", "model", "study_instance_uid"),
    *("sop_instance_uid", "status", "details", "patient_id", "patient"),
)
_LISTED: Final[tuple[ColumnElement[Any], ...]] = (
    *(AuditEvent.__table__.c[name] for name in ("id", "at", "outcome", *_COLUMNS)),
    type_coerce(AuditEvent.action, String).label("action"),  # also that of a newer release
    AuditMark.__table__.c.seal_number.label("seal"),
)
_COMMON_ACTION: Final = AuditAction.INSTANCE_STORED
_COMMON_OUTCOME: Final = StoreOutcome.STORED.value


@dataclass(frozen=True)
class AuditFilter:
    """Which events to list; None means any.

    `ae_title` is that of the other side, whoever called. `patient_id` finds also what is said of
    the patient's studies without naming the patient. `model` is a name, a version, or both with a
    space between. `user` is an account, an API token or a user of the operating system.
    """

    since: datetime | None = None
    until: datetime | None = None
    patient_id: str | None = None
    accession_number: str | None = None
    study_instance_uid: str | None = None
    ae_title: str | None = None
    user: str | None = None
    model: str | None = None
    action: AuditAction | None = None
    outcome: str | None = None

    def branches(self, session: Session) -> list[list[Clause]]:
        """Return conditions of which an event meets one list or none, never two lists."""
        alternatives = [
            *([_patient(session, self.patient_id)] if self.patient_id is not None else []),
            *([_ae(self.ae_title)] if self.ae_title is not None else []),
            *([_model(session, self.model)] if self.model is not None else []),
        ]
        return [[*self._all(session), *chosen] for chosen in product(*alternatives)]

    def _all(self, session: Session) -> Iterator[Clause]:
        """Yield the conditions that one index serves each."""
        if self.since is not None:
            yield AuditEvent.at >= self.since
        if self.until is not None:
            yield AuditEvent.at < self.until
        if self.study_instance_uid is not None:
            yield AuditEvent.study_instance_uid == self.study_instance_uid
        if self.accession_number is not None:
            of_study = Study.accession_number == self.accession_number
            yield AuditEvent.study_instance_uid.in_(_studies(session, of_study))
        if self.user is not None:
            yield AuditEvent.actor == self.user
        if self.action is not None:
            yield AuditEvent.action == self.action
            if self.action is not _COMMON_ACTION:
                yield _as_indexed(RARE_ACTION)
        if self.outcome is not None:
            yield AuditEvent.outcome == self.outcome
            if self.outcome != _COMMON_OUTCOME:
                yield _as_indexed(RARE_OUTCOME)


def _as_indexed(condition: str) -> Clause:
    """Return what the other conditions say already, in the words of a partial index."""
    return and_(text(condition))


def _studies(session: Session, condition: Clause) -> list[str]:
    return list(session.scalars(select(Study.study_instance_uid).where(condition)))


def _patient(session: Session, patient_id: str) -> list[Clause]:
    named = AuditEvent.patient_id == patient_id
    uids = _studies(session, Study.patient_id == patient_id)
    if not uids:
        return [named]
    # A merge is found by the patient that is no more, and by the study of the other one.
    unnamed = or_(
        AuditEvent.patient_id.is_(None),
        and_(AuditEvent.action == AuditAction.PATIENT_MERGED, AuditEvent.patient_id != patient_id),
    )
    return [named, and_(AuditEvent.study_instance_uid.in_(uids), unnamed)]


def _ae(title: str) -> list[Clause]:
    return [
        AuditEvent.calling_aet == title,
        and_(AuditEvent.called_aet == title, _as_indexed(WE_CALLED)),
    ]


def _model(session: Session, wanted: str) -> list[Clause]:
    known = session.execute(select(ModelVersion.name, ModelVersion.version).distinct())
    names = {f"{name} {version}" for name, version in known if wanted in {name, version}}
    return [AuditEvent.model == name for name in sorted(names | {wanted})]


def events(
    session: Session,
    wanted: AuditFilter,
    cursor: str | None = None,
    limit: int = 100,
    *,
    oldest_first: bool = False,
) -> Page[dict[str, Any]]:
    """Return a page of events, JSON-ready, newest first or oldest first.

    `seal` is the number of the seal over an event; None: not sealed yet. Raises CursorError.
    """
    limit = max(1, min(limit, MAX_LIMIT))
    descends = not oldest_first
    columns = ((AuditEvent.at, descends), (AuditEvent.id, descends))
    beyond = [after(columns, _key(cursor))] if cursor is not None else []
    order = [column.desc() if descends else column.asc() for column, _ in columns]
    parts = [
        select(AuditEvent.id, AuditEvent.at)
        .where(*branch, *beyond)
        .order_by(*order)
        .limit(limit + 1)
        for branch in wanted.branches(session)
    ]
    found = union_all(*(select(each.subquery()) for each in parts)).subquery()
    in_order = [each.desc() if descends else each.asc() for each in (found.c.at, found.c.id)]
    ids = session.scalars(select(found.c.id).order_by(*in_order).limit(limit + 1)).all()
    query = (
        select(*_LISTED)
        .select_from(AuditEvent)
        .outerjoin(AuditMark, AuditMark.event_id == AuditEvent.id)
        .where(AuditEvent.id.in_(ids))
        .order_by(*order)
    )
    rows = [_row(event) for event in session.execute(query).mappings()]
    return page_of(rows, limit, lambda row: (row["at"], row["id"]))


def every_event(session: Session, wanted: AuditFilter) -> Iterator[dict[str, Any]]:
    """Yield all events, oldest first, page by page: memory does not grow with their number."""
    return _stream(session, wanted, oldest_first=True)


def newest_events(session: Session, wanted: AuditFilter) -> Iterator[dict[str, Any]]:
    """Yield all events, newest first, in the same way."""
    return _stream(session, wanted, oldest_first=False)


def _stream(
    session: Session, wanted: AuditFilter, *, oldest_first: bool
) -> Iterator[dict[str, Any]]:
    cursor: str | None = None
    while True:
        page = events(session, wanted, cursor, MAX_LIMIT, oldest_first=oldest_first)
        yield from page.rows
        if page.next is None:
            return
        cursor = page.next


def _key(cursor: str) -> tuple[datetime, int]:
    at, event_id = decode(cursor, (str, int))
    return moment(at), event_id


def _row(event: RowMapping) -> dict[str, Any]:
    return {
        "id": event["id"],
        "at": event["at"].isoformat(timespec="microseconds"),
        "action": event["action"],
        "outcome": event["outcome"],
        **{name: event[name] for name in _COLUMNS},
        "seal": event["seal"],
    }
