"""d. The database goes away during intake and during analysis, or somebody else has it locked."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from accounts import CloseAccount, delivered, kept_once, received, sweep
from fault_nodes import NewNode, Node, running
from fault_pacs import WitnessPacs
from fault_senders import SUCCESS, Notebook, new_image
from fault_servers import PostgresServer, answers
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from servers import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(600)]
on_postgresql = pytest.mark.parametrize("new_node", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("new_node", ["sqlite"], indirect=True)

_OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3
_SENDERS, _BEFORE = 3, 10
_LEASED = "SELECT count(*) FROM job WHERE kind = 'analyse' AND state = 'leased'"
_DELIVERED = "SELECT count(*) = :studies FROM study WHERE state = 'delivered'"
_CLOSED = "SELECT count(*) = :studies FROM study WHERE state = 'closed'"
_BUSY_SECONDS = 30  # models.session: how long a writer waits for SQLite's lock
_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@on_postgresql
@pytest.mark.parametrize("mode", ["immediate", pytest.param("fast", marks=pytest.mark.slow_faults)])
def test_stopped_during_intake(
    mode: Literal["fast", "immediate"],
    new_node: NewNode,
    shared_postgres: PostgresServer,
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    node = new_node()
    with running(node, "listen", "dispatch"):
        with _sending(node, notebook) as sent:
            wait_until(lambda: len(notebook.answered) > _BEFORE, 60, "the first answers")
            assert shared_postgres.stop(mode) == 0
            assert not answers(shared_postgres.port)
            try:
                wait_until(lambda: _OUT_OF_RESOURCES in notebook.statuses(), 60, "a refusal")
            finally:
                shared_postgres.start()
            before = len(notebook.answered)
            wait_until(lambda: len(notebook.answered) > before + _BEFORE, 60, "answers again")
        notebook.send_all(node.port, sent)
        assert notebook.statuses() <= {SUCCESS, _OUT_OF_RESOURCES, None}
        node.wait_for(_CLOSED, studies=len(sent))  # the dispatcher went on by itself
        sweep(node)  # files whose rows were refused
        close_account(node, received(node, notebook), kept_once(node))


@on_postgresql
@pytest.mark.slow_faults
def test_stopped_during_analysis(
    new_node: NewNode,
    shared_postgres: PostgresServer,
    witness: WitnessPacs,
    chest: Callable[..., Dataset],
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    images = [chest() for _ in range(3)]
    node = new_node(witness.address)
    with running(node, "listen", "dispatch", "deliver", "worker"):
        assert notebook.send(node.port, *images) == [SUCCESS] * 3
        for mode in ("immediate", "fast"):
            node.wait_for(_LEASED)
            assert shared_postgres.stop(mode) == 0
            try:
                wait_until(
                    lambda: "OperationalError" in node.role("dispatch").said(), 30, "the outage"
                )
            finally:
                shared_postgres.start()
        node.wait_for(_DELIVERED, seconds=120, studies=3)
        assert all(node.is_running(name) for name in ("listen", "dispatch", "deliver", "worker"))
        images_sent = [str(ds.SOPInstanceUID) for ds in images]
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, witness, images_sent),
        )


@on_sqlite
@pytest.mark.slow_faults
def test_locked_for_longer_than_a_writer_waits(
    new_node: NewNode, notebook: Notebook, close_account: CloseAccount
) -> None:
    node = new_node()
    first, second = _capture(), _capture()
    with running(node, "listen", "dispatch"):
        assert notebook.send(node.port, first) == [SUCCESS]
        with _locked(node.data_dir / "node.db"):
            answer = notebook.send(node.port, second, seconds=4 * _BUSY_SECONDS)
        assert answer == [_OUT_OF_RESOURCES]
        notebook.send_all(node.port, [second])
        node.wait_for(_CLOSED, studies=2)
        sweep(node)  # files whose rows were refused
        close_account(node, received(node, notebook), kept_once(node))


def _capture() -> Dataset:
    """Return an object that the node stores and nobody analyses."""
    ds = new_image()
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    return ds


@contextmanager
def _sending(node: Node, notebook: Notebook) -> Iterator[list[Dataset]]:
    """Have several senders send, each object until it is answered 0x0000, while the block runs."""
    stop, sent = threading.Event(), list[Dataset]()

    def send() -> None:
        while not stop.is_set():
            ds = _capture()
            sent.append(ds)
            while notebook.send(node.port, ds) != [SUCCESS] and not stop.wait(0.1):
                pass

    threads = [threading.Thread(target=send) for _ in range(_SENDERS)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@contextmanager
def _locked(database: Path) -> Iterator[None]:
    """Hold SQLite's write lock in another process."""
    command = [sys.executable, "-c", _LOCK, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(database, timeout=0.1).execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            holder.communicate()
    assert holder.returncode == 0
