"""Sending job ids to the queue, by task name: the node never imports the worker."""

from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError

from dicom_node.errors import BrokerError
from models.job import STAT, Job
from models.messages import CONTROL_MODELS, TASKS, queue_of

_TIMEOUT_SECONDS = 5.0


class JobQueue:
    """The producing end of the queue."""

    def __init__(self, broker_url: str) -> None:
        self._app = Celery("dicom_node", broker=broker_url, set_as_current=False)
        self._app.conf.update(
            task_ignore_result=True,
            task_serializer="json",
            accept_content=["json"],
            broker_connection_timeout=_TIMEOUT_SECONDS,
            broker_connection_retry=False,
            broker_transport_options={
                "socket_timeout": _TIMEOUT_SECONDS,
                "socket_connect_timeout": _TIMEOUT_SECONDS,
            },
        )

    def publish(self, job: Job) -> None:
        """Send the id of `job` to its queue. Raises BrokerError; the row stays pending."""
        queue = queue_of(job.kind, stat=job.priority >= STAT)
        try:
            self._app.send_task(TASKS[job.kind], args=[job.id], queue=queue, retry=False)
        except (OperationalError, OSError) as error:
            msg = f"the broker does not take messages: {error}"
            raise BrokerError(msg) from error

    def depth(self, queue: str) -> int:
        """Return how many messages wait in `queue`. Raises BrokerError."""
        try:
            with self._app.connection_for_read() as connection:
                declared = connection.default_channel.queue_declare(
                    queue=queue, passive=False, durable=True
                )
                return int(declared.message_count)
        except (OperationalError, OSError) as error:
            msg = f"the broker does not answer: {error}"
            raise BrokerError(msg) from error

    def workers(self, timeout_seconds: float = 2.0) -> list[str]:
        """Return the names of the workers that answer a ping. Raises BrokerError."""
        try:
            answers = self._app.control.ping(timeout=timeout_seconds)
        except (OperationalError, OSError) as error:
            msg = f"the broker does not answer: {error}"
            raise BrokerError(msg) from error
        return sorted(name for answer in answers for name in answer)

    def installed_models(self, timeout_seconds: float = 2.0) -> dict[str, dict[str, Any]]:
        """Return what each answering worker can load, and for what it works. Raises BrokerError."""
        try:
            answers = self._app.control.broadcast(
                CONTROL_MODELS, reply=True, timeout=timeout_seconds
            )
        except (OperationalError, OSError) as error:
            msg = f"the broker does not answer: {error}"
            raise BrokerError(msg) from error
        return {name: said for answer in answers for name, said in answer.items()}

    def close(self) -> None:
        """Close every connection."""
        self._app.close()
