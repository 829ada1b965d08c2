"""b. Workers die in the middle of analyses of different studies: one SEG and one SR of each."""

import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest
from accounts import CloseAccount, delivered, kept_once, received
from fault_nodes import NewNode, Node, running
from fault_pacs import PacsOf
from fault_senders import SUCCESS, Notebook
from pydicom.dataset import Dataset

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(600)]

_LEASED = "SELECT id, lease_owner FROM job WHERE kind = 'analyse' AND state = 'leased'"
_OWNER = "SELECT lease_owner FROM job WHERE id = :id AND state = 'leased'"
_ATTEMPTS = "SELECT attempts FROM job WHERE id = :id"
_DELIVERED = "SELECT count(*) >= :studies FROM study WHERE state = 'delivered'"


@pytest.mark.parametrize(
    ("new_node", "kills", "with_parent"),
    [
        pytest.param("sqlite", 2, {1}, id="twice"),
        pytest.param("postgresql", 10, {3, 7}, id="ten_times", marks=pytest.mark.slow_faults),
    ],
    indirect=["new_node"],
)
def test_every_study_has_one_result(
    new_node: NewNode,
    kills: int,
    with_parent: set[int],
    orthanc_of: PacsOf,
    chest: Callable[..., Dataset],
    notebook: Notebook,
    close_account: CloseAccount,
) -> None:
    images = [chest() for _ in range(kills)]
    node = new_node(orthanc_of.address)
    with running(node, "listen", "dispatch", "deliver", "worker"):
        assert notebook.send(node.port, *images) == [SUCCESS] * kills

        killed: list[int] = []
        for each in range(kills):
            killed.append(_kill_in_mid_analysis(node, killed, parent=each in with_parent))

        node.wait_for(_DELIVERED, seconds=240, studies=kills)
        assert [node.query(_ATTEMPTS, id=job)[0][0] > 1 for job in killed] == [True] * kills
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, orthanc_of, [str(ds.SOPInstanceUID) for ds in images]),
        )


def _kill_in_mid_analysis(node: Node, killed: list[int], *, parent: bool) -> int:
    """Kill -9 the process that has a job, not one of those `killed` before; return the job.

    It is stopped first, so that it is certain that it still has the job when it dies.
    """
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for job_id, owner in node.query(_LEASED):
            if job_id in killed:
                continue  # still in the name of the dead
            process = psutil.Process(int(owner.rpartition(":")[2]))
            process.suspend()
            if node.query(_OWNER, id=job_id) == [(owner,)]:
                _kill(node, process, parent=parent)
                return int(job_id)
            process.resume()  # it was just ready: another one
        time.sleep(0.01)
    msg = "no job was leased"
    raise TimeoutError(msg)


def _kill(node: Node, process: psutil.Process, *, parent: bool) -> None:
    worker = node.role("worker")
    if parent:
        assert worker.kill() == -signal.SIGKILL
        node.start("worker")
    else:
        os.kill(process.pid, signal.SIGKILL)
        psutil.wait_procs([process], timeout=20)
        assert worker.is_running()
    assert not process.is_running()
