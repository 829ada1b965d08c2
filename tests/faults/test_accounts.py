"""The count itself: what is missing or there twice is found, or else a 0 says nothing."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

import pytest
from accounts import delivered, kept_once, received
from fault_nodes import Node, running
from fault_pacs import SEG, SR, Held
from fault_senders import SUCCESS, Notebook, new_image

pytestmark = [pytest.mark.faults]


@dataclass(frozen=True)
class _Shelf:
    """A PACS that holds what a test puts into it."""

    objects: tuple[Held, ...]

    def held(self) -> list[Held]:
        return list(self.objects)


def _object(sop_class: str, uid: str, study: str, image: str, content: str = "") -> Held:
    return Held(sop_class, uid, study, content, frozenset({image}), frozenset())


def test_every_loss_and_every_double_counts(tmp_path: Path, notebook: Notebook) -> None:
    images = [new_image() for _ in range(4)]
    uid, study = str(images[3].SOPInstanceUID), str(images[3].StudyInstanceUID)
    with running(Node(tmp_path / "node"), "listen") as node:
        assert notebook.send(node.port, *images) == [SUCCESS] * 4
        assert str(received(node, notebook)) == "lost=0 doubled=0"
        assert str(kept_once(node)) == "lost=0 doubled=0"
        assert node.role("listen").terminate() == 0

        _harm(node, [str(ds.SOPInstanceUID) for ds in images])

        assert len(received(node, notebook).lost) == 3  # no file, another file, no row
        kept = kept_once(node)
        assert (len(kept.lost), len(kept.doubled)) == (1, 2)  # no file; no row, half a file
        notebook.offers.clear()
        assert len(received(node, notebook).doubled) == 3  # rows that nobody sent

        assert str(delivered(node, _Shelf(()), [uid])) == "lost=2 doubled=0"
        seg, sr = _object(SEG, "1.1", study, uid), _object(SR, "1.2", study, uid)
        strange = delivered(node, _Shelf((seg, sr)), [uid])
        assert (strange.lost, len(strange.doubled)) == ([], 2)  # the node knows neither of them
        twice = (seg, sr, _object(SEG, "1.3", study, uid), _object(SR, "1.4", study, uid))
        assert str(delivered(node, _Shelf(twice), [uid])) == "lost=0 doubled=6"
        strange = delivered(node, _Shelf((seg, sr, _object(SR, "1.5", "1.6", uid))), [uid])
        assert "an SR of 1.6, which nobody expects" in strange.doubled


def _harm(node: Node, uids: list[str]) -> None:
    """Take the file of the first, change that of the second, and take the row of the third."""
    query = "SELECT storage_key FROM instance WHERE sop_instance_uid = :uid"
    gone, changed, _, _ = (
        node.data_dir / "spool" / node.query(query, uid=uid)[0][0] for uid in uids
    )
    gone.unlink()
    changed.write_bytes(changed.read_bytes() + b"\0\0")
    (node.data_dir / "spool" / "incoming" / "half.part").write_bytes(b"\0")
    with sqlite3.connect(node.data_dir / "node.db") as connection:
        connection.execute("DELETE FROM instance WHERE sop_instance_uid = ?", (uids[2],))
    connection.close()
