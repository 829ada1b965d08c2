"""Redis under Sentinels and RabbitMQ, both over TLS: they die at work, and every job is done once.

The worker is a real process; the test dispatches. What a broker loses is in the rows.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from broker_servers import (
    MASTER,
    SENTINEL_PASSWORD,
    RabbitServer,
    RedisGroup,
    rabbit,
    redis_group,
)
from certificates import Authority
from ended_jobs import add_ended_jobs
from phantom_jobs import add_phantom_job
from rows import open_database, random_uid
from servers import wait_until
from sqlalchemy import func, select

from dicom_node.dispatch import Dispatcher
from dicom_node.doctor import check_broker
from dicom_node.errors import BrokerError, StartError
from dicom_node.queue import JobQueue
from dicom_node.web.metrics.minute import read_broker
from models.broker import Broker, BrokerSettings
from models.job import Job
from models.messages import QUEUES
from models.result import Analysis
from models.session import Database
from models.settings import Settings, load_settings
from models.states import JobKind, JobState
from worker.watch import waiting_messages

pytestmark = pytest.mark.timeout(900)

_REPUBLISH_SECONDS = 2.0


@dataclass
class Site:
    """A worker on a broker, and the dispatcher of the test."""

    settings: Settings
    database: Database
    queue: JobQueue
    dispatcher: Dispatcher
    log: Path

    def add(self, images: int, first: int = 0) -> None:
        """Put images into spool and rows: one that is analysed, the others are lateral views."""
        for number in range(first, first + images):
            position = "PA" if number == first else "LL"
            add_phantom_job(
                self.settings,
                self.database,
                study_instance_uid=random_uid(),
                seed=number,
                ViewPosition=position,
                SOPInstanceUID=random_uid(),
            )

    def step(self) -> None:
        """Dispatch once; a broker that is away is tried again the next time, as by the loop."""
        with suppress(BrokerError):
            self.dispatcher.step()

    def wait(self, true: Callable[[], bool], what: str) -> None:
        def look() -> bool:
            self.step()
            return true()

        try:
            wait_until(look, 240, what, every=0.25)
        except TimeoutError:
            sys.stderr.write(self.log.read_text()[-4000:])
            raise

    def done(self) -> int:
        with self.database.read() as session:
            ended = (Job.kind == JobKind.ANALYSE, Job.state == JobState.DONE, Job.attempts > 0)
            return session.scalar(select(func.count(Job.id)).where(*ended)) or 0

    def require_each_done_once(self, analysed: int) -> None:
        """Nothing is lost, and no job was begun a second time."""
        with self.database.read() as session:
            attempts = session.scalars(select(Job.attempts).where(Job.attempts > 0)).all()
            assert set(attempts) == {1}
            assert session.scalar(select(func.count(Analysis.id))) == analysed
        assert "took none" not in self.log.read_text()  # the worker came back by itself


def _settings(folder: Path, url: str, **broker: Any) -> Settings:
    return load_settings(
        None,
        data_dir=folder / "data",
        broker_url=url,
        broker=broker,
        dispatch={"republish_seconds": _REPUBLISH_SECONDS},
        dicom={"min_free_bytes": 0},
    )


@contextmanager
def _worker(settings: Settings, log: Path) -> Iterator[None]:
    """Run a worker with these settings; it must be the same to the end, and stop in order."""
    environment = os.environ | {
        "DICOM_NODE_DATA_DIR": str(settings.data_dir),
        "DICOM_NODE_BROKER_URL": str(settings.broker_url),
        "DICOM_NODE_BROKER": settings.broker.model_dump_json(exclude_none=True),
        "DICOM_NODE_WORKER__TORCH_THREADS": "1",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"], env=environment, stdout=out, stderr=out
        )
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)


@contextmanager
def _site(settings: Settings, folder: Path) -> Iterator[Site]:
    queue = JobQueue(settings.effective_broker)
    try:
        with open_database(settings.effective_database_url) as database:
            dispatcher = Dispatcher(settings, database, queue)
            yield Site(settings, database, queue, dispatcher, folder / "worker.log")
    finally:
        queue.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of brokers and of the node."""
    return Authority.make(tmp_path_factory.mktemp("pki") / "ca")


@pytest.fixture(scope="module")
def files(authority: Authority) -> dict[str, str]:
    """The files of the section `broker` of a node that both brokers trust."""
    pair = authority.issue("node", use="client")
    return {
        "trusted_cas": str(authority.certificate),
        "certificate": str(pair.certificate),
        "private_key": str(pair.private_key),
    }


@pytest.fixture(scope="module")
def rabbit_server(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitServer]:
    """A RabbitMQ that several tests share."""
    folder = tmp_path_factory.mktemp("rabbit") / "server"
    with rabbit(folder, authority, authority.issue("rabbit")) as server:
        yield server


