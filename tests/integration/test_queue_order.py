"""A real worker on a real broker takes urgent jobs first, then routine ones, reports, shadows."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from ended_jobs import add_ended_jobs
from rows import open_database
from servers import wait_until

from dicom_node.queue import JobQueue
from models.messages import QUEUES
from models.settings import load_settings


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
        kinds = add_ended_jobs(database, queue)
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
