"""The loop that keeps rows moving: publish, reap, settle, plan deliveries, recover orphans.

Everything it does follows from rows alone, so it can be killed at any point and started again,
and two of them running at once do no harm.
"""

import logging
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial

from sqlalchemy import select
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from dicom_node.clock import Patience, mend_due_times
from dicom_node.identity_update import decide_updates
from dicom_node.planning import (
    delivered_studies,
    plan_deliveries,
    plan_segmentations,
    reported_studies,
    studies_whose_report_failed,
    studies_with_report,
)
from dicom_node.queue import JobQueue
from dicom_node.recovery import OrphanSweep
from dicom_node.rejection import read_key_objects
from dicom_node.retention import Retention
from dicom_node.settling import is_quiet, quiet_studies, settle
from dicom_node.spool import Spool
from dicom_node.taking_back import expired_jobs, take_back_job
from models.base import advance, utc_now
from models.imaging import Study
from models.job import Job
from models.session import Database
from models.settings import Settings
from models.states import JobState, StudyState

log = logging.getLogger(__name__)

_BATCH = 200
_LOST_MESSAGE_SECONDS = 900.0
_CLOCK_SECONDS = 5.0
_UNWANTED_SECONDS = 5.0
_MANY = 1000
_SECONDS_PER_STUDY = 1e-4  # some 20 times what asking takes


class Dispatcher:
    """One dispatch loop; `step` does one round."""

    def __init__(self, settings: Settings, database: Database, queue: JobQueue) -> None:
        self._settings = settings
        self._database = database
        self._queue = queue
        self._spool = Spool(settings.image_store, settings.dicom.min_free_bytes)
        self._retention = Retention(settings, database)
        self._sweep = OrphanSweep(database, settings, self._spool)
        self._next_orphan_sweep = 0.0
        self._next_clock_check = 0.0
        self._patience = Patience(settings.worker.lease_seconds)
        self._next_finish = 0.0
        self._next_without_report = 0.0

    def step(self) -> bool:
        """Do one round; return whether anything moved.

        A part that fails holds up no other: its error is raised when all had their turn. But
        without the database none could do anything.
        """
        moved, errors = 0, []
        for part in self._parts():
            try:
                moved += part()
            except (OperationalError, InterfaceError):
                raise
            except Exception as error:  # noqa: BLE001  raised below
                errors.append(error)
        if errors:
            raise errors[0] if len(errors) == 1 else ExceptionGroup("parts failed", errors)
        return moved > 0

    def _parts(self) -> Sequence[Callable[[], int]]:
        """Return what a round does, in order. Publishing is last: a broker away takes its time."""
        return (
            self._sweep_orphans,
            self._check_clock,
            partial(read_key_objects, self._database, self._spool),
            partial(decide_updates, self._database, self._settings),
            self._reap,
            self._settle,
            self._plan,
            self._finish,
            self._retention.step,
            self._publish,
        )

    def _publish(self) -> int:
        """Send ids of pending jobs that were never sent, or whose message seems lost."""
        with self._database.read() as session:
            jobs = self._unpublished(session) or self._overdue(session)
        for count, job in enumerate(jobs):
            self._queue.publish(job)
            if count % 50 == 49 or count == len(jobs) - 1:  # noqa: PLR2004  commit in blocks
                self._mark_published([job.id for job in jobs[: count + 1]])
        return len(jobs)

    def _mark_published(self, ids: list[int]) -> None:
        with self._database.write() as session:
            for job in session.scalars(select(Job).where(Job.id.in_(ids))):
                job.published_at = utc_now()

    @staticmethod
    def _unpublished(session: Session) -> list[Job]:
        query = select(Job).where(
            Job.state == JobState.PENDING, Job.published_at.is_(None), Job.not_before <= utc_now()
        )
        return list(session.scalars(query.order_by(Job.priority.desc(), Job.id).limit(_BATCH)))

    def _overdue(self, session: Session) -> list[Job]:
        """Return jobs whose message is lost: their queue is empty, or it is very old.

        A long queue is no reason to send everything again; a message that comes twice is dropped
        by the claim anyway.
        """
        now = utc_now()
        recent = now - timedelta(seconds=self._settings.dispatch.republish_seconds)
        query = (
            select(Job)
            .where(Job.state == JobState.PENDING, Job.published_at < recent)
            .order_by(Job.priority.desc(), Job.id)
            .limit(_BATCH)
        )
        jobs = list(session.scalars(query))
        if not jobs:
            return []
        empty = self._queue.empty()
        ancient = now - timedelta(seconds=_LOST_MESSAGE_SECONDS)
        return [
            job
            for job in jobs
            if not self._queue.is_waiting_in(job, empty)
            or (job.published_at is not None and job.published_at < ancient)
        ]

    def _reap(self) -> int:
        """Take back jobs whose worker let its lease expire; give up after the last attempt."""
        if not self._patience.may_judge():
            return 0
        with self._database.read() as session:
            expired = expired_jobs(session)
        for job_id in expired:
            with self._database.write() as session:
                take_back_job(session, job_id, self._settings.dispatch.max_attempts)
        return len(expired)

    def _settle(self) -> int:
        with self._database.read() as session:
            quiet = [
                study.id for study in quiet_studies(session, self._settings.dispatch, utc_now())
            ]
        moved = 0
        for study_id in quiet:
            with self._database.write() as session:
                study = session.get_one(Study, study_id, with_for_update=True)
                if is_quiet(study, self._settings.dispatch, utc_now()):
                    moved += settle(session, self._settings, study)
        return moved

    def _plan(self) -> int:
        with self._database.read() as session:
            ready = [study.id for study in studies_with_report(session)]
        for study_id in ready:
            with self._database.write() as session:
                study = session.get_one(Study, study_id, with_for_update=True)
                plan_deliveries(session, self._settings, study)
        return len(ready) + self._plan_without_report()

    def _plan_without_report(self) -> int:
        """Send the SEGs of studies whose report job is dead: no report is to hold them back.

        Where nobody is to get them they are looked at again, seldom: settings may change.
        """
        if time.monotonic() < self._next_without_report:
            return 0
        with self._database.read() as session:
            ready = [study.id for study in studies_whose_report_failed(session)]
        moved = 0
        for study_id in ready:
            with self._database.write() as session:
                study = session.get_one(Study, study_id, with_for_update=True)
                moved += plan_segmentations(session, self._settings, study)
        if ready and not moved:
            self._next_without_report = time.monotonic() + _UNWANTED_SECONDS
        return moved

    def _finish(self) -> int:
        """Say which studies arrived; seldom, when thousands wait for a receiver that refuses."""
        if time.monotonic() < self._next_finish:
            return 0
        with self._database.read() as session:
            ended = delivered_studies(session, self._settings)
            waiting = reported_studies(session)
        if waiting >= _MANY:
            self._next_finish = time.monotonic() + waiting * _SECONDS_PER_STUDY
        for study_id in ended:
            with self._database.write() as session:
                study = session.get_one(Study, study_id, with_for_update=True)
                if study.state is StudyState.REPORTED:
                    advance(session, study, StudyState.DELIVERED)
        return len(ended)

    def _sweep_orphans(self) -> int:
        if time.monotonic() < self._next_orphan_sweep:
            return 0
        self._next_orphan_sweep = time.monotonic() + self._settings.dispatch.orphan_seconds
        return self._sweep.run()

    def _check_clock(self) -> int:
        if time.monotonic() < self._next_clock_check:
            return 0
        self._next_clock_check = time.monotonic() + _CLOCK_SECONDS
        return mend_due_times(self._database, self._settings)