def _problem(url: str, **broker: Any) -> str:
    """Return what the queue says of this broker."""
    queue = JobQueue(Broker.parse(url, BrokerSettings.model_validate(broker)))
    try:
        with pytest.raises(BrokerError) as caught:
            queue.depth(queue.names[0])
    finally:
        queue.close()
    return str(caught.value)


def test_what_is_wrong_with_rabbitmq_is_said(
    rabbit_server: RabbitServer, files: dict[str, str]
) -> None:
    url, secure = rabbit_server.url(), rabbit_server.url(tls=True)
    where = f"(RabbitMQ at 127.0.0.1:{rabbit_server.port})"
    wrong = _problem(url.replace("guest:guest", "guest:secret"))
    assert f"the broker does not answer {where}: it refuses the user" in wrong
    assert "secret" not in wrong
    assert "no such virtual host" in _problem(rabbit_server.url(vhost="elsewhere"))
    assert "set broker.certificate" in _problem(secure, trusted_cas=files["trusted_cas"])
    assert "its certificate is refused here" in _problem(secure)  # as the system trusts


def test_rabbitmq_dies_at_work_and_every_job_is_done_once(
    rabbit_server: RabbitServer, files: dict[str, str], tmp_path: Path
) -> None:
    settings = _settings(tmp_path, rabbit_server.url(tls=True), **files)
    with _site(settings, tmp_path) as site:
        kinds = add_ended_jobs(site.database, site.queue)
        assert {name: site.queue.depth(name) for name in site.queue.names} == {
            "jobs": 6,
            "shadow": 2,
        }
        assert read_broker(settings.effective_broker) == {"jobs": 6, "shadow": 2}
        assert waiting_messages(settings) == 8
        assert "RabbitMQ at" in check_broker(settings, site.queue)
        with _worker(settings, site.log):
            site.wait(lambda: site.log.read_text().count("message dropped") == 8, "8 messages")
            assert site.queue.installed_models(10.0)
            site.add(4)
            site.step()
            rabbit_server.kill()
            site.add(4, first=4)
            with pytest.raises(BrokerError, match="the broker does not take messages"):
                site.dispatcher.step()
            rabbit_server.start_again()
            site.add(4, first=8)
            site.wait(lambda: site.done() == 12, "12 jobs")
            site.require_each_done_once(analysed=3 + 2)  # two came with the ended jobs
    # What comes after these may be a message that RabbitMQ gave out twice: it is dropped as well.
    dropped = re.findall(r"job (\d+): not", site.log.read_text())[:8]
    taken = [name for name in (kinds[int(number)] for number in dropped) if name != "shadow"]
    assert taken == [name for name in ("stat", "routine", "report") for _ in "ab"]


def test_the_master_dies_at_work_the_replica_takes_over_and_every_job_is_done_once(
    authority: Authority, files: dict[str, str], tmp_path: Path
) -> None:
    with redis_group(tmp_path / "redis", authority, authority.issue("redis")) as group:
        sentinels = {"master_name": MASTER, "sentinel_password": SENTINEL_PASSWORD, "tls": True}
        _require_problems_said(group, files, sentinels)
        settings = _settings(tmp_path, group.url, **files, **sentinels)
        with _site(settings, tmp_path) as site:
            assert "Redis node by Sentinel 127.0.0.1:" in check_broker(settings, site.queue)
            assert site.queue.names == QUEUES
            assert waiting_messages(settings) == 0
            with _worker(settings, site.log):
                site.add(4)
                site.wait(lambda: site.done() == 4, "4 jobs")
                site.add(6, first=4)
                site.step()
                group.master.kill()
                site.add(4, first=10)
                site.wait(lambda: site.done() == 14, "14 jobs")
                assert group.is_master(group.replica)
                site.require_each_done_once(analysed=3)


def _require_problems_said(
    group: RedisGroup, files: dict[str, str], sentinels: dict[str, Any]
) -> None:
    refused = _problem(group.url, **files, **(sentinels | {"sentinel_password": "other"}))
    assert "the Sentinels refuse broker.sentinel_password" in refused
    assert "redis.client" not in refused
    unknown = _problem(group.url, **files, **(sentinels | {"master_name": "other"}))
    assert "no Sentinel knows this master" in unknown
    alone = f"rediss://:wrong@127.0.0.1:{group.master.port}/0"
    assert "it refuses the user, or the password" in _problem(alone, **files)


def test_a_file_that_is_none_ends_the_start_in_words(tmp_path: Path, redis_server: str) -> None:
    url = redis_server.replace("redis://", "rediss://")
    settings = _settings(tmp_path, url, trusted_cas=str(tmp_path / "ca.pem"))
    queue = JobQueue(settings.effective_broker)
    try:
        with pytest.raises(StartError, match=r"trusted_cas .*ca.pem is no PEM file"):
            check_broker(settings, queue)
    finally:
        queue.close()
