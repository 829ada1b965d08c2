"""Servers that a test may kill, freeze and start again: the same data and port every time."""

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

from servers import (
    _runnable,
    _stop,
    _unprivileged,
    free_port,
    wait_until,
)

_START_SECONDS = 60.0
_DATABASES = 512


def answers(port: int, address: str = "127.0.0.1") -> bool:
    """Whether somebody accepts connections on that port."""
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1.0):
        return True
    return False


class RedisServer:
    """A Redis in a folder of its own; `append_only` makes what it holds survive its death.

    Other hosts reach it at `address`, where one is given.
    """

    def __init__(
        self, program: Path, folder: Path, *, append_only: bool = False, address: str = ""
    ) -> None:
        self.port, self._address = free_port(), address
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.log = folder, folder / "redis.log"
        self._command = [str(program), "--port", str(self.port)]
        self._command += ["--bind", *filter(None, ["127.0.0.1", address])]
        self._command += ["--protected-mode", "no" if address else "yes"]
        self._command += ["--save", "", "--databases", str(_DATABASES)]
        self._command += ["--appendonly", "yes" if append_only else "no"]
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: int = 0) -> str:
        """URL of one of its databases: what two nodes put into two of them does not mix."""
        return f"redis://{self._address or '127.0.0.1'}:{self.port}/{database}"

    def start(self) -> Self:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=self._folder, stdout=log)
        wait_until(lambda: answers(self.port), _START_SECONDS, "redis-server")
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> int:
        """Kill -9; return the exit status."""
        assert self._process is not None
        self._process.kill()
        return self._process.wait(20)

    def freeze(self) -> None:
        """Stop it as it is: connections stay open and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.thaw()
            _stop(self._process)


class PostgresServer:
    """A PostgreSQL that can be stopped as its administrator or a crash would.

    Other hosts reach it at `address`, where one is given, and need no password.
    """

    def __init__(self, binaries: Path, folder: Path, address: str = "") -> None:
        self._who: dict[str, Any] = _unprivileged()
        if self._who:
            os.chown(folder, self._who["user"], self._who["group"])
        self._binaries = _runnable(binaries, folder, self._who)
        self._data, self._folder, self.port = folder / "data", folder, free_port()
        self.log, self._address = folder / "log", address
        setup = [self._binaries / "initdb", "-D", self._data, "-U", "postgres", "-E", "UTF8"]
        setup += ["-A", "trust", "--no-sync", "--locale=C"]
        subprocess.run(setup, cwd=folder, check=True, capture_output=True, **self._who)
        if address:
            with (self._data / "pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {address}/24 trust\n")
        self._process: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres") -> str:
        where = f"{self._address or '127.0.0.1'}:{self.port}"
        return f"postgresql+psycopg://postgres@{where}/{database}"

    def start(self) -> Self:
        command = [self._binaries / "postgres", "-D", self._data, "-p", str(self.port)]
        addresses = ",".join(filter(None, ["127.0.0.1", self._address]))
        command += ["-k", self._folder, "-c", f"listen_addresses={addresses}", "-c", "fsync=off"]
        command += ["-c", "max_connections=300"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=log, stderr=log, **self._who
            )
        ready = [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(
            lambda: subprocess.run(ready, check=False).returncode == 0, _START_SECONDS, "postgres"
        )
        return self

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> int:
        """Shut it down by the signals of pg_ctl: clients cut (fast), or as in a crash."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT if mode == "fast" else signal.SIGQUIT)
        return self._process.wait(60)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.stop("immediate")


@contextmanager
def postgres_server(binaries: Path, address: str = "") -> Iterator[PostgresServer]:
    """Run a PostgreSQL for a block, in a folder that the user who runs it can reach."""
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        server = PostgresServer(binaries, Path(name), address)
        try:
            yield server.start()
        finally:
            server.close()
