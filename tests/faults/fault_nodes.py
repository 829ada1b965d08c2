"""A node of single roles in processes of their own, each of which can be killed.

`Node.start("listen", "dispatch")` starts `dicom-node listen` and `dicom-node dispatch`;
`worker` is `dicom-worker run`, and `up` the whole node.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from fault_servers import answers
from rows import open_database
from servers import wait_until

from dicom_node.demo.pacs import free_ports

START_SECONDS = 180.0
STOP_SECONDS = 60.0
_READY_WORKER = "models loaded"

# What a test does not wait for is short.
QUICK: Mapping[str, str] = {
    "DICOM_NODE_DICOM__HOST": "127.0.0.1",
    "DICOM_NODE_DICOM__MIN_FREE_BYTES": "0",
    "DICOM_NODE_DISPATCH__SETTLE_SECONDS": "1",
    "DICOM_NODE_DISPATCH__REPUBLISH_SECONDS": "3",
    "DICOM_NODE_WORKER__LEASE_SECONDS": "4",
    "DICOM_NODE_WORKER__TORCH_THREADS": "1",
    "DICOM_NODE_DELIVERY__BACKOFF_SECONDS": "0.5",
    "DICOM_NODE_DELIVERY__BACKOFF_CAP_SECONDS": "2",
    "DICOM_NODE_DELIVERY__LEASE_SECONDS": "5",
    "DICOM_NODE_DELIVERY__TIMEOUT_SECONDS": "5",
}

NewNode = Callable[..., "Node"]


class Role:
    """One process of the product, its children included, and what it wrote."""

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path
    ) -> None:
        self.name, self.log = name, log
        self._skip = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_running(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        """Return what this process has written; what its predecessors wrote is left out."""
        with self.log.open("rb") as file:
            file.seek(self._skip)
            return file.read().decode(errors="replace")

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready`. Raises RuntimeError when the process ended instead."""

        def ready_or_over() -> bool:
            return not self.is_running() or ready()

        wait_until(ready_or_over, START_SECONDS, f"{self.name} ready", every=0.05)
        if not self.is_running():
            msg = f"{self.name} ended with {self.process.returncode}: {self.said()[-2000:]}"
            raise RuntimeError(msg)

    def family(self) -> list[psutil.Process]:
        """Return the process and everything below it."""
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill(self) -> int:
        """Kill -9 everything at once, parent first; return the exit status of the parent."""
        family = self.family()
        for each in family:
            try:
                os.kill(each.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        status = self.process.wait(20)
        psutil.wait_procs(family, timeout=20)
        return status

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self.process.terminate()

    def terminate(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; return the exit status. Raises subprocess.TimeoutExpired."""
        self.ask_to_end()
        return self.process.wait(seconds)


class Node:
    """Settings, data folder and the roles of one node; every role may run, or not.

    `settings` are environment variables of the product, put over `QUICK`.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        broker_url: str | None = None,
        database_url: str | None = None,
        pacs: tuple[str, ...] = (),
        **settings: str,
    ) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(parents=True, exist_ok=True)
        self.port, self.web_port = free_ports(2)
        self.database_url = database_url or f"sqlite:///{data_dir / 'node.db'}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DICOM_NODE_")}
        self.environment = inherited | QUICK | self._addresses(broker_url, pacs) | settings
        self.roles: dict[str, Role] = {}

    def _addresses(self, broker_url: str | None, pacs: tuple[str, ...]) -> dict[str, str]:
        addresses = {
            "DICOM_NODE_DATABASE_URL": self.database_url,
            "DICOM_NODE_DICOM__PORT": str(self.port),
            "DICOM_NODE_WEB__PORT": str(self.web_port),
            "DICOM_NODE_DESTINATIONS": json.dumps([_destination(each) for each in pacs]),
        }
        return addresses | ({"DICOM_NODE_BROKER_URL": broker_url} if broker_url else {})

    def start(self, *names: str, **environment: str) -> list[Role]:
        """Start roles at once and wait until each can work; `environment` is for these only."""
        if "up" not in names and not self.roles:
            with open_database(self.database_url):
                pass  # has the newest schema
        started = []
        for name in names:
            self.roles[name] = self._launch(name, self.environment | environment)
            started.append(self.roles[name])
        for role in started:
            role.wait_ready(self._readiness(role))
        return started

    def _launch(self, name: str, environment: Mapping[str, str]) -> Role:
        program = ["worker", "run"] if name == "worker" else ["dicom_node", name]
        command = [sys.executable, "-m", *program, "--data-dir", str(self.data_dir)]
        log = self.data_dir.with_name(f"{self.data_dir.name}-{name}.log")
        return Role(name, command, environment, log)

    def _readiness(self, role: Role) -> Callable[[], bool]:
        tests: dict[str, Callable[[], bool]] = {
            "listen": lambda: answers(self.port),
            "worker": lambda: _READY_WORKER in role.said(),
            "up": lambda: "ready" in role.said().splitlines(),
        }
        return tests.get(role.name, lambda: True)

    def role(self, name: str) -> Role:
        """Return the newest process of a role, running or not."""
        return self.roles[name]

    def is_running(self, name: str) -> bool:
        """Whether a role has a process that lives."""
        return name in self.roles and self.roles[name].is_running()

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the node on its data."""
        return subprocess.run(
            [sys.executable, "-m", "dicom_node", *command, "--data-dir", str(self.data_dir)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def query(self, statement: str, **values: Any) -> list[Any]:
        """Ask the database from outside the product."""
        engine = sa.create_engine(self.database_url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return list(connection.execute(sa.text(statement), values))

    def wait_for(self, statement: str, seconds: float = 120.0, **values: Any) -> Any:
        """Wait until a query gives something true, and return it. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        while not (found := _first(self.query(statement, **values))):
            if time.monotonic() > deadline:
                msg = f"not within {seconds:g} s: {statement}"
                raise TimeoutError(msg)
            time.sleep(0.05)
        return found

    @property
    def spooled(self) -> list[Path]:
        """Complete files of the spool."""
        return sorted((self.data_dir / "spool").glob("[0-9a-f][0-9a-f]/*.dcm"))

    def spool_keys(self) -> set[str]:
        """Return the storage key of every complete file of the spool."""
        return {f"{path.parent.name}/{path.name}" for path in self.spooled}

    def stored(self, folder: str, key: str) -> bytes | None:
        """Return a file of `spool` or `artifacts`; None: there is none."""
        path = self.data_dir / folder / key
        return path.read_bytes() if path.is_file() else None

    @property
    def incoming(self) -> list[Path]:
        """Files that are being received, or were."""
        return list((self.data_dir / "spool" / "incoming").iterdir())

    def close(self) -> None:
        """Stop whatever still runs."""
        running = [role for role in self.roles.values() if role.is_running()]
        for role in running:
            role.ask_to_end()
        for role in running:
            try:
                role.process.wait(STOP_SECONDS)
            finally:
                role.kill()


def _first(rows: list[Any]) -> Any:
    return rows[0][0] if rows else None


def _destination(address: str) -> dict[str, Any]:
    """Read `AET@HOST:PORT`."""
    ae_title, _, where = address.partition("@")
    host, _, port = where.rpartition(":")
    return {"name": ae_title, "ae_title": ae_title, "host": host, "port": int(port)}


@contextmanager
def running(node: Node, *names: str) -> Iterator[Node]:
    """Run roles of a node for a block; what still runs at its end is stopped."""
    try:
        node.start(*names)
        yield node
    finally:
        node.close()
