"""Events as plain values, read so that whatever stands in a row can be looked at."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, String, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.audit.macs import EVENT_COLUMNS, PATIENT_COLUMNS
from models.audit import AuditEvent

Values = dict[str, Any]
_NAMES: Final = (*EVENT_COLUMNS, *PATIENT_COLUMNS)
# An action that this release does not know is text like any other.
_COLUMNS: Final[tuple[ColumnElement[Any], ...]] = tuple(
    type_coerce(AuditEvent.action, String) if name == "action" else AuditEvent.__table__.c[name]
    for name in _NAMES
)


def events_by_id(session: Session, ids: Sequence[int]) -> dict[int, Values | None]:
    """Return those of the events that are there; None: a column holds what is no value of it.

    SQLite takes any text for a time or for JSON.
    """
    try:
        return {row[0]: _values(row) for row in session.execute(_query(ids))}
    except SQLAlchemyError:
        raise
    except (ValueError, TypeError, LookupError):
        return {each: row for one in ids for each, row in _one(session, one)}


def _query(ids: Sequence[int]) -> Select[*tuple[Any, ...]]:
    return select(*_COLUMNS).where(AuditEvent.id.in_(ids))


def _values(row: Row[*tuple[Any, ...]]) -> Values:
    return dict(zip(_NAMES, row, strict=True))


def _one(session: Session, event_id: int) -> list[tuple[int, Values | None]]:
    if session.scalar(select(AuditEvent.id).where(AuditEvent.id == event_id)) is None:
        return []
    try:
        return [(event_id, _values(session.execute(_query([event_id])).one()))]
    except SQLAlchemyError:
        raise
    except (ValueError, TypeError, LookupError):
        return [(event_id, None)]
