"""Sending job ids to the queue, by task name: the node never imports the worker.

The broker is Redis, alone or by Sentinels, or RabbitMQ (`models.broker`). Whatever it loses, the
dispatch loop finds in the rows and publishes again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from dicom_node.errors import BrokerError, StartError
from models.broker import Broker, BrokerFileError, BrokerSettings
from models.job import STAT, Job
from models.messages import CONTROL_MODELS, TASKS, lanes, place_of, queue_of

_TIMEOUT_SECONDS: Final = 5.0
# Who asks again is the loop that publishes, not the connection.
_ONCE: Final = {"max_retries": 1, "interval_start": 0.1}
_REDIS_OPTIONS: Final = _ONCE | {
    "socket_timeout": _TIMEOUT_SECONDS,
    "socket_connect_timeout": _TIMEOUT_SECONDS,
}
_AMQP_OPTIONS: Final = _ONCE | {
    "confirm_publish": True,  # else a message that RabbitMQ drops is published without an error
    "read_timeout": _TIMEOUT_SECONDS,
    "write_timeout": _TIMEOUT_SECONDS,
}
# What a broker says, in part, and what it means for who has set it up.
_MEANINGS: Final = {
    "ACCESS_REFUSED": "it refuses the user, or the password, of broker_url",
    "vhost": "it has no such virtual host, or the user no right to it",
    "PRECONDITION_FAILED": "the queue is there with other arguments: give the node a virtual host "
    "of its own, or delete the queue",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is refused here, see broker.trusted_cas",
    "CERTIFICATE_REQUIRED": "it wants a certificate of ours: set broker.certificate",
    "WRONG_VERSION_NUMBER": "it speaks no TLS on this port",
    "WRONGPASS": "it refuses the user, or the password, of broker_url",
    "invalid username-password": "it refuses the user, or the password, of broker_url",
    "Authentication required": "it wants a password: write it into broker_url",
    "auth:AuthenticationError": "the Sentinels refuse broker.sentinel_password",
    "network:": "no Sentinel can be spoken to",
    "No master found": "no Sentinel knows this master, see broker.master_name",
}


class JobQueue:
    """The producing end of the queue. `broker` is checked, or the URL of one without TLS files."""

    def __init__(self, broker: Broker | str) -> None:
        if isinstance(broker, str):
            broker = Broker.parse(broker, BrokerSettings())
        self._broker = broker
        self._lanes = {lane.name: lane for lane in lanes(is_amqp=broker.is_amqp)}
        self._app = self._new_app()
        self._own: Connection | None = None
        connection = self._app.connection_for_write()
        self._errors = (
            *(OperationalError, OSError),
            *(*connection.connection_errors, *connection.channel_errors),
        )

    def _new_app(self) -> Celery:
        app = Celery("dicom_node", broker=self._broker.url, set_as_current=False)
        app.conf.update(
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            broker_connection_timeout=_TIMEOUT_SECONDS,
            broker_connection_retry=False,
            task_queues=[
                Queue(  # type: ignore[no-untyped-call]  # kombu
                    lane.name, routing_key=lane.name, durable=True, queue_arguments=lane.arguments
                )
                for lane in self._lanes.values()
            ],
            **self._broker.celery_options(
                _AMQP_OPTIONS if self._broker.is_amqp else _REDIS_OPTIONS
            ),
        )
        return app

    @property
    def names(self) -> tuple[str, ...]:
        """The queues that this broker has: with RabbitMQ some kinds of jobs share one."""
        return tuple(self._lanes)

    def publish(self, job: Job) -> None:
        """Send the id of `job` to its queue. Raises BrokerError; the row stays pending.

        When this returns, the broker has the message.
        """
        queue = queue_of(job.kind, stat=job.priority >= STAT)
        name, priority = place_of(queue, is_amqp=self._broker.is_amqp)
        options: dict[str, Any] = {} if priority is None else {"priority": priority}
        if self._broker.is_amqp:
            options["confirm_timeout"] = _TIMEOUT_SECONDS
        with self._asking("take messages"):
            self._app.send_task(
                TASKS[job.kind],
                args=[job.id],
                queue=name,
                retry=False,
                connection=self._connection(),
                **options,
            )

    def is_waiting_in(self, job: Job, empty: set[str]) -> bool:
        """Say whether the message of a published job may still lie in its queue."""
        queue = queue_of(job.kind, stat=job.priority >= STAT)
        return place_of(queue, is_amqp=self._broker.is_amqp)[0] not in empty

    def empty(self) -> set[str]:
        """Return the names of the queues without a message that waits. Raises BrokerError."""
        return {name for name in self.names if self.depth(name) == 0}

    def depth(self, queue: str) -> int:
        """Return how many messages wait in one of `names`. Raises BrokerError."""
        with self._asking("answer"):
            declared = self._connection().default_channel.queue_declare(  # type: ignore[no-untyped-call]  # kombu
                queue=queue,
                passive=False,
                durable=True,
                auto_delete=False,
                arguments=self._lanes[queue].arguments,
            )
            return int(declared.message_count)

    def workers(self, timeout_seconds: float = 2.0) -> list[str]:
        """Return the names of the workers that answer a ping. Raises BrokerError."""
        with self._asking("answer"):
            answers = self._app.control.ping(timeout=timeout_seconds)
        return sorted(name for answer in answers for name in answer)

    def installed_models(
        self, timeout_seconds: float = 2.0, host: str | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return what each answering worker can load, and for what it works. Raises BrokerError.

        With `host` only the worker of that host is asked, and not waited for once it has answered.
        """
        one = {} if host is None else {"destination": [f"celery@{host}"], "limit": 1}
        with self._asking("answer"):
            answers = self._app.control.broadcast(
                CONTROL_MODELS, reply=True, timeout=timeout_seconds, **one
            )
        return {name: said for answer in answers for name, said in answer.items()}

    def close(self) -> None:
        """Close the connection."""
        own, self._own = self._own, None
        if own is not None:
            own.release()  # type: ignore[no-untyped-call]  # kombu
        self._app.close()

    def _connection(self) -> Connection:
        """Return our own connection: those of Celery's pool are shared by the whole process."""
        if self._own is None:
            self._own = self._app.connection_for_write()
        return self._own

    def _drop(self) -> None:
        """Leave the connection, without a farewell that a silent broker would not answer."""
        own, self._own = self._own, None
        if own is not None:
            own.collect()  # type: ignore[no-untyped-call]  # kombu

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Have what fails inside raise BrokerError, and the next one begin with a new connection.

        A connection on which an answer is overdue would give that answer to the next question.
        """
        try:
            yield
        except self._errors as error:
            self._drop()
            msg = f"the broker does not {what} ({self._broker}): {_in_words(error)}"
            raise BrokerError(msg) from error


def _in_words(error: BaseException) -> str:
    said = str(error) or type(error).__name__
    meaning = next((words for part, words in _MEANINGS.items() if part in said), None)
    said = said.partition(" : <")[0]  # redis-py goes on with every Sentinel's client
    return f"{meaning} ({said})" if meaning else said


def require_usable(broker: Broker) -> None:
    """Raise StartError when a file that the settings name for the broker cannot be used."""
    try:
        broker.require_files()
    except BrokerFileError as error:
        raise StartError(str(error)) from error
