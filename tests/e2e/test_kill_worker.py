"""A worker that dies in the middle of an analysis costs time, not a result and not a second one."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from nodes import kill, make_node, make_phantoms, store, wait_for_results, worker_processes

from dicom_node.demo.node import NodeProcess, running
from dicom_node.demo.pacs import StoragePacs
from dicom_node.demo.run import COMPREHENSIVE_3D_SR, SEG

pytestmark = [pytest.mark.e2e, pytest.mark.faults, pytest.mark.timeout(400)]


def _wait_for_lease(node: NodeProcess) -> None:
    """Return as soon as an analyse job is leased."""
    deadline = time.monotonic() + 60
    connection = sqlite3.connect(f"file:{node.data_dir / 'node.db'}?mode=ro", uri=True)
    query = "SELECT count(*) FROM job WHERE kind = 'analyse' AND state = 'leased'"
    try:
        while connection.execute(query).fetchone()[0] == 0:
            assert time.monotonic() < deadline, "no job was leased"
            time.sleep(0.002)
    finally:
        connection.close()


def _attempts(node: NodeProcess) -> int:
    connection = sqlite3.connect(f"file:{node.data_dir / 'node.db'}?mode=ro", uri=True)
    try:
        query = "SELECT max(attempts) FROM job WHERE kind = 'analyse'"
        return int(connection.execute(query).fetchone()[0])
    finally:
        connection.close()


def _kill_pool(node: NodeProcess) -> list[psutil.Process]:
    """Kill the process that computes; its parent lives."""
    _, pool = worker_processes(node)
    for process in pool:
        kill(process)
    return pool


def _kill_all(node: NodeProcess) -> list[psutil.Process]:
    """Kill the worker with everything below it."""
    parent, pool = worker_processes(node)
    kill(parent)
    for process in pool:
        kill(process)
    return [parent, *pool]


@pytest.mark.parametrize("murder", [_kill_pool, _kill_all])
def test_one_seg_and_one_sr_after_kill_9_in_mid_analysis(
    murder: Callable[[NodeProcess], list[psutil.Process]], tmp_path: Path, storage_scp: StoragePacs
) -> None:
    image = next(
        path for path in make_phantoms(tmp_path / "in") if path.name == "dx-ap-explicit.dcm"
    )
    with running(make_node(tmp_path / "node", storage_scp.address)) as node:
        assert store(node.dicom_port, image) == [0x0000]
        _wait_for_lease(node)
        killed = murder(node)
        assert killed
        assert not any(each.is_running() for each in killed)
        [result] = wait_for_results(node, 1)
        assert result.status == "analysed"
        assert _attempts(node) > 1, "the kill came too late to interrupt anything"
        assert node.run("ledger").returncode == 0
        assert node.stop() == 0
    classes = sorted(each.sop_class_uid for each in storage_scp.objects())
    assert classes == sorted([SEG, COMPREHENSIVE_3D_SR])
    assert storage_scp.received == 2
