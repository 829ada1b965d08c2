"""Unified Procedure Steps (PS3.4 Annex CC): the reading of a study as other systems see it.

A workitem follows the reading of its study in the same transaction, and ends for good: a study that
is read again, or given back, gets another one. What others are to hear of it are rows too.
"""

import uuid
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    JSON,
    ColumnElement,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from models.base import (
    AETitle,
    Base,
    Primary,
    Timestamp,
    Uid,
    UtcDateTime,
    advance,
    enum_column,
    utc_now,
)
from models.identity import make_uid
from models.imaging import Study
from models.states import TRANSITIONS, EventReportState, ReadingState, WorkitemState

CREATE: Final = 0  # of a message: N-CREATE; the others are Event Type IDs (PS3.4 Table CC.2.4-1)
STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT = 1, 2, 3
_TURNS: Final = 4_242_042_043  # of the advisory lock in PostgreSQL
_LIVE: Final = "state IN ('SCHEDULED', 'IN PROGRESS')"


class Workitem(Base):
    """One Unified Procedure Step: the reading of one study, once; `number` counts those of a study.

    `revision` is the report that it was made for. `transaction_uid` is its Locking UID, known to
    the performer alone. `attributes` are what the performer has set, in the DICOM JSON Model
    (PS3.18 F). `canceled_by` is the AE at whose request it was canceled before anybody began: for
    that report there is no other one. `uid_root` is the root of its successors' UIDs.
    """

    __tablename__ = "workitem"
    __table_args__ = (
        Index("ix_workitem_study_id", "study_id"),
        Index("ix_workitem_state", "state", "id"),
        Index("ix_workitem_ended_at", "ended_at"),
        Index(
            "uq_workitem_live_study_id",
            "study_id",
            unique=True,
            sqlite_where=text(_LIVE),
            postgresql_where=text(_LIVE),
        ),
    )

    id: Mapped[Primary]
    workitem_uid: Mapped[Uid] = mapped_column(unique=True)
    number: Mapped[int]
    uid_root: Mapped[str] = mapped_column(String(64), default="")
    study_id: Mapped[int] = mapped_column(ForeignKey("study.id"))
    state: Mapped[WorkitemState] = mapped_column(
        enum_column(WorkitemState), default=WorkitemState.SCHEDULED
    )
    revision: Mapped[int]
    transaction_uid: Mapped[Uid | None]
    performer: Mapped[str | None] = mapped_column(String(64))
    canceled_by: Mapped[str | None] = mapped_column(String(16))
    reason: Mapped[str | None] = mapped_column(String(1024))
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    changed_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    study: Mapped[Study] = relationship()


class WorkitemWatcher(Base):
    """An AE that hears of every new workitem: by a global subscription, or as a manager.

    A manager gets each one by N-CREATE and no events of it.
    """

    __tablename__ = "workitem_watcher"
    __table_args__ = (UniqueConstraint("ae_title", "is_manager"),)

    id: Mapped[Primary]
    ae_title: Mapped[AETitle]
    is_manager: Mapped[bool]
    is_locked: Mapped[bool] = mapped_column(default=False)


class WorkitemSubscription(Base):
    """An AE that hears of one workitem; with a lock it is kept until the AE lets it go."""

    __tablename__ = "workitem_subscription"
    __table_args__ = (Index("ix_workitem_subscription_workitem_id", "workitem_id"),)

    ae_title: Mapped[AETitle] = mapped_column(primary_key=True)
    workitem_id: Mapped[int] = mapped_column(ForeignKey("workitem.id"), primary_key=True)
    is_locked: Mapped[bool]


class WorkitemMessage(Base):
    """What one AE is to be told of one workitem, and how far that is; in the order of the ids.

    `information` is the data set of the event in the DICOM JSON Model; that of N-CREATE is made
    when it is sent.
    """

    __tablename__ = "workitem_message"
    __table_args__ = (
        Index("ix_workitem_message_receiver", "receiver", "state", "id"),
        Index("ix_workitem_message_workitem_id", "workitem_id"),
    )

    id: Mapped[Primary]
    receiver: Mapped[AETitle]
    workitem_id: Mapped[int] = mapped_column(ForeignKey("workitem.id"))
    event_type: Mapped[int]
    information: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    state: Mapped[EventReportState] = mapped_column(
        enum_column(EventReportState), default=EventReportState.DUE
    )
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    error: Mapped[str | None] = mapped_column(String(400))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    workitem: Mapped[Workitem] = relationship()


