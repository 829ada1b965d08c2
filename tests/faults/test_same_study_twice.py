"""g. One study over two associations at the same time, then with one more image."""

import threading
from collections.abc import Callable

import pytest
from accounts import CloseAccount, delivered, kept_once, received
from fault_nodes import NewNode, Node, running
from fault_pacs import WitnessPacs
from fault_senders import SUCCESS, Notebook
from pydicom.dataset import Dataset

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

_ROUNDS = 4  # studies, each sent twice at once: more occasions for a race
_DELIVERED = """
    SELECT count(*) = :studies FROM study WHERE state = 'delivered' AND revision = :revision
"""
_DUPLICATES = """
    SELECT count(*) FROM audit_event WHERE action = 'instance_stored' AND outcome = 'duplicate'
"""


def test_two_associations_at_once_then_one_more_image(
    new_node: NewNode,
    witness: WitnessPacs,
    chest: Callable[..., Dataset],
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    node = new_node(witness.address)
    studies = [[chest()] for _ in range(_ROUNDS)]
    with running(node, "listen", "dispatch", "deliver", "worker"):
        for images in studies:
            assert _at_once(node, notebook, images) == [SUCCESS] * 2
        assert node.query(_DUPLICATES) == [(_ROUNDS,)]
        node.wait_for(_DELIVERED, seconds=120, studies=_ROUNDS, revision=1)
        first = [ds for images in studies for ds in images]
        assert str(delivered(node, witness, _uids(first))) == "lost=0 doubled=0"

        again = [*studies[0], chest(str(studies[0][0].StudyInstanceUID))]
        assert _at_once(node, notebook, again) == [SUCCESS] * 4
        node.wait_for(_DELIVERED, seconds=120, studies=1, revision=2)

        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(
                node,
                witness,
                _uids([*first, again[-1]]),
                revisions={str(again[0].StudyInstanceUID): 2},
            ),
        )


def _uids(images: list[Dataset]) -> list[str]:
    return [str(ds.SOPInstanceUID) for ds in images]


def _at_once(node: Node, notebook: Notebook, images: list[Dataset]) -> list[int | None]:
    """Send the same images over two associations that begin at the same moment."""
    start, statuses = threading.Barrier(2), list[int | None]()

    def send(calling: str) -> None:
        start.wait(30)
        statuses.extend(notebook.send(node.port, *images, calling=calling))

    threads = [threading.Thread(target=send, args=(name,)) for name in ("MODALITY", "ROUTER")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses
