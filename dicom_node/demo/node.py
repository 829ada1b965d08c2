"""A node in a process of its own, as an operator runs it: `dicom-node up`, asked by its commands.

The tests start nodes with this, too.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from dicom_node.errors import NodeError

_ENDED_DELIVERY = frozenset({"sent", "committed", "rejected", "dead"})
_ENDED_STATUS = frozenset(
    {"analysed", "not_analysed", "failed", "quarantined", "superseded", "withdrawn"}
)
_STOP_SECONDS = 90.0


class NodeProcessError(NodeError):
    """The node did not start, died, or a command of it failed."""


@dataclass(frozen=True)
class Product:
    """One stored result of an image or its study, and how far it is to each destination."""

    kind: str
    path: Path
    sop_instance_uid: str | None
    deliveries: Mapping[str, str]

    @property
    def delivered(self) -> bool:
        """Whether it was meant for somebody and nobody is still waiting for it."""
        states = self.deliveries.values()
        return bool(states) and all(state in _ENDED_DELIVERY for state in states)


@dataclass(frozen=True)
class Result:
    """One line of `dicom-node results --json`."""

    sop_instance_uid: str
    study_instance_uid: str
    status: str
    reason: str | None
    detail: str | None
    percent: Mapping[str, float | None]
    severity: str | None
    products: tuple[Product, ...]

    @classmethod
    def parse(cls, row: Mapping[str, Any]) -> Self:
        """Read one JSON object of the contract."""
        return cls(
            sop_instance_uid=row["sop_instance_uid"],
            study_instance_uid=row["study_instance_uid"],
            status=row["status"],
            reason=row["reason"],
            detail=row["detail"],
            percent=row["opacity_percent"],
            severity=row["severity"],
            products=tuple(
                Product(
                    kind=file["kind"],
                    path=Path(file["path"]),
                    sop_instance_uid=file["sop_instance_uid"],
                    deliveries={each["destination"]: each["state"] for each in file["deliveries"]},
                )
                for file in row["files"]
            ),
        )

    def product(self, kind: str) -> Product | None:
        """Return the newest product of one kind."""
        return next((each for each in reversed(self.products) if each.kind == kind), None)

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to this image, its results delivered."""
        if self.status != "analysed":
            return self.status in _ENDED_STATUS
        objects = [self.product("seg"), self.product("sr")]
        return all(each is not None and each.delivered for each in objects)


class NodeProcess:
    """`dicom-node up` with a data folder of its own; variables of the caller's node are ignored."""

    def __init__(
        self,
        data_dir: Path,
        *,
        dicom_port: int,
        web_port: int,
        pacs: tuple[str, ...] = (),
        workers: int = 1,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.dicom_port, self.web_port = dicom_port, web_port
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("DICOM_NODE_")}
        self._environment = {**inherited, **(settings or {})}
        self._options = ["--dicom-port", str(dicom_port), "--web-port", str(web_port)]
        self._options += ["--workers", str(workers)]
        for address in pacs:
            self._options += ["--pacs", address]
        self.stdout = data_dir.with_name(f"{data_dir.name}.out")
        self.stderr = data_dir.with_name(f"{data_dir.name}.log")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, seconds: float = 180.0) -> None:
        """Start the node. Raises NodeProcessError unless it is ready in time."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.stdout.open("wb") as out, self.stderr.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own command
                self._command("up", *self._options),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=self._environment,
            )
        deadline = time.monotonic() + seconds
        while b"ready" not in self.stdout.read_bytes().splitlines():
            if self._process.poll() is not None:
                msg = f"the node ended with {self._process.returncode}, see {self.stderr}"
                raise NodeProcessError(msg)
            if time.monotonic() > deadline:
                msg = f"the node was not ready within {seconds:g} s, see {self.stderr}"
                raise NodeProcessError(msg)
            time.sleep(0.1)

    def _command(self, name: str, *options: str) -> list[str]:
        start = [sys.executable, "-m", "dicom_node", name]
        return [*start, "--data-dir", str(self.data_dir), *options]

    @property
    def pid(self) -> int:
        """Process id of the supervisor. Raises NodeProcessError when it was never started."""
        if self._process is None:
            msg = "the node was not started"
            raise NodeProcessError(msg)
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the supervisor lives."""
        return self._process is not None and self._process.poll() is None

    def run(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run one command of the node on its data folder and return what it printed."""
        return subprocess.run(  # noqa: S603  our own command
            self._command(name, *options),
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    def results(self) -> list[Result]:
        """Return one result per image. Raises NodeProcessError when the command fails."""
        answer = self.run("results", "--json")
        if answer.returncode != 0:
            msg = f"dicom-node results ended with {answer.returncode}: {answer.stderr[-500:]}"
            raise NodeProcessError(msg)
        return [Result.parse(json.loads(line)) for line in answer.stdout.splitlines()]

    def stop(self) -> int:
        """Ask the node to stop and return its exit status; kill it when it does not."""
        if self._process is None:
            return 0
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


@contextlib.contextmanager
def running(node: NodeProcess) -> Iterator[NodeProcess]:
    """Run a node for the length of a block."""
    try:
        node.start()
        yield node
    finally:
        node.stop()
