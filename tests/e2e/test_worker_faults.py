"""A worker that hangs, dies on a job, or loses its broker: the job ends and the queue goes on."""

import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import servers
from builders import chest_dataset, write_part10
from rows import add_instance, add_job, open_database, random_uid
from servers import wait_until
from sqlalchemy import select

from dicom_node.dispatch import Dispatcher
from dicom_node.queue import JobQueue
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
    dispatcher: Dispatcher
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

    def wait_for_lease(self, job_id: int, attempt: int) -> psutil.Process:
        """Return the process that has the job, as soon as it has it."""
        found = []

        def is_leased() -> bool:
            row = self.job(job_id)
            if row.state is JobState.LEASED and row.attempts == attempt:
                found.append(psutil.Process(int((row.lease_owner or "").rpartition(":")[2])))
            return bool(found)

        self.wait(is_leased, f"attempt {attempt} of job {job_id}")
        return found[0]


@pytest.fixture
def broker(redis_server: str) -> Iterator[tuple[str, psutil.Process]]:
    """A Redis of the test's own: it is frozen and its connections are cut."""
    assert redis_server  # else the test is skipped: no Redis is installed
    program = servers.find_redis()
    assert program
    before = {child.pid for child in psutil.Process().children()}
    with servers.redis(program) as url:
        (process,) = (it for it in psutil.Process().children() if it.pid not in before)
        yield url, process


@pytest.fixture
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, broker: tuple[str, psutil.Process]
) -> Iterator[Bench]:
    worker: dict[str, Any] = {"lease_seconds": 2.0} | getattr(request, "param", {})
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        broker_url=broker[0],
        dispatch={"republish_seconds": 1.0},
        worker=worker,
    )
    environment = os.environ | {
        "DICOM_NODE_DATA_DIR": str(settings.data_dir),
        "DICOM_NODE_BROKER_URL": broker[0],
        **{f"DICOM_NODE_WORKER__{name.upper()}": str(value) for name, value in worker.items()},
    }
    log = tmp_path / "worker.log"
    queue = JobQueue(broker[0])
    with open_database(settings.effective_database_url) as database, log.open("wb") as out:
        dispatcher = Dispatcher(settings, database, queue)
        command = [sys.executable, "-m", "worker", "run"]
        watch = psutil.Popen(command, env=environment, stdout=out, stderr=out)
        made = Bench(settings, database, dispatcher, watch, log)
        try:
            made.wait(lambda: _STARTED in log.read_text(), "the models")
            made.wait_for_end(made.add_job())
            yield made
        finally:
            _end(watch)
            queue.close()


def _end(watch: psutil.Popen) -> None:
    """Stop the worker; whatever the test has frozen is killed."""
    if watch.poll() is None:
        family = watch.children(recursive=True)
        for process in family:
            process.kill()
        watch.kill()
        psutil.wait_procs([*family, watch], timeout=30)


_SHORT = {"unclaimed_seconds": 6.0}


@pytest.mark.parametrize("bench", [_SHORT], indirect=True)
def test_a_frozen_worker_is_killed_and_the_command_says_so(bench: Bench) -> None:
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


@pytest.mark.parametrize("bench", [_SHORT], indirect=True)
def test_a_worker_survives_a_cut_connection_and_a_frozen_broker(
    bench: Bench, broker: tuple[str, psutil.Process]
) -> None:
    url, server = broker
    worker = bench.worker
    client = redis.Redis.from_url(url)
    assert client.execute_command("CLIENT", "KILL", "TYPE", "normal") > 0
    assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") > 0
    client.close()
    bench.wait_for_end(bench.add_job())
    server.send_signal(signal.SIGSTOP)
    try:
        bench.add_job()
        _freeze(bench)
    finally:
        server.send_signal(signal.SIGCONT)
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


def test_sigterm_ends_the_worker_with_0(bench: Bench) -> None:
    family = bench.watch.children(recursive=True)
    bench.watch.send_signal(signal.SIGTERM)
    assert bench.watch.wait(60) == 0
    assert [each for each in family if each.is_running()] == []


def test_a_watch_that_is_killed_takes_its_worker_along(bench: Bench) -> None:
    family = bench.watch.children(recursive=True)
    bench.watch.kill()
    bench.watch.wait(30)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert alive == []


def test_a_job_that_kills_its_worker_is_given_up_and_the_others_are_not(bench: Bench) -> None:
    poison = bench.add_job(quick=False)
    deaths = []
    others = []
    for attempt in (1, 2, 3):
        bench.wait_for_lease(poison, attempt).kill()
        deaths.append(time.monotonic())
        others.append(bench.add_job())
        bench.wait_for_end(others[-1])
    bench.wait(lambda: bench.job(poison).state is JobState.DEAD, "the poison job given up")
    with bench.database.read() as session:
        row = session.get_one(Instance, bench.job(poison).instance_id)
        states = session.scalars(select(Job.state).where(Job.id.in_(others))).all()
    assert (row.state, row.reason) == (InstanceState.FAILED, "worker_lost")
    assert set(states) == {JobState.DONE}
    first, second, third = deaths
    assert second - first >= 5  # its attempts are spaced, further and further
    assert third - second >= 10
    assert bench.job(poison).attempts == 3


@pytest.mark.parametrize(
    "bench",
    [{"soft_time_limit_seconds": 4.0, "hard_time_limit_seconds": 6.0}],
    indirect=True,
)
def test_a_job_that_hangs_beyond_the_hard_limit_is_ended_and_done_again(bench: Bench) -> None:
    job_id = bench.add_job(quick=False)
    hanging = bench.wait_for_lease(job_id, 1)
    hanging.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    other = bench.add_job()
    bench.wait_for_end(other)
    assert time.monotonic() - began >= 4
    assert not hanging.is_running()
    assert re.search(r"Hard time limit \(6(\.0)?s\) exceeded", bench.log.read_text())
    bench.wait_for_end(job_id)
    assert bench.job(job_id).attempts == 2
