"""i. SIGTERM while senders send: what was answered is stored, nothing is half, the end is clean."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from accounts import CloseAccount, kept_once, received, sweep
from fault_nodes import NewNode, Node, running
from fault_senders import Notebook, new_image
from fault_servers import answers
from pydicom.dataset import Dataset
from servers import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

_SENDERS, _BEFORE = 6, 20
_ENDLESS = 50_000  # images of one association: more than the listener waits for


@pytest.mark.parametrize(
    ("new_node", "images_per_association"),
    [
        pytest.param("sqlite", 4, id="short"),
        pytest.param("postgresql", 4, id="short_postgresql", marks=pytest.mark.slow_faults),
        pytest.param("sqlite", _ENDLESS, id="endless", marks=pytest.mark.slow_faults),
    ],
    indirect=["new_node"],
)
def test_listener_stopped_under_load(
    new_node: NewNode,
    images_per_association: int,
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    node = new_node()
    with running(node, "listen"):
        with _sending(node, notebook, images_per_association) as sent:
            wait_until(lambda: len(notebook.answered) > _BEFORE, 60, "the load")
            assert node.role("listen").terminate() == 0
            assert not answers(node.port)
            assert node.incoming == []
        cut_short = [each for each in notebook.offers if each.status is None]
        assert len(cut_short) + notebook.refused_associations >= _SENDERS, "somebody got through"
        assert str(received(node, notebook)) == "lost=0 doubled=0"

        node.start("listen")
        notebook.send_all(node.port, sent)
        assert len(notebook.answered) == len(sent)
        sweep(node)  # files whose senders were cut before the row
        close_account(node, received(node, notebook), kept_once(node))


@contextmanager
def _sending(node: Node, notebook: Notebook, number: int) -> Iterator[list[Dataset]]:
    """Have senders send over one association after the other, each until it is turned away."""
    stop, sent = threading.Event(), list[Dataset]()

    def send() -> None:
        while not stop.is_set():
            images = [new_image() for _ in range(min(number, 40))]
            sent.extend(images)
            if None in notebook.send(node.port, *images, *([images[0]] * (number - len(images)))):
                return

    threads = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()
