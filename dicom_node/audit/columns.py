"""Events as plain values, read so that whatever stands in a row can be looked at."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, String, func, select, type_coerce
from sqlalchemy.exc import DataError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.audit.macs import EVENT_COLUMNS, PATIENT_COLUMNS
from models.audit import AuditAction, AuditEvent

Values = dict[str, Any]
_NAMES: Final = (*EVENT_COLUMNS, *PATIENT_COLUMNS)
_NESTED: Final = ("details", "patient")
_DEPTH: Final = 50  # of JSON; what the node writes has three levels
_TROUBLE: Final = (
    *(SQLAlchemyError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError),
)
_NO_TEXT: Final = "Could not decode"  # what SQLite's driver says of bytes that are no UTF-8
# An action that this release does not know is text like any other.
_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = tuple(
    type_coerce(AuditEvent.action, String) if name == "action" else AuditEvent.__table__.c[name]
    for name in _NAMES
)


def events_by_id(session: Session, ids: Sequence[int]) -> dict[int, Values | None]:
    """Return those of the events that are there; None: a column holds what is no value of it.

    SQLite takes any text or bytes for a time or for JSON, PostgreSQL times and depths that Python
    does not. Raises SQLAlchemyError when the database does not answer.
    """
    try:
        return {row[0]: _values(row) for row in session.execute(_query(ids))}
    except _TROUBLE as error:
        if not _is_of_a_value(error):
            raise
        return {each: row for one in ids for each, row in _one(session, one)}


def _query(ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS).where(AuditEvent.id.in_(ids))


def _values(row: Row[*tuple[Any, ...]]) -> Values | None:
    values = dict(zip(_NAMES, row, strict=True))
    if bytes in map(type, row) or not all(_is_shallow(values[name]) for name in _NESTED):
        return None
    return values


def _is_shallow(value: object, left: int = _DEPTH) -> bool:
    """Say whether JSON is nested so little that whoever gets it can write it again."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return left > 0 and all(_is_shallow(each, left - 1) for each in inner)


def _is_of_a_value(error: Exception) -> bool:
    """Say whether an error is about what stands in a row, not about the database."""
    if isinstance(error, SQLAlchemyError):
        is_text = isinstance(error, OperationalError) and _NO_TEXT in str(error.orig)
        return is_text or isinstance(error, DataError)
    return True


def _one(session: Session, event_id: int) -> list[tuple[int, Values | None]]:
    if session.scalar(select(AuditEvent.id).where(AuditEvent.id == event_id)) is None:
        return []
    try:
        return [(event_id, _values(session.execute(_query([event_id])).one()))]
    except _TROUBLE as error:
        if not _is_of_a_value(error):
            raise
        return [(event_id, None)]


def newest_of(session: Session, action: AuditAction) -> int | None:
    """Return the id of the newest event of this kind, found by the index of its kind."""
    # OFFSET keeps PostgreSQL from looking for the greatest id first, through all events.
    found = select(AuditEvent.id).where(AuditEvent.action == action).offset(0).subquery()
    number: int | None = session.scalar(select(func.max(found.c.id)))
    return number
