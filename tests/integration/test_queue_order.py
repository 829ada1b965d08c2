"""A real worker on a real broker takes urgent jobs first, then routine ones, reports, shadows."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from rows import add_analysis, add_instance, open_database
from servers import wait_until

from dicom_node.queue import JobQueue
from models.job import ROUTINE, SHADOW, STAT, Job
from models.messages import QUEUES
from models.session import Database
from models.settings import load_settings
from models.states import InstanceState, JobKind, JobState


def _add_jobs(database: Database, queue: JobQueue) -> dict[int, str]:
    """Publish two of each kind, the least urgent first; return what each job id is.

    They have ended already, so the worker only says that it dropped their messages, in order.
    """
    kinds: dict[int, str] = {}
    instances = [add_instance(database, state=InstanceState.NOT_ANALYSED) for _ in range(4)]
    jobs = [
        Job(
            kind=JobKind.SHADOW,
            analysis_id=add_analysis(database, instance)[0],
            model_selector="unet-next",
            priority=SHADOW,
            state=JobState.DONE,
        )
        for instance in instances[:2]
    ]
    jobs += [
        Job(kind=JobKind.REPORT, study_id=1, revision=revision, state=JobState.DONE)
        for revision in (1, 2)
    ]
    for instance, priority in zip(instances, (ROUTINE, ROUTINE, STAT, STAT), strict=True):
        jobs.append(
            Job(
                kind=JobKind.ANALYSE,
                instance_id=instance,
                model_selector="unet",
                priority=priority,
                state=JobState.DONE,
            )
        )
    with database.write() as session:
        session.add_all(jobs)
    names = [name for name in ("shadow", "report", "routine", "stat") for _ in "ab"]
    for job, name in zip(jobs, names, strict=True):
        kinds[job.id] = name
        queue.publish(job)
    return kinds


def test_urgent_first_shadows_last_and_the_worker_says_what_it_has(
    tmp_path: Path, redis_server: str
) -> None:
    redis_server = redis_server.removesuffix("/0") + "/7"  # queues that no other test fills
    settings = load_settings(None, data_dir=tmp_path / "data", broker_url=redis_server)
    queue = JobQueue(redis_server)
    environment = os.environ | {
        "DICOM_NODE_DATA_DIR": str(settings.data_dir),
        "DICOM_NODE_BROKER_URL": redis_server,
    }
    log = tmp_path / "worker.log"
    with open_database(settings.effective_database_url) as database:
        kinds = _add_jobs(database, queue)
        assert sum(queue.depth(name) for name in QUEUES) == 8
        with log.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"], env=environment, stdout=out, stderr=out
            )
            try:
                wait_until(lambda: log.read_text().count("message dropped") == 8, 120, "8 jobs")
                answers = queue.installed_models(10.0)
            finally:
                worker.send_signal(signal.SIGTERM)
                assert worker.wait(60) == 0
    queue.close()
    taken = [kinds[int(number)] for number in re.findall(r"job (\d+): not", log.read_text())]
    assert taken == [name for name in ("stat", "routine", "report", "shadow") for _ in "ab"]
    (answer,) = answers.values()
    assert answer["serves"] == "all"
    assert "unet" in answer["models"]