def newest_workitem(session: Session, study_id: int) -> Workitem | None:
    """Return the last workitem of a study; of all of them only that one can be live."""
    query = select(Workitem).where(Workitem.study_id == study_id)
    return session.scalar(query.order_by(Workitem.id.desc()).limit(1))


def schedule(session: Session, study: Study, revision: int, uid_root: str) -> Workitem | None:
    """Make a workitem for an unread study that has a report, and tell who hears of all.

    None where it has one, or where an AE had that of this very report canceled. The study is locked
    by the caller.
    """
    last = newest_workitem(session, study.id)
    if study.reading_state is not ReadingState.UNREAD or (last and not _is_over(last, revision)):
        return None
    number = last.number + 1 if last else 0
    made = Workitem(
        workitem_uid=make_uid(uid_root, "ups", study.study_instance_uid, str(number)),
        number=number,
        uid_root=uid_root,
        study_id=study.id,
        revision=revision,
    )
    session.add(made)
    session.flush()
    _announce(session, made)
    return made


def _is_over(workitem: Workitem, revision: int) -> bool:
    if workitem.state in {WorkitemState.SCHEDULED, WorkitemState.IN_PROGRESS}:
        return False
    return workitem.canceled_by is None or workitem.revision < revision


def follow(
    session: Session,
    study: Study,
    performer: str | None = None,
    transaction_uid: str | None = None,
) -> None:
    """Let the workitem of a study, if it has one, go where its reading went.

    `transaction_uid` is the Locking UID of an AE that claims; of a person nobody knows it.
    The study is locked by the caller.
    """
    workitem = newest_workitem(session, study.id)
    if workitem is None:
        return
    if study.reading_state is not ReadingState.UNREAD:
        begin(session, workitem, performer, transaction_uid)
        if study.reading_state is ReadingState.READ:
            move(session, workitem, WorkitemState.COMPLETED, ended_at=utc_now())
        return
    reason = "The reading was given back, or a newer report came."
    move(session, workitem, WorkitemState.CANCELED, ended_at=utc_now(), reason=reason)
    if workitem.canceled_by is None:
        schedule(session, study, max(workitem.revision, study.revision), workitem.uid_root)


def begin(
    session: Session,
    workitem: Workitem,
    performer: str | None,
    transaction_uid: str | None = None,
) -> None:
    """Set a scheduled workitem in progress; any other stays as it is."""
    if workitem.state is WorkitemState.SCHEDULED:
        lock = transaction_uid or f"2.25.{uuid.uuid4().int}"
        values = {"transaction_uid": lock, "performer": performer, "started_at": utc_now()}
        move(session, workitem, WorkitemState.IN_PROGRESS, **values)


def move(session: Session, workitem: Workitem, to: WorkitemState, **values: object) -> None:
    """Change the state of a workitem and report it; one that cannot go there stays as it is."""
    if to not in TRANSITIONS[WorkitemState][workitem.state]:
        return
    if advance(session, workitem, to, changed_at=utc_now(), **values):
        tell(session, workitem, STATE_REPORT, state_report(workitem))


def state_report(workitem: Workitem) -> dict[str, Any]:
    """Return the data set of a UPS State Report (PS3.4 Table CC.2.4-1), in the JSON Model."""
    report: dict[str, Any] = {
        "00404041": {"vr": "CS", "Value": ["READY"]},  # Input Readiness State
        "00741000": {"vr": "CS", "Value": [workitem.state.value]},  # Procedure Step State
    }
    if workitem.reason and workitem.state is WorkitemState.CANCELED:
        report["00741238"] = {"vr": "LT", "Value": [workitem.reason]}  # Reason For Cancellation
    return report


