"""The web process dies while it stores what came by STOW-RS; the sender sends it again."""

import hashlib
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from accounts import kept_once, sweep
from crashing import Armed
from dicomweb_client import multipart, multipart_type
from fault_nodes import Node, running
from fault_senders import data_set_hash, new_image
from pydicom.dataset import Dataset
from pynetdicom.dsutils import split_dataset
from servers import wait_until
from web_accounts import bearer

from models.account import Role, Scope
from models.session import Database

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

# One of them in each stretch: no file yet, file without a row, row without an answer.
POINTS = ("before_file_sync", "renamed", "before_commit", "committed")


@dataclass(frozen=True)
class Bench:
    """A node whose web process can be killed, and a token for it."""

    node: Node
    armed: Armed
    headers: dict[str, str]

    def serve(self) -> None:
        """Have a web process, unless there is one."""
        if not self.node.is_running("web"):
            self.node.start("web", **self.armed.environment)
            wait_until(self._answers, 60, "the web process", every=0.1)

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            url = f"http://127.0.0.1:{self.node.web_port}/api/v1/health"
            return httpx.get(url, timeout=5).status_code == httpx.codes.OK
        return False

    def store(self, *objects: Dataset) -> int | None:
        """Send them in one request; None: no answer came."""
        url = f"http://127.0.0.1:{self.node.web_port}/dicom-web/studies"
        body = multipart(*map(_file, objects))
        headers = {**multipart_type(), **self.headers}
        try:
            return httpx.post(url, content=body, headers=headers, timeout=60).status_code
        except httpx.TransportError:
            return None


def _file(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow_faults)]
)
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    broker_url: Callable[[], str],
) -> Iterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("bench")
    url = request.getfixturevalue("new_database")() if request.param == "postgresql" else None
    node = Node(folder / "node", broker_url=broker_url(), database_url=url)
    armed = Armed(folder / "crash")
    with running(node, "web"):
        database = Database(node.database_url)
        headers = bearer(database, Role.OPERATOR, Scope.STORE)
        database.dispose()
        node.role("web").kill()
        yield Bench(node, armed, headers)


def _kept(node: Node, ds: Dataset) -> list[str]:
    """Return the hash of each file that a row of this object names."""
    query = "SELECT storage_key FROM instance WHERE sop_instance_uid = :uid"
    found = []
    for row in node.query(query, uid=str(ds.SOPInstanceUID)):
        path = node.data_dir / "spool" / row.storage_key
        _, offset = split_dataset(path)
        found.append(hashlib.sha256(path.read_bytes()[offset:]).hexdigest())
    return found


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, bench: Bench) -> None:
    bench.serve()
    node, before, during, after = bench.node, new_image(), new_image(), new_image()
    assert bench.store(before) == httpx.codes.OK
    bench.armed.arm(point)
    assert bench.store(during, after) is None
    assert bench.armed.victim(point) == node.role("web").pid, "nobody got as far as the point"
    assert node.role("web").kill() == -signal.SIGKILL
    assert _kept(node, after) == []
    bench.serve()
    for _ in range(2):  # the second time nothing new
        assert bench.store(before, during, after) == httpx.codes.OK
        for ds in (before, during, after):
            assert _kept(node, ds) == [data_set_hash(ds)]


def test_what_the_crashes_left_is_swept(bench: Bench) -> None:
    bench.serve()
    node, image = bench.node, new_image()
    bench.armed.arm("renamed")
    assert bench.store(image) is None
    node.role("web").kill()
    assert kept_once(node).doubled, "the crash left nothing behind"
    sweep(node)  # finds the sender in the file, and has the object
    assert _kept(node, image) == [data_set_hash(image)]
    assert not kept_once(node).lost
    (row,) = node.query(
        "SELECT calling_aet FROM instance WHERE sop_instance_uid = :uid",
        uid=str(image.SOPInstanceUID),
    )
    assert row.calling_aet == "operator"
