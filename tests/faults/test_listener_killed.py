"""a. The listener dies at every step between the first byte of a data set and its response."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import senders
from accounts import CloseAccount, kept_once, received, sweep
from crashing import POINTS, Armed
from fault_nodes import Node, running
from fault_senders import SUCCESS, Notebook, new_image
from servers import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

_SWEEP = "DICOM_NODE_DISPATCH__ORPHAN_SECONDS"


@dataclass(frozen=True)
class Bench:
    """One node for all tests of a kind of database: each finds it as the crash before left it."""

    node: Node
    armed: Armed
    notebook: Notebook

    def listen(self) -> None:
        """Have a listener, unless there is one."""
        if not self.node.is_running("listen"):
            self.node.start("listen", **self.armed.environment)


@pytest.fixture(
    scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow_faults)]
)
def bench(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    broker_url: Callable[[], str],
) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    url = request.getfixturevalue("new_database")() if request.param == "postgresql" else None
    node = Node(folder / "node", broker_url=broker_url(), database_url=url, **{_SWEEP: "20"})
    with running(node, "dispatch"):
        yield Bench(node, Armed(folder / "crash"), Notebook())


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(point: str, bench: Bench, close_account: CloseAccount) -> None:
    bench.listen()
    node, notebook = bench.node, bench.notebook
    before, during, after = new_image(), new_image(), new_image()
    assert notebook.send(node.port, before) == [SUCCESS]

    family = {each.pid for each in node.role("listen").family()}
    bench.armed.arm(point)
    statuses = notebook.send(node.port, during, after)

    assert bench.armed.victim(point) in family, "nobody got as far as the point"
    assert node.role("listen").kill() == -signal.SIGKILL  # of several processes the rest as well
    assert statuses == [SUCCESS if point == "responded" else None, None]
    bench.listen()
    notebook.send_all(node.port, [during, after])
    assert {str(ds.SOPInstanceUID) for ds in (before, during, after)} <= notebook.answered.keys()
    close_account(node, received(node, notebook))


def test_killed_after_the_first_bytes(bench: Bench, close_account: CloseAccount) -> None:
    bench.listen()
    node, notebook, image = bench.node, bench.notebook, new_image()
    known = set(node.incoming)
    with senders.associate(node.port) as assoc:
        senders.send_half(assoc, senders.encoded(image) * 20)
        wait_until(
            lambda: any(path.stat().st_size for path in set(node.incoming) - known),
            90,
            "the first bytes in the spool",
        )
        assert node.role("listen").kill() == -signal.SIGKILL
        assoc.abort()
    bench.listen()
    notebook.send_all(node.port, [image])
    close_account(node, received(node, notebook))


def test_what_a_crash_left_is_swept(bench: Bench, close_account: CloseAccount) -> None:
    bench.listen()
    node, notebook, image = bench.node, bench.notebook, new_image()
    assert node.role("dispatch").terminate() == 0
    bench.armed.arm("renamed")
    assert notebook.send(node.port, image) == [None]
    assert node.role("listen").kill() == -signal.SIGKILL
    bench.listen()
    notebook.send_all(node.port, [image])
    assert kept_once(node).doubled, "the crash left nothing behind"

    sweep(node)
    close_account(node, received(node, notebook), kept_once(node))
