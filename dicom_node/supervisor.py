"""`dicom-node up`: every role as a child process on embedded defaults, kept alive until SIGTERM."""

import fcntl
import http.client
import json
import logging
import os
import socket
import ssl
import sys
import threading
import time
from pathlib import Path
from typing import IO

from dicom_node import embedded_redis
from dicom_node.audit.seals import seal_rest
from dicom_node.delivery import synchronise_destinations
from dicom_node.errors import BrokerError, StartError
from dicom_node.processes import Child
from dicom_node.queue import JobQueue
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender
from migrations import schema
from models.files import make_directory
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

_READY_SECONDS = 180.0
_POLL_SECONDS = 0.2
_ENV_PREFIX = "DICOM_NODE_"


def child_environment(settings: Settings) -> dict[str, str]:
    """Return an environment that carries the whole settings tree to a child process."""
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(_ENV_PREFIX)
    }
    for key, value in settings.model_dump(mode="json").items():
        if value is not None:
            text = value if isinstance(value, str) else json.dumps(value)
            environment[_ENV_PREFIX + key.upper()] = text
    return environment


def _lock(data_dir: Path) -> IO[str]:
    """Hold the data directory for this process. Raises StartError when another node has it."""
    file = (data_dir / "node.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        msg = f"another node is running on {data_dir}: stop it or choose another --data-dir"
        raise StartError(msg) from error
    return file


class Supervisor:
    """The process tree of one node."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        environment = child_environment(settings)
        hard_limit = settings.worker.hard_time_limit_seconds

        def node(role: str, stop_seconds: float = 30.0) -> Child:
            return Child(
                role, [sys.executable, "-m", "dicom_node", role], environment, stop_seconds
            )

        self._worker = Child(
            "worker", [sys.executable, "-m", "worker", "run"], environment, hard_limit
        )
        # In the order in which they start; they stop in the same order: intake first, then what
        # empties the node, the broker last.
        self._roles = [node("listen"), node("dispatch"), node("deliver"), self._worker, node("web")]
        self._redis: Child | None = None
        if settings.broker_url is None:
            line = embedded_redis.command(settings.redis_socket)
            self._redis = Child("redis", line, environment, 10.0)

    def run(self, stop: threading.Event) -> None:
        """Start everything, print `ready`, keep it alive until `stop` is set, stop everything."""
        make_directory(self._settings.data_dir)
        with _lock(self._settings.data_dir):
            self._prepare_database()
            try:
                self._start()
                ready = self._wait_until_ready(stop)
                if ready:
                    print("ready", flush=True)  # noqa: T201  the contract of `up`
                while not stop.wait(_POLL_SECONDS):
                    self._keep_alive()
            finally:
                self._stop()
                self._seal_audit()

    def _prepare_database(self) -> None:
        database = Database(self._settings.effective_database_url)
        try:
            try:
                schema.upgrade(database)
            except schema.NewerSchemaError as error:
                log.warning("%s; until then this node goes on", error)
            synchronise_destinations(database, self._settings)
        finally:
            database.dispose()

    def _seal_audit(self) -> None:
        """Seal what the last seconds wrote: the dispatcher has ended before others."""
        database = Database(self._settings.effective_database_url)
        try:
            seal_rest(self._settings, database)
        finally:
            database.dispose()

    def _start(self) -> None:
        if self._redis is not None:
            self._redis.start()
            embedded_redis.wait_until_ready(self._settings.redis_socket)
        for child in self._roles:
            child.start()

    def _keep_alive(self) -> None:
        for child in self._children():
            child.keep_alive()

    def _children(self) -> list[Child]:
        return [*([self._redis] if self._redis else []), *self._roles]

    def _stop(self) -> None:
        log.info("stopping")
        for child in self._roles:
            child.terminate()
        for child in self._roles:
            child.wait()
        if self._redis is not None:
            self._redis.terminate()
            self._redis.wait()
        log.info("stopped")

    def _wait_until_ready(self, stop: threading.Event) -> bool:
        """Wait for C-ECHO, HTTP health, loaded models. Raises StartError when they do not come."""
        deadline = time.monotonic() + _READY_SECONDS
        probes = {"listener": self._echo, "web": self._health, "worker": self._ping}
        for name, probe in probes.items():
            problem = probe()
            while problem:
                if stop.wait(_POLL_SECONDS):
                    return False
                self._fail_if_given_up(name, problem, deadline)
                self._fail_if_one_ended()
                problem = probe()
        # A probe proves that somebody answers: with the port taken, somebody else would.
        self._fail_if_one_ended()
        return True

    def _fail_if_one_ended(self) -> None:
        """Refuse to start with a child that cannot: a person is there and can read why."""
        for child in self._children():
            if (code := child.ended()) is not None:
                msg = f"{child.name} ended with {code} while starting; its last line says why"
                raise StartError(msg)

    def _fail_if_given_up(self, name: str, problem: str, deadline: float) -> None:
        if time.monotonic() > deadline:
            msg = f"{name} did not become ready in {_READY_SECONDS:.0f} s: {problem}"
            raise StartError(msg)

    def _echo(self) -> str | None:
        dicom = self._settings.dicom
        calling = dicom.allowed_calling_aets[0] if dicom.allowed_calling_aets else dicom.ae_title
        host = "127.0.0.1" if dicom.host == "0.0.0.0" else dicom.host  # noqa: S104  compared, not bound
        if not dicom.plain or dicom.allowed_addresses or dicom.peers or dicom.proxy_protocol_from:
            # A C-ECHO from this host may be refused by right: that the port is open must do.
            return _connect(host, dicom.port if dicom.plain else dicom.tls.port or 0)
        return CStoreSender(calling, 5.0).echo(Receiver("self", dicom.ae_title, host, dicom.port))

    def _health(self) -> str | None:
        web = self._settings.web
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)  # noqa: S104  compared
        connection = http.client.HTTPConnection(host, web.port, timeout=5)
        if web.certificate is not None:
            # Whether it answers is asked, not who it is: the certificate names another host.
            itself = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            itself.check_hostname, itself.verify_mode = False, ssl.CERT_NONE
            connection = http.client.HTTPSConnection(host, web.port, timeout=5, context=itself)
        try:
            connection.request("GET", "/api/v1/health")
            answer = connection.getresponse()
        except OSError as error:
            return str(error)
        finally:
            connection.close()
        return None if answer.status == http.HTTPStatus.OK else f"HTTP {answer.status}"

    def _ping(self) -> str | None:
        queue = JobQueue(self._settings.effective_broker)
        try:
            answers = queue.installed_models(1.0)
        except BrokerError as error:
            return str(error)
        finally:
            queue.close()
        if not answers:
            return "no worker answers"
        is_loading = not all(said.get("loaded", True) for said in answers.values())
        return "its models are being loaded" if is_loading else None


def _connect(host: str, port: int) -> str | None:
    """Return what keeps a connection from being opened."""
    try:
        socket.create_connection((host, port), 5.0).close()
    except OSError as error:
        return str(error)
    return None
