"""h. A disk fills in every stage: refused, never half stored, and all goes on with room."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from accounts import CloseAccount, delivered, kept_once, received, sweep
from fault_nodes import Node, running
from fault_pacs import WitnessPacs
from fault_senders import SUCCESS, Notebook, new_image
from pydicom.dataset import Dataset
from senders import associate, encoded, store_bytes
from servers import wait_until
from smalldisk import SmallDisk

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(400)]

_OUT_OF_RESOURCES = 0xA700  # PS3.4 B.2.3
_FLOOR_BYTES = 8_000_000
_LEASED = "SELECT count(*) FROM job WHERE kind = 'analyse' AND state = 'leased'"
_BROKEN = "SELECT count(*) FROM job WHERE state = 'pending' AND error IS NOT NULL"
_DELIVERED = "SELECT count(*) = :number FROM study WHERE state = 'delivered'"
_ARTIFACTS = "SELECT storage_key FROM artifact"

Chest = Callable[..., Dataset]


@contextlib.contextmanager
def _full(disk: SmallDisk, leave: int = 0) -> Iterator[None]:
    """Leave so many bytes free for a block."""
    disk.fill(leave)
    try:
        yield
    finally:
        disk.free_up()


def _large(study: Dataset) -> bytes:
    """Return a data set of 3 MB."""
    ds = new_image(study)
    ds.Rows, ds.Columns = 1024, 1536
    ds.PixelData = bytes(2 * ds.Rows * ds.Columns)
    return encoded(ds)


def _on(disk: SmallDisk, data_dir: Path, folder: str) -> None:
    """Put one folder of a node's data onto the small disk."""
    data_dir.mkdir(parents=True)
    (disk.path / folder).mkdir()
    (data_dir / folder).symlink_to(disk.path / folder)


def test_the_spool_fills_while_objects_are_received(
    tmp_path: Path, disk: SmallDisk, notebook: Notebook, close_account: CloseAccount
) -> None:
    data_dir = tmp_path / "node"
    _on(disk, data_dir, "spool")
    node = Node(data_dir, DICOM_NODE_DICOM__MIN_FREE_BYTES=str(_FLOOR_BYTES))
    first, second, third = (new_image() for _ in range(3))
    with running(node, "listen"):
        assert notebook.send(node.port, first) == [SUCCESS]
        # In the middle of a data set, over an association that was accepted with room.
        with associate(node.port) as assoc, _full(disk, leave=1_000_000):
            uid = str(second.SOPInstanceUID)
            for _ in range(2):
                status = store_bytes(assoc, str(second.SOPClassUID), uid, _large(second))
                assert status == _OUT_OF_RESOURCES
            assert assoc.is_established, "the association was to live on"
            assert disk.free() >= 1_000_000 - 100_000, "something of it is still there"
        with _full(disk, leave=_FLOOR_BYTES - 1_000_000):
            assert notebook.send(node.port, second) == [None]
            assert notebook.refused_associations == 1
            assert "below its floor" in node.role("listen").said()
        assert node.incoming == []
        notebook.send_all(node.port, [second, third])
        close_account(node, received(node, notebook), kept_once(node))


@pytest.mark.slow_faults
def test_the_disk_of_the_database_fills(
    tmp_path: Path,
    disk: SmallDisk,
    broker_url: Callable[[], str],
    witness: WitnessPacs,
    chest: Chest,
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    url = f"sqlite:///{disk.path / 'node.db'}"
    where = {"broker_url": broker_url(), "database_url": url}
    node = Node(tmp_path / "node", pacs=(witness.address,), **where)
    first, second = chest(), chest()
    with running(node, "listen", "dispatch", "deliver", "worker"):
        assert notebook.send(node.port, first) == [SUCCESS]
        node.wait_for(_LEASED)
        _empty_wal(url)
        with _full(disk):
            wait_until(
                lambda: notebook.send(node.port, second) == [_OUT_OF_RESOURCES], 30, "a refusal"
            )
            wait_until(
                lambda: (
                    "database or disk is full" in node.role("dispatch").said()
                    or "database or disk is full" in node.role("worker").said()
                ),
                120,
                "a full disk in the log",
            )
        notebook.send_all(node.port, [second])
        images = list(notebook.answered)
        node.wait_for(_DELIVERED, 90, number=len(images))
        sweep(node)  # files whose rows were refused
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, witness, images),
        )


def _empty_wal(url: str) -> None:
    """Have SQLite shorten its journal, so that the next commit needs room on the disk."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)

    def emptied() -> bool:
        with engine.connect() as connection:
            row = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
        return bool(row[0] == 0)

    wait_until(emptied, 20, "a checkpoint", every=0.01)


@pytest.mark.slow_faults
def test_the_disk_of_the_results_fills(
    tmp_path: Path,
    disk: SmallDisk,
    broker_url: Callable[[], str],
    witness: WitnessPacs,
    chest: Chest,
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    data_dir = tmp_path / "node"
    _on(disk, data_dir, "artifacts")
    node = Node(data_dir, broker_url=broker_url(), pacs=(witness.address,))
    with running(node, "listen", "dispatch", "deliver", "worker"):
        with _full(disk):
            assert notebook.send(node.port, chest()) == [SUCCESS]
            node.wait_for(_BROKEN)
            assert "No space left on device" in node.role("worker").said()
        node.wait_for(_DELIVERED, 90, number=1)
        keys = {row.storage_key for row in node.query(_ARTIFACTS)}
        files = [each for each in (disk.path / "artifacts").rglob("*") if each.is_file()]
        assert {str(each.relative_to(disk.path / "artifacts")) for each in files} == keys
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, witness, list(notebook.answered)),
        )


@pytest.mark.slow_faults
def test_the_one_disk_of_a_whole_node_fills(
    disk: SmallDisk,
    witness: WitnessPacs,
    chest: Chest,
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    node = Node(disk.path / "n", pacs=(witness.address,))
    images = [chest() for _ in range(4)]
    with running(node, "up"):
        assert notebook.send(node.port, *images[:2]) == [SUCCESS] * 2
        node.wait_for(_LEASED)
        _empty_wal(node.database_url)
        with _full(disk):
            wait_until(
                lambda: notebook.send(node.port, images[2]) == [_OUT_OF_RESOURCES], 30, "a refusal"
            )
        notebook.send_all(node.port, images[2:])
        uids = list(notebook.answered)
        node.wait_for(_DELIVERED, 120, number=len(uids))
        sweep(node)  # files whose rows were refused
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, witness, uids),
        )
        assert node.role("up").terminate() == 0
