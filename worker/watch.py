"""A worker that is up and takes nothing: seen from its rows, ended, so that it is started again.

Celery workers are known to go on without consuming after the broker's connection was lost
(celery#8030, #8091, #10205), and a frozen process takes nothing either. So `dicom-worker run` is
two processes: this one, which only watches, and the Celery worker as its child.
"""

import ctypes
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import FrameType
from typing import Final

from amqp.exceptions import AMQPError
from kombu import Connection
from kombu.exceptions import OperationalError
from sqlalchemy import ColumnElement, and_, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.base import utc_now
from models.job import Job
from models.messages import lanes
from models.session import Database
from models.settings import Settings
from models.states import JobKind, JobState

log = logging.getLogger(__name__)

STALLED_STATUS: Final = 75  # EX_TEMPFAIL (sysexits.h): start it again
_LOADING_SECONDS = 180.0  # in which a new worker may load its models
_LONGEST_LOOK_SECONDS = 15.0
_SOCKET_SECONDS = 5.0
_SIGNALLED = 128  # how a shell shows a status by signal
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Sample:
    """What the rows say at one moment about the jobs that this worker may take.

    `finished_at` is that of the last job that this host ended. `mark` changes with every job that
    is ended here, or given back, however short it was; what other hosts end is no sign of life.
    """

    waiting: bool = False
    working: bool = False
    finished_at: datetime | None = None
    mark: tuple[object, ...] = ()


class Stall:
    """Says when jobs were left unclaimed for too long; `look` every few seconds.

    Time is counted between looks, not from the rows: a clock that jumps ends no worker. It does
    not count while a job is leased here, and starts again with any progress.
    """

    def __init__(
        self,
        bound_seconds: float,
        started_at: datetime,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bound = bound_seconds
        self._started_at = started_at
        self._monotonic = monotonic
        self._loading_until = monotonic() + _LOADING_SECONDS
        self._mark: tuple[object, ...] | None = None
        self._since: float | None = None

    def reset(self) -> None:
        """Count anew: nothing can be said about the worker while broker or database is away."""
        self._since = None

    def look(self, sample: Sample) -> bool:
        """Return whether jobs have waited for the whole bound and none of them was touched."""
        now = self._monotonic()
        may_load = now < self._loading_until and (
            sample.finished_at is None or sample.finished_at < self._started_at
        )
        before, self._mark = self._mark, sample.mark
        if may_load or not sample.waiting or sample.working or sample.mark != before:
            self._since = None
            return False
        if self._since is None:
            self._since = now
        return now - self._since >= self._bound


def sample_rows(session: Session, settings: Settings, host: str) -> Sample:
    """Look at the jobs that a worker of `host` may take, the cheap questions first."""
    served = _served(settings)
    here = Job.lease_owner.startswith(f"{host}:", autoescape=True)
    now = utc_now()
    leased = select(Job.id).where(Job.state == JobState.LEASED, Job.lease_until > now, here)
    if session.scalar(leased.limit(1)) is not None:
        return Sample(working=True)
    published = and_(Job.published_at.is_not(None), Job.not_before <= now)
    waiting = select(Job.id).where(Job.state == JobState.PENDING, published, served)
    if session.scalar(waiting.limit(1)) is None:
        return Sample()
    finished_at = session.scalar(select(func.max(Job.finished_at)).where(here))
    given_back = session.scalar(
        select(func.max(Job.not_before)).where(
            Job.state == JobState.PENDING, Job.error.is_not(None)
        )
    )
    return Sample(waiting=True, finished_at=finished_at, mark=(finished_at, given_back))


def _served(settings: Settings) -> ColumnElement[bool]:
    is_shadow = Job.kind == JobKind.SHADOW
    return {"all": Job.id.is_not(None), "analysis": ~is_shadow, "shadow": is_shadow}[
        settings.worker.serves
    ]


def waiting_messages(settings: Settings) -> int:
    """Return how many messages lie in the queues that this worker serves.

    Raises OperationalError, AMQPError or OSError when the broker does not answer.
    """
    broker = settings.effective_broker
    names = ("read_timeout",) if broker.is_amqp else ("socket_timeout", "socket_connect_timeout")
    options = broker.celery_options(dict.fromkeys(names, _SOCKET_SECONDS))
    with Connection(  # type: ignore[no-untyped-call]  # kombu
        broker.url,
        ssl=options.get("broker_use_ssl", False),
        transport_options=options["broker_transport_options"],
    ) as connection:
        connection.ensure_connection(max_retries=1, timeout=_SOCKET_SECONDS)
        channel = connection.default_channel
        return sum(
            int(
                channel.queue_declare(
                    queue=lane.name,
                    passive=False,
                    durable=True,
                    auto_delete=False,
                    arguments=lane.arguments,
                ).message_count
            )
            for lane in lanes(settings.worker.serves, is_amqp=broker.is_amqp)
        )


class Watch:
    """The watch over one worker process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._stall = Stall(settings.worker.unclaimed_seconds, utc_now())
        self._is_blind = False

    def is_stalled(self) -> bool:
        """Look once. A database or broker that is away is logged, and is no fault of the worker."""
        try:
            with self._database.read() as session:
                sample = sample_rows(session, self._settings, socket.gethostname())
            if not self._stall.look(sample):
                self._is_blind = False
                return False
            # Without a message there is nothing to take: the dispatcher publishes it again.
            return waiting_messages(self._settings) > 0
        except (SQLAlchemyError, OperationalError, AMQPError, OSError) as error:
            self._stall.reset()
            if not self._is_blind:
                log.warning("the worker cannot be watched: %s", type(error).__name__)
            self._is_blind = True
            return False


def run_watched(settings: Settings, command: Sequence[str]) -> int:
    """Run the worker `command` until it ends, or ends it when it takes no work any more.

    SIGTERM and SIGINT are passed on as SIGTERM. Returns the worker's exit status, STALLED_STATUS
    when it was killed because it had stalled.
    """
    worker = subprocess.Popen(  # noqa: S603  our own command line
        command,
        process_group=0,  # a terminal's Ctrl-C reaches only us, and all of it can be killed
        preexec_fn=_die_with_parent,  # noqa: PLW1509  no thread runs yet
    )

    def pass_on(_number: int, _frame: FrameType | None) -> None:
        worker.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    stalled = threading.Event()
    threading.Thread(
        target=_look_after, args=(settings, worker, stalled), name="watch", daemon=True
    ).start()
    status = worker.wait()
    if stalled.is_set():
        return STALLED_STATUS
    return status if status >= 0 else _SIGNALLED - status


def _look_after(
    settings: Settings, worker: "subprocess.Popen[bytes]", stalled: threading.Event
) -> None:
    pause = min(_LONGEST_LOOK_SECONDS, settings.worker.unclaimed_seconds / 10)
    watch = Watch(settings, Database(settings.effective_database_url))
    while worker.poll() is None:
        time.sleep(pause)
        try:
            settings.image_store.tidy()
            settings.artifact_store.tidy()
            if not watch.is_stalled():
                continue
        except Exception:
            log.exception("the watch failed; it goes on")
            continue
        bound = settings.worker.unclaimed_seconds
        log.error("jobs wait, and the worker took none for %.0f s: killed, to start again", bound)
        stalled.set()
        os.killpg(worker.pid, signal.SIGKILL)
        return


def _die_with_parent() -> None:
    """Ask Linux to send SIGTERM to the worker when its watch dies, however it dies."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
