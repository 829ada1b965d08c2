"""The Celery application: queues, options, one runtime per worker process."""

import logging
import multiprocessing
from typing import Any

from celery import Celery, signals
from celery.worker.control import inspect_command
from kombu import Queue

from models import tracing
from models.attendance import attended
from models.log import set_up_logging
from models.messages import CONTROL_MODELS, TASKS, lanes
from models.session import Database
from models.settings import Settings
from models.states import JobKind
from worker import tasks
from worker.loading import LoadedModels, verify_models, what_is_installed
from worker.results import ResultStore
from worker.sandbox import Sandbox

log = logging.getLogger(__name__)

_CHILD_START_SECONDS = 180.0  # importing torch and loading weights on a busy machine
_SOCKET_SECONDS = 30.0
_HEARTBEAT_SECONDS = 20  # AMQP: a connection without a sign of life for twice that is dropped


def make_app(settings: Settings) -> Celery:
    """Return the application with its queues and options; the tasks come with `register`."""
    broker = settings.effective_broker
    app = Celery("worker", broker=broker.url, set_as_current=True)
    app.conf.update(
        task_queues=[
            Queue(  # type: ignore[no-untyped-call]  # kombu
                lane.name, routing_key=lane.name, durable=True, queue_arguments=lane.arguments
            )
            for lane in lanes(settings.worker.serves, is_amqp=broker.is_amqp)
        ],
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # A message is acknowledged when its job ended, and comes again when the process died.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        task_soft_time_limit=settings.worker.soft_time_limit_seconds,
        task_time_limit=settings.worker.hard_time_limit_seconds,
        worker_proc_alive_timeout=_CHILD_START_SECONDS,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A job that runs when the connection breaks is finished: its lease says whose it is, and
        # the message that comes again finds it leased or done.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_heartbeat=_HEARTBEAT_SECONDS,
        **broker.celery_options(_transport_options(settings)),
    )
    return app


def _transport_options(settings: Settings) -> dict[str, Any]:
    if settings.effective_broker.is_amqp:
        return {}
    return {
        # Round robin is kombu's default; an urgent queue must come first.
        "queue_order_strategy": "priority",
        # Commands wait for an answer for so long; the waiting BRPOP is not under it, but under
        # the health check: dropped and sent anew 1 + 10 to 1 + 20 s after its answer was due.
        "socket_timeout": _SOCKET_SECONDS,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": 10,
        # A message that is not acknowledged comes again after this: longer than any job. RabbitMQ
        # gives it out again when the connection breaks, and needs no such time.
        "visibility_timeout": max(3600.0, 2 * settings.worker.hard_time_limit_seconds),
    }


def make_runtime(settings: Settings) -> tasks.Runtime:
    """Open the database and load the models. Called in the child, after the fork."""
    database = Database(settings.effective_database_url)
    store = ResultStore(database, settings.artifact_store)
    loaded = LoadedModels(settings, store)
    loaded.load_all()
    return tasks.Runtime(
        settings=settings,
        database=database,
        store=store,
        sandbox=Sandbox(settings),
        models=loaded,
    )


def _tell_as_set(settings: Settings) -> None:
    """Log and trace as the settings say."""
    log = settings.log
    set_up_logging("worker", level=log.level, as_json=log.format == "json")
    tracing.start(settings.monitoring, "worker")


def _stop_tracing(**_signal: Any) -> None:  # noqa: ANN401  Celery's signal arguments
    tracing.stop()


class _Process:
    """The runtime of this process, made when Celery starts the process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runtime: tasks.Runtime | None = None
        # Shared with the processes that are forked from this one: the parent sees their number.
        self._loaded = multiprocessing.Value("i", 0)

    def start(self, **_signal: Any) -> None:  # noqa: ANN401  Celery's signal arguments
        _tell_as_set(self._settings)
        self._runtime = make_runtime(self._settings)
        with self._loaded.get_lock():
            self._loaded.value += 1
        log.info("models loaded")

    @property
    def loaded(self) -> int:
        """Return how often a process of this worker has loaded its models since the start."""
        return int(self._loaded.value)

    @property
    def runtime(self) -> tasks.Runtime:
        if self._runtime is None:
            self.start()
        if self._runtime is None:  # pragma: no cover  start sets it or raises
            raise RuntimeError
        return self._runtime


def register(app: Celery, settings: Settings) -> None:
    """Give the application its tasks, and the process start that they need."""
    process = _Process(settings)
    signals.worker_process_init.connect(process.start, weak=False)
    signals.worker_process_shutdown.connect(_stop_tracing, weak=False)

    @app.task(name=TASKS[JobKind.ANALYSE])  # type: ignore[untyped-decorator]  # Celery has no types
    def analyse(job_id: int) -> None:
        tasks.analyse(job_id, process.runtime)

    @app.task(name=TASKS[JobKind.REPORT])  # type: ignore[untyped-decorator]  # Celery has no types
    def report(job_id: int) -> None:
        tasks.report(job_id, process.runtime)

    @app.task(name=TASKS[JobKind.SHADOW])  # type: ignore[untyped-decorator]  # Celery has no types
    def shadow(job_id: int) -> None:
        tasks.shadow(job_id, process.runtime)

    @app.task(name=TASKS[JobKind.COMPARE])  # type: ignore[untyped-decorator]  # Celery has no types
    def compare(job_id: int) -> None:
        tasks.compare(job_id, process.runtime)

    @inspect_command(name=CONTROL_MODELS)  # type: ignore[untyped-decorator]  # Celery has no types
    def installed(_state: object) -> dict[str, object]:
        ready = process.loaded >= settings.worker.concurrency
        return what_is_installed(settings) | {"loaded": ready}


def run_worker(settings: Settings) -> None:
    """Run worker processes until SIGTERM; a running job is finished first.

    Raises BundleError when a model is unusable, BrokerFileError when a file of `broker` is.
    """
    _tell_as_set(settings)
    settings.effective_broker.require_files()
    verify_models(settings)
    app = make_app(settings)
    register(app, settings)
    arguments = [
        "--quiet",  # no banner: it is no line of the log
        "worker",
        "--pool=prefork",
        f"--concurrency={settings.worker.concurrency}",
        "--loglevel=WARNING",
        "--without-gossip",
        "--without-mingle",
    ]
    with attended(settings, "worker"):
        app.worker_main(arguments)
