"""f. The whole node dies, or is stopped, inside the settle time: nothing was kept in memory."""

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import CloseAccount, delivered, kept_once, received
from fault_nodes import Node, Role, running
from fault_pacs import PacsOf
from fault_senders import SUCCESS, Notebook
from pydicom.dataset import Dataset

pytestmark = [pytest.mark.faults, pytest.mark.e2e]

_STUDIES = 2  # the worker is in the middle of one
_OPEN = "SELECT count(*) FROM study WHERE state = 'open'"
_DELIVERED = "SELECT count(*) = :studies FROM study WHERE state = 'delivered'"


@pytest.mark.parametrize("end", ["SIGKILL", pytest.param("SIGTERM", marks=pytest.mark.slow_faults)])
def test_a_node_that_ends_inside_the_settle_time_reports_once_when_it_is_back(
    end: str,
    tmp_path: Path,
    orthanc_of: PacsOf,
    chest: Callable[..., Dataset],
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    settle = {"DICOM_NODE_DISPATCH__SETTLE_SECONDS": "4"}
    node = Node(tmp_path / "node", pacs=(orthanc_of.address,), **settle)
    images = [chest() for _ in range(_STUDIES)]
    with running(node, "up"):
        assert notebook.send(node.port, *images) == [SUCCESS] * _STUDIES
        assert _end(node.role("up"), end) == (-signal.SIGKILL if end == "SIGKILL" else 0)
        assert node.query(_OPEN) == [(_STUDIES,)], "a study was settled before the end"
        node.start("up")
        node.wait_for(_DELIVERED, studies=_STUDIES)
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, orthanc_of, [str(ds.SOPInstanceUID) for ds in images]),
        )
        assert node.role("up").terminate() == 0


def _end(up: Role, how: str) -> int:
    if how == "SIGTERM":
        return up.terminate()
    family = up.family()
    status = up.kill()
    assert len(family) > 5, "the tree was not there to be killed"
    assert not any(each.is_running() for each in family)
    return status
