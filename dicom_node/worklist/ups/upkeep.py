"""Workitems of reports that were there before the service, and the end of what is old."""

import time
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session, aliased

from dicom_node.worklist.readings import newest_revision
from models.base import utc_now
from models.imaging import Study
from models.session import Database
from models.settings import Settings
from models.states import EventReportState, ReadingState, StudyState
from models.workitem import (
    CREATE,
    Workitem,
    WorkitemMessage,
    WorkitemSubscription,
    WorkitemWatcher,
    schedule,
)

_BATCH: Final = 200
_PAUSE_SECONDS: Final = 3600.0
_WITH_REPORT: Final = (StudyState.REPORTED, StudyState.DELIVERED)


class Upkeep:
    """What the service needs beside requests; `step` does a portion."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._ups = settings.worklist.ups
        self._database = database
        self._last_study: int | None = 0  # None: all had their turn
        self._next_forgetting = 0.0

    def step(self) -> bool:
        """Do a portion of what there is to do; return whether there was anything."""
        if self._last_study is not None:
            self._schedule()
            return True
        if time.monotonic() < self._next_forgetting:
            return False
        if self._forget():
            return True
        self._next_forgetting = time.monotonic() + _PAUSE_SECONDS
        return False

    def _schedule(self) -> None:
        """Make the workitems of unread studies that were reported before the service was on."""
        with self._database.read() as session:
            block = session.scalars(
                select(Study.id)
                .where(
                    Study.id > (self._last_study or 0),
                    Study.reading_state == ReadingState.UNREAD,
                    Study.state.in_(_WITH_REPORT),
                    ~select(Workitem.id).where(Workitem.study_id == Study.id).exists(),
                )
                .order_by(Study.id)
                .limit(_BATCH)
            ).all()
        for study_id in block:
            with self._database.write() as session:
                study = session.get_one(Study, study_id, with_for_update=True)
                revision = newest_revision(session, study_id)
                if revision and study.state in _WITH_REPORT:
                    schedule(session, study, revision, self._settings.objects.uid_root)
        self._last_study = block[-1] if block else None

    def _forget(self) -> int:
        """Delete workitems that ended long ago, and what was to be told of them.

        The last one of a study stays: its number makes the UID of the next one. So does one under a
        deletion lock (PS3.4 CC.2.1.3).
        """
        before = utc_now() - timedelta(days=self._ups.keep_days)
        later, locked = aliased(Workitem), aliased(WorkitemSubscription)
        old = (
            select(Workitem.id)
            .where(
                Workitem.ended_at < before,
                select(later.id)
                .where(later.study_id == Workitem.study_id, later.id > Workitem.id)
                .exists(),
                ~select(locked.workitem_id)
                .where(locked.workitem_id == Workitem.id, locked.is_locked)
                .exists(),
            )
            .limit(_BATCH)
        )
        told = select(WorkitemMessage.id).where(WorkitemMessage.created_at < before).limit(_BATCH)
        with self._database.write() as session:
            ids, messages = session.scalars(old).all(), session.scalars(told).all()
            session.execute(delete(WorkitemMessage).where(WorkitemMessage.id.in_(messages)))
            for table in (WorkitemMessage, WorkitemSubscription):
                session.execute(delete(table).where(table.workitem_id.in_(ids)))
            session.execute(delete(Workitem).where(Workitem.id.in_(ids)))
        return len(ids) + len(messages)


def synchronise_managers(database: Database, settings: Settings) -> None:
    """Let the rows name the managers of the settings; one that is gone gets nothing more."""
    ups = settings.worklist.ups
    wanted = {each.ae_title for each in ups.managers} if ups.enabled else set()
    with database.write() as session:
        is_manager = WorkitemWatcher.is_manager
        known = set(session.scalars(select(WorkitemWatcher.ae_title).where(is_manager)))
        for title in sorted(wanted - known):
            session.add(WorkitemWatcher(ae_title=title, is_manager=True))
        for title in sorted(known - wanted):
            _dismiss(session, title)


def _dismiss(session: Session, ae_title: str) -> None:
    session.execute(
        delete(WorkitemWatcher).where(
            WorkitemWatcher.ae_title == ae_title, WorkitemWatcher.is_manager
        )
    )
    session.execute(
        update(WorkitemMessage)
        .where(
            WorkitemMessage.receiver == ae_title,
            WorkitemMessage.event_type == CREATE,
            WorkitemMessage.state == EventReportState.DUE,
        )
        .values(state=EventReportState.DEAD, ended_at=utc_now(), error="the manager was removed")
    )
