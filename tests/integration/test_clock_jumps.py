"""A clock that jumped by an hour: nothing waits an hour, nobody is judged by it, one result."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rows import (
    add_analysis,
    add_destination,
    add_instance,
    add_job,
    open_database,
)
from servers import wait_until
from sqlalchemy import Connection, create_engine, select, text, update

from dicom_node.clock import Patience, mend_due_times
from dicom_node.dispatch import Dispatcher
from dicom_node.queue import JobQueue
from models.base import utc_now
from models.commitment import CommitmentOrder
from models.delivery import Delivery
from models.imaging import Study
from models.job import Job
from models.messages import QUEUE_ANALYSE
from models.session import Database
from models.settings import Settings, load_settings
from models.states import DeliveryState, InstanceState, JobState
from worker.leases import LeaseLostError, claim, heartbeat, held

HOUR = timedelta(hours=1)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=database_url,
        dispatch={"settle_seconds": 0},
        delivery={"backoff_cap_seconds": 60.0},
    )


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


def _put(database: Database, model: type, **values: object) -> None:
    with database.write() as session:
        session.execute(update(model).values(**values))


def _one(database: Database, model: type) -> Any:
    with database.read() as session:
        return session.scalars(select(model)).one()


def _rows(database: Database) -> None:
    """Add one row of each kind that waits for a time."""
    instance = add_instance(database, state=InstanceState.QUEUED)
    add_job(database, instance)
    _, segmentation = add_analysis(database, instance)
    destination = add_destination(database, "PACS", 104)
    with database.write() as session:
        session.add(Delivery(artifact_id=segmentation, destination_id=destination))
        session.add(CommitmentOrder(transaction_uid="1.2", calling_aet="CR1", instances=[]))


@pytest.mark.parametrize(
    ("model", "state", "column", "at_most"),
    [
        (Job, JobState.PENDING, "not_before", 0),
        (Job, JobState.PENDING, "published_at", 0),
        (Job, JobState.LEASED, "lease_until", 30),
        (Delivery, DeliveryState.DUE, "next_attempt_at", 0),
        (Delivery, DeliveryState.SENDING, "lease_until", 120 + 50 * 30),
        (Delivery, DeliveryState.SENT, "commitment_due_at", 0),
        (CommitmentOrder, "due", "next_attempt_at", 0),
        (Study, "open", "last_received_at", 0),
    ],
)
def test_what_lies_further_ahead_than_any_pause_is_brought_back(
    database: Database, settings: Settings, model: Any, state: Any, column: str, at_most: float
) -> None:
    _rows(database)
    assert mend_due_times(database, settings) == 0
    _put(database, model, state=state, **{column: utc_now() + 3 * HOUR})
    assert mend_due_times(database, settings) == 1
    assert getattr(_one(database, model), column) <= utc_now() + timedelta(seconds=at_most)
    assert mend_due_times(database, settings) == 0


def test_an_answer_to_a_sender_may_be_claimed_for_as_long_as_the_lease(
    database: Database, settings: Settings
) -> None:
    """Brought back, it would be sent a second time beside the first."""
    delivery = settings.delivery.model_copy(update={"lease_seconds": 7200.0})
    patient = settings.model_copy(update={"delivery": delivery})
    _rows(database)
    claimed = utc_now() + timedelta(seconds=delivery.lease_seconds + delivery.timeout_seconds)
    _put(database, CommitmentOrder, next_attempt_at=claimed)
    assert mend_due_times(database, patient) == 0


def test_an_honest_pause_is_kept(database: Database, settings: Settings) -> None:
    _rows(database)
    soon = utc_now() + timedelta(seconds=85)  # 60 s and the jitter of the back-off
    _put(database, Delivery, next_attempt_at=soon)
    _put(database, Job, not_before=soon)
    assert mend_due_times(database, settings) == 0


@pytest.fixture
def dispatcher(
    database: Database, settings: Settings, redis_server: str
) -> Iterator[tuple[Dispatcher, JobQueue]]:
    queue = JobQueue(redis_server.removesuffix("/0") + "/9")
    yield Dispatcher(settings, database, queue), queue
    queue.close()


def test_the_dispatcher_publishes_and_settles_what_an_old_clock_wrote(
    database: Database, dispatcher: tuple[Dispatcher, JobQueue]
) -> None:
    loop, queue = dispatcher
    before = queue.depth(QUEUE_ANALYSE)
    add_job(database, add_instance(database, state=InstanceState.QUEUED))
    add_instance(database, study_instance_uid="1.2.3", state=InstanceState.NOT_ANALYSED)
    _put(database, Job, not_before=utc_now() + HOUR)
    _put(database, Study, last_received_at=utc_now() + HOUR)
    loop.step()
    assert queue.depth(QUEUE_ANALYSE) == before + 1
    with database.read() as session:
        states = dict(session.execute(select(Study.study_instance_uid, Study.state)).all())
    assert (states["1.2.840.1"], states["1.2.3"]) == ("open", "closed")


class Clocks:
    """A wall clock and a monotonic one that a test moves."""

    def __init__(self) -> None:
        self.wall, self.monotonic = utc_now(), 0.0

    def go(self, seconds: float, jump: timedelta = timedelta(0)) -> None:
        """Let time pass, on the wall by some more."""
        self.wall += timedelta(seconds=seconds) + jump
        self.monotonic += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def patience(clocks: Clocks) -> Patience:
    return Patience(30.0, lambda: clocks.wall, lambda: clocks.monotonic)


def test_leases_are_judged_at_once_and_in_steady_time(clocks: Clocks, patience: Patience) -> None:
    for _ in range(20):
        assert patience.may_judge()
        clocks.go(10)


@pytest.mark.parametrize("jump", [HOUR, timedelta(seconds=16)])
def test_after_a_jump_owners_get_one_lease_time(
    clocks: Clocks, patience: Patience, jump: timedelta
) -> None:
    assert patience.may_judge()
    clocks.go(0.25, jump)
    for _ in range(4):
        assert not patience.may_judge()
        clocks.go(7)
    clocks.go(3)
    assert patience.may_judge()


def test_slow_rounds_do_not_stop_the_judging_for_ever(clocks: Clocks, patience: Patience) -> None:
    judged = 0
    for _ in range(20):
        judged += patience.may_judge()
        clocks.go(40)
    assert judged >= 10


def test_a_jump_back_needs_no_patience(clocks: Clocks, patience: Patience) -> None:
    assert patience.may_judge()
    clocks.go(1, -HOUR)
    assert patience.may_judge()


def test_a_living_worker_keeps_its_job_through_a_jump_forward(
    database: Database, dispatcher: tuple[Dispatcher, JobQueue]
) -> None:
    """Its lease is over by the new clock; its heartbeat comes before anybody judges it."""
    loop, _ = dispatcher
    job_id = add_job(database, add_instance(database, state=InstanceState.QUEUED))
    loop.step()
    assert claim(database, job_id, 0.9)
    with heartbeat(database, job_id, 0.9):
        _put(database, Job, lease_until=utc_now() - HOUR)
        loop._patience._seen = utc_now() - HOUR
        loop.step()
        assert _one(database, Job).state is JobState.LEASED
        wait_until(lambda: _one(database, Job).lease_until > utc_now(), 20, "the renewed lease")
        loop.step()
        assert _one(database, Job).attempts == 1
        with database.write() as session:
            held(session, job_id)


def test_who_lost_the_lease_while_the_database_was_away_stores_nothing(
    database: Database,
) -> None:
    job_id = add_job(database, add_instance(database, state=InstanceState.QUEUED))
    assert claim(database, job_id, 60.0)
    with heartbeat(database, job_id, 60.0):
        _put(database, Job, state=JobState.PENDING, lease_owner=None)  # taken back
        _put(database, Job, state=JobState.LEASED, lease_owner="another:1", attempts=2)
        with pytest.raises(LeaseLostError), database.write() as session:
            held(session, job_id)
    assert _one(database, Job).lease_owner == "another:1"


def test_a_heartbeat_goes_on_when_the_database_is_back(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with open_database(postgres_url) as database:
        job_id = add_job(database, add_instance(database, state=InstanceState.QUEUED))
        assert claim(database, job_id, 3.0)
        name = database.url.database
        with _administrator(database) as admin, heartbeat(database, job_id, 3.0):
            admin.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
            admin.execute(
                text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :it"),
                {"it": name},
            )
            wait_until(lambda: "could not be renewed" in caplog.text, 30, "a failed heartbeat")
            admin.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
            late = utc_now() + timedelta(seconds=2.5)
            wait_until(lambda: _one(database, Job).lease_until > late, 30, "the lease renewed")
        assert caplog.text.count("could not be renewed") == 1


@contextmanager
def _administrator(database: Database) -> Iterator[Connection]:
    """Connect to the same server, but to another database."""
    engine = create_engine(database.url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()
