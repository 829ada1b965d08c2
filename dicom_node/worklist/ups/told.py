"""What others were told of workitems, or could not be: the listing, and what is due again."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session, aliased

from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.imaging import Study
from models.states import EventReportState
from models.workitem import CREATE, Workitem, WorkitemMessage, WorkitemWatcher

COLUMNS: Final = [
    ("id", "id"),
    ("receiver", "receiver"),
    ("message", "message"),
    ("workitem", "workitem_uid"),
    ("study", "study_instance_uid"),
    ("state", "state"),
    ("attempts", "attempts"),
    ("next attempt", "next_attempt_at"),
    ("reason", "error"),
]
_BLOCK: Final = 500
_NAMES: Final = {CREATE: "new", 1: "state", 2: "cancel requested", 3: "progress"}


@dataclass(frozen=True)
class MessageFilter:
    """What to list; None means any."""

    state: EventReportState | None = None
    receiver: str | None = None

    def clauses(self) -> list[ColumnElement[bool]]:
        """Return the conditions over WorkitemMessage."""
        wanted = ((WorkitemMessage.state, self.state), (WorkitemMessage.receiver, self.receiver))
        return [column == value for column, value in wanted if value is not None]


def messages(session: Session, wanted: MessageFilter) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per message in the order in which they are sent, in blocks."""
    query = (
        select(WorkitemMessage, Workitem.workitem_uid, Study.study_instance_uid)
        .join(Workitem, WorkitemMessage.workitem_id == Workitem.id)
        .join(Study, Workitem.study_id == Study.id)
        .where(*wanted.clauses())
        .order_by(WorkitemMessage.id)
        .limit(_BLOCK)
    )
    last = 0
    while rows := session.execute(query.where(WorkitemMessage.id > last)).all():
        for message, workitem_uid, study_uid in rows:
            yield {
                "id": message.id,
                "receiver": message.receiver,
                "message": _NAMES[message.event_type],
                "workitem_uid": workitem_uid,
                "study_instance_uid": study_uid,
                "state": message.state.value,
                "attempts": message.attempts,
                "next_attempt_at": message.next_attempt_at.isoformat(timespec="milliseconds"),
                "error": message.error,
                "created_at": message.created_at.isoformat(timespec="milliseconds"),
            }
            last = message.id
        session.expunge_all()


def retry(session: Session, receiver: str | None, actor: str) -> int:
    """Make what was given up due again, of one receiver or of all; return how many it were.

    Not what a later report of the same kind has overtaken: the receiver would take the old state
    for the new one. Nor what was for a manager that there is no more.
    """
    wanted = MessageFilter(EventReportState.DEAD, receiver)
    found = session.scalars(
        select(WorkitemMessage).where(*wanted.clauses(), ~_is_overtaken(), _has_receiver())
    ).all()
    number = sum(
        advance(session, each, EventReportState.DUE, attempts=0, next_attempt_at=utc_now())
        for each in found
    )
    if number:
        details = {"messages": number, "receiver": receiver}
        record(session, AuditAction.DELIVERIES_DUE_AGAIN, "due", actor=actor, details=details)
    return number


def _is_overtaken() -> ColumnElement[bool]:
    later = aliased(WorkitemMessage)
    return (
        select(later.id)
        .where(
            later.receiver == WorkitemMessage.receiver,
            later.workitem_id == WorkitemMessage.workitem_id,
            later.event_type == WorkitemMessage.event_type,
            later.id > WorkitemMessage.id,
            later.state == EventReportState.ACCEPTED,
        )
        .exists()
    )


def _has_receiver() -> ColumnElement[bool]:
    is_manager = (
        select(WorkitemWatcher.id)
        .where(WorkitemWatcher.is_manager, WorkitemWatcher.ae_title == WorkitemMessage.receiver)
        .exists()
    )
    return or_(WorkitemMessage.event_type != CREATE, is_manager)