def tell(session: Session, workitem: Workitem, event_type: int, information: dict[str, Any]) -> int:
    """Have an event reported to every subscriber of the workitem; return how many there are."""
    _take_turns(session, alone=False)
    receivers = session.scalars(
        select(WorkitemSubscription.ae_title)
        .where(WorkitemSubscription.workitem_id == workitem.id)
        .order_by(WorkitemSubscription.ae_title)
    ).all()
    session.add_all(
        WorkitemMessage(
            receiver=each,
            workitem_id=workitem.id,
            event_type=event_type,
            information=information,
        )
        for each in receivers
    )
    return len(receivers)


def _take_turns(session: Session, *, alone: bool) -> None:
    """Keep who subscribes to all and who reports something apart, to the end of the transaction.

    Else neither would see the other one, and the event or the workitem would be told to nobody.
    SQLite has one writer in any case.
    """
    if session.get_bind().dialect.name == "postgresql":
        lock = func.pg_advisory_xact_lock if alone else func.pg_advisory_xact_lock_shared
        session.execute(select(lock(_TURNS)))


def _announce(session: Session, workitem: Workitem) -> None:
    """Subscribe and tell the AEs with a global subscription; have managers get it."""
    _take_turns(session, alone=False)
    for watcher in session.scalars(select(WorkitemWatcher).order_by(WorkitemWatcher.id)):
        if not watcher.is_manager:
            session.add(
                WorkitemSubscription(
                    ae_title=watcher.ae_title,
                    workitem_id=workitem.id,
                    is_locked=watcher.is_locked,
                )
            )
        session.add(
            WorkitemMessage(
                receiver=watcher.ae_title,
                workitem_id=workitem.id,
                event_type=CREATE if watcher.is_manager else STATE_REPORT,
                information=None if watcher.is_manager else state_report(workitem),
            )
        )


def subscribe_to_all(session: Session, ae_title: str, *, is_locked: bool) -> None:
    """Subscribe an AE to every workitem that it is not subscribed to, and to those to come.

    With a lock it is told the state of each at once (PS3.4 Table CC.2.3-2).
    """
    _take_turns(session, alone=True)
    watcher = session.scalar(
        select(WorkitemWatcher).where(
            WorkitemWatcher.ae_title == ae_title, WorkitemWatcher.is_manager.is_(False)
        )
    )
    if watcher is None:
        watcher = WorkitemWatcher(ae_title=ae_title, is_manager=False)
        session.add(watcher)
    watcher.is_locked = is_locked
    session.flush()
    known = select(WorkitemSubscription.workitem_id)
    is_new = Workitem.id.not_in(known.where(WorkitemSubscription.ae_title == ae_title))
    if is_locked:
        _report_all(session, ae_title, is_new)
    rows = select(literal(ae_title), Workitem.id, literal(is_locked)).where(is_new)
    session.execute(
        insert(WorkitemSubscription).from_select(["ae_title", "workitem_id", "is_locked"], rows)
    )


def _report_all(session: Session, ae_title: str, wanted: ColumnElement[bool]) -> None:
    """Have the state of each of these workitems reported; no row is loaded, there may be many."""
    columns = ["receiver", "workitem_id", "event_type", "information"]
    for state in WorkitemState:
        told = literal(state_report(Workitem(state=state)), JSON)
        rows = select(literal(ae_title), Workitem.id, literal(STATE_REPORT), told)
        rows = rows.where(wanted, Workitem.state == state).order_by(Workitem.id)
        session.execute(insert(WorkitemMessage).from_select(columns, rows))


def report_to(session: Session, ae_title: str, workitem: Workitem) -> None:
    """Have the state of a workitem reported to one AE."""
    session.add(
        WorkitemMessage(
            receiver=ae_title,
            workitem_id=workitem.id,
            event_type=STATE_REPORT,
            information=state_report(workitem),
        )
    )


def withdraw(session: Session, study: Study) -> None:
    """Cancel the scheduled workitem of a study of which nothing is left to read."""
    workitem = newest_workitem(session, study.id)
    if workitem is not None and workitem.state is WorkitemState.SCHEDULED:
        begin(session, workitem, None)
        reason = "The images were withdrawn."
        move(session, workitem, WorkitemState.CANCELED, ended_at=utc_now(), reason=reason)
