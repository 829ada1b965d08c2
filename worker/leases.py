"""Having a job: claim it, keep it while working, know whether it is still ours at the end."""

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy import update
from sqlalchemy.orm import Session

from models.base import advance, utc_now
from models.job import Job
from models.session import Database
from models.states import JobState

log = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0


def owner_name() -> str:
    """Return the name under which this process leases jobs."""
    return f"{socket.gethostname()}:{os.getpid()}"


def claim(database: Database, job_id: int, lease_seconds: float) -> Job | None:
    """Lease a pending job, counting the attempt; None when it is not there to be had.

    A message that comes twice, or after the job has ended, finds it not pending and is dropped.
    So is one that comes again, after its worker died, to a job that was taken back and pauses: the
    dispatcher sends another when the pause is over. One that it did send is not judged by the
    clock, for that of another host may be behind.
    """
    with database.write() as session:
        job = session.get(Job, job_id)
        if job is None or job.state is not JobState.PENDING:
            return None
        if job.published_at is None and job.not_before > utc_now():
            return None
        won = advance(
            session,
            job,
            JobState.LEASED,
            lease_owner=owner_name(),
            lease_until=utc_now() + timedelta(seconds=lease_seconds),
            attempts=job.attempts + 1,
        )
        if not won:
            return None
        session.refresh(job)
        return job


class LeaseLostError(Exception):
    """The job was taken back from this process: whoever has it now decides its outcome."""


def held(session: Session, job_id: int) -> Job:
    """Return the job, locked. Raises LeaseLostError when it was taken back."""
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.state is not JobState.LEASED or job.lease_owner != owner_name():
        raise LeaseLostError
    return job


@contextmanager
def heartbeat(database: Database, job_id: int, lease_seconds: float) -> Iterator[None]:
    """Renew the lease every third of its time while the block runs.

    A database that is away is asked again every second or sooner: who takes back expired leases
    is back when it is.
    """
    stop = threading.Event()
    pause = lease_seconds / 3

    def beat() -> None:
        is_away = False
        while not stop.wait(min(pause, _RETRY_SECONDS) if is_away else pause):
            try:
                _renew(database, job_id, lease_seconds)
            except Exception:
                if not is_away:  # once, not every second of an outage
                    log.exception("job %d: the lease could not be renewed", job_id)
                is_away = True
            else:
                is_away = False

    thread = threading.Thread(target=beat, name=f"heartbeat-{job_id}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _renew(database: Database, job_id: int, lease_seconds: float) -> None:
    with database.write() as session:
        session.execute(
            update(Job)
            .where(
                Job.id == job_id,
                Job.state == JobState.LEASED,
                Job.lease_owner == owner_name(),
            )
            .values(lease_until=utc_now() + timedelta(seconds=lease_seconds))
        )
