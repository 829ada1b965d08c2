"""j. The wall clock jumps by an hour under a working node: nothing doubled, nothing waits."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from absent import missing
from accounts import CloseAccount, delivered, kept_once, received
from clock import Clock, find_faketime
from fault_nodes import Node, running
from fault_pacs import WitnessPacs
from fault_senders import SUCCESS, Notebook
from pydicom.dataset import Dataset

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(400)]

HOUR = 3600
_SOON_SECONDS = 120.0  # far below the hour that a waiting row would take
_LEASED = "SELECT count(*) FROM job WHERE kind = 'analyse' AND state = 'leased'"
_TRIED = "SELECT count(*) FROM delivery WHERE state = 'due' AND error IS NOT NULL"
_DELIVERED = "SELECT count(*) = :number FROM study WHERE state = 'delivered'"
_NEWEST = "SELECT at FROM audit_event ORDER BY id DESC LIMIT 1"


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    """A clock that this test alone has."""
    library = find_faketime() or missing("libfaketime is not installed (apt install faketime)")
    return Clock(library, tmp_path)


@pytest.fixture
def node(tmp_path: Path, clock: Clock, broker_url: Callable[[], str], witness: WitnessPacs) -> Node:
    """A node by that clock, not started; Redis goes by the machine's.

    It keeps no time of ours, and its allocator and libfaketime do not go together.
    """
    url = broker_url()
    return Node(tmp_path / "node", broker_url=url, pacs=(witness.address,), **clock.environment)


def _seconds_ahead(node: Node) -> float:
    """Return how far ahead of this process the clock was that wrote the newest audit event."""
    [(written,)] = node.query(_NEWEST)
    return (datetime.fromisoformat(written).replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()


@pytest.mark.parametrize(
    "jump",
    [
        pytest.param(-HOUR, id="back"),
        pytest.param(HOUR, id="forward", marks=pytest.mark.slow_faults),
    ],
)
def test_work_goes_on_at_once_after_the_clock_has_jumped(
    jump: int,
    clock: Clock,
    node: Node,
    witness: WitnessPacs,
    chest: Callable[..., Dataset],
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    witness.stop()
    with running(node, "up"):
        # One study waits for the PACS, one is being analysed, one has just come.
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_TRIED)
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_LEASED)
        assert notebook.send(node.port, chest()) == [SUCCESS]
        clock.set(jump)
        assert notebook.send(node.port, chest()) == [SUCCESS]
        assert abs(clock.seen() - jump) < 60
        node.wait_for("SELECT count(*) = 4 FROM instance")
        assert abs(_seconds_ahead(node) - jump) < 60, "the node did not see the clock jump"
        witness.start()
        node.wait_for(_DELIVERED, _SOON_SECONDS, number=4)
        # And the way back, as a time server sets it right again.
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_LEASED)
        clock.set(0)
        node.wait_for(_DELIVERED, _SOON_SECONDS, number=5)
        images = list(notebook.answered)
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, witness, images),
        )
        assert node.role("up").terminate() == 0
