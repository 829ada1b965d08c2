"""e. The PACS is away, takes reports only, dawdles, fails at random, and is well in the end.

The PACS that the node knows answers by script, and passes on what it says it took to Orthanc, which
is asked at the end: every object once, in the bytes that the node keeps.
"""

import json
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accounts import CloseAccount, delivered, kept_once, received
from fault_nodes import Node, running
from fault_pacs import SEG, SR, PacsOf
from fault_senders import SUCCESS, Notebook
from proxy import Manner, Proxy
from pydicom.dataset import Dataset
from scripted_pacs import ScriptedPacs
from servers import wait_until

from dicom_node.demo.pacs import OrthancPacs

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(400)]

_SEED = 7
_OUT_OF_RESOURCES, _FAILURE, _COERCED, _NOT_UNDERSTOOD = 0xA700, 0x0110, 0xB000, 0xC000
_CLASS_NOT_SUPPORTED = 0x0122
_MOODS = (_OUT_OF_RESOURCES, _FAILURE, _COERCED, _NOT_UNDERSTOOD)

_TRIED = "SELECT count(*) FROM delivery WHERE state = 'due' AND error IS NOT NULL"
_OVER = "SELECT count(*) = :number FROM delivery WHERE state IN ('sent', 'rejected')"
_DELIVERED = "SELECT count(*) = :number FROM study WHERE state = 'delivered'"

Chest = Callable[..., Dataset]


@pytest.fixture
def pacs(shared_orthanc: OrthancPacs) -> Iterator[ScriptedPacs]:
    """A PACS that does not listen yet."""
    scripted = ScriptedPacs(shared_orthanc)
    try:
        yield scripted
    finally:
        scripted.stop()


@pytest.fixture
def close(
    notebook: Notebook, orthanc_of: PacsOf, close_account: CloseAccount, pacs: ScriptedPacs
) -> Callable[[Node], None]:
    """Wait until every study is delivered, and close the account."""

    def check(node: Node) -> None:
        images = list(notebook.answered)
        node.wait_for(_DELIVERED, 120, number=len(images))
        assert pacs.versions() == 1, "an object came in two versions"
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, orthanc_of, images),
        )

    return check


def _rejected(node: Node) -> set[tuple[str, str]]:
    """Return kind and SOP Instance UID of what an operator sees as rejected."""
    printed = node.run("results", "--json")
    assert printed.returncode == 0, printed.stderr
    return {
        (file["kind"], file["sop_instance_uid"])
        for line in printed.stdout.splitlines()
        for file in json.loads(line)["files"]
        if any(each["state"] == "rejected" for each in file["deliveries"])
    }


def _retry_all(node: Node) -> int:
    printed = node.run("retry", "--all")
    assert printed.returncode == 0, printed.stderr
    return int(printed.stdout.split()[0])


def _moody(seed: int) -> Callable[[str], int]:
    """Return a script that fails at random, each way at least once."""
    dice = random.Random(seed)
    first = dice.sample(_MOODS, len(_MOODS))
    return lambda _sop_class: first.pop() if first else dice.choice(_MOODS)


def test_a_pacs_that_is_away_and_then_fails_at_random_gets_everything_once(
    tmp_path: Path,
    broker_url: Callable[[], str],
    pacs: ScriptedPacs,
    chest: Chest,
    notebook: Notebook,
    close: Callable[[Node], None],
) -> None:
    node = Node(tmp_path / "node", broker_url=broker_url(), pacs=(pacs.address,))
    with running(node, "listen", "dispatch", "deliver", "worker"):
        assert notebook.send(node.port, chest()) == [SUCCESS]
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_TRIED)
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", pacs.port)) != 0
        pacs.status = _moody(_SEED)
        pacs.start()
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_OVER, 120, number=6)
        assert {status for _, status in pacs.given()} == set(_MOODS)
        pacs.status = lambda _sop_class: SUCCESS
        refused = {uid for _, uid, status in pacs.answers if status == _NOT_UNDERSTOOD}
        assert {uid for _, uid in _rejected(node)} == refused
        assert _retry_all(node) == len(refused)
        close(node)
        assert _rejected(node) == set()


@pytest.mark.slow_faults
def test_a_pacs_that_takes_no_segmentation_gets_it_when_it_has_learnt(
    tmp_path: Path,
    broker_url: Callable[[], str],
    pacs: ScriptedPacs,
    chest: Chest,
    notebook: Notebook,
    close: Callable[[Node], None],
) -> None:
    node = Node(tmp_path / "node", broker_url=broker_url(), pacs=(pacs.address,))
    with running(node, "listen", "dispatch", "deliver", "worker"):
        pacs.start(without=SEG)
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_OVER, 120, number=2)
        assert pacs.given() == {(SR, SUCCESS)}, "the report was to go without its segmentation"
        pacs.stop()
        pacs.status = lambda sop_class: _CLASS_NOT_SUPPORTED if sop_class == SEG else SUCCESS
        pacs.start()
        assert notebook.send(node.port, chest()) == [SUCCESS]
        node.wait_for(_OVER, 120, number=4)
        assert pacs.given() == {(SR, SUCCESS), (SEG, _CLASS_NOT_SUPPORTED)}
        pacs.status = lambda _sop_class: SUCCESS
        assert [kind for kind, _ in sorted(_rejected(node))] == ["seg", "seg"]
        assert _retry_all(node) == 2
        close(node)
        assert _rejected(node) == set()


@pytest.mark.slow_faults
def test_a_pacs_that_answers_one_byte_at_a_time_gets_everything_once(
    tmp_path: Path,
    broker_url: Callable[[], str],
    pacs: ScriptedPacs,
    chest: Chest,
    notebook: Notebook,
    close: Callable[[Node], None],
) -> None:
    pacs.start()
    with Proxy(pacs.port) as proxy:
        address = f"{pacs.ae_title}@127.0.0.1:{proxy.port}"
        node = Node(tmp_path / "node", broker_url=broker_url(), pacs=(address,))
        with running(node, "listen", "dispatch", "deliver", "worker"):
            slowly = Manner(piece_bytes=1, pause_seconds=0.01)
            with proxy.manner(to_client=slowly):
                assert notebook.send(node.port, chest()) == [SUCCESS]
                node.wait_for(_OVER, 120, number=2)
            dawdling = Manner(piece_bytes=1, pause_seconds=1.0)
            before = proxy.accepted
            with proxy.manner(to_client=dawdling):
                assert notebook.send(node.port, chest()) == [SUCCESS]
                wait_until(lambda: proxy.accepted > before, 60, "the next association")
                passed = proxy.passed
                wait_until(lambda: proxy.passed > passed, 10, "a byte of the answer")
                assert node.query("SELECT count(*) FROM delivery WHERE state = 'sent'") == [(2,)]
                assert proxy.cut() >= 1
            close(node)
