"""i. SIGTERM while senders send: what was answered is stored, nothing is half, the end is clean."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

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
        with _sending(node, notebook, images_per_association) as load:
            wait_until(lambda: len(notebook.answered) > _BEFORE, 60, "the load")
            assert node.role("listen").terminate() == 0
            assert not answers(node.port)
            assert node.incoming == []
        assert load.turned_away == _SENDERS
        assert str(received(node, notebook)) == "lost=0 doubled=0"

        node.start("listen")
        notebook.send_all(node.port, load.sent)
        assert len(notebook.answered) == len(load.sent)
        sweep(node)  # files whose senders were cut before the row
        close_account(node, received(node, notebook), kept_once(node))


@dataclass
class _Load:
    """What the senders offered, and how many of them were turned away in the end."""

    sent: list[Dataset] = field(default_factory=list)
    turned_away: int = 0


@contextmanager
def _sending(node: Node, notebook: Notebook, number: int) -> Iterator[_Load]:
    """Have senders send over one association after the other, each until it is turned away."""
    stop, load, lock = threading.Event(), _Load(), threading.Lock()

    def send() -> None:
        while not stop.is_set():
            images = [new_image() for _ in range(min(number, 40))]
            load.sent.extend(images)
            if None in notebook.send(node.port, *images, *([images[0]] * (number - len(images)))):
                with lock:
                    load.turned_away += 1
                return

    threads = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield load
        for thread in threads:  # nobody listens any more
            thread.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
