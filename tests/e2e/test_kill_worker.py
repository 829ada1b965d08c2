"""A worker that dies in the middle of an analysis costs time, not a result and not a second one."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psutil
import pytest
from nodes import kill, make_chest, make_node, store, wait_for_results, worker_processes
from pydicom import dcmread

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
    """Return how often the newest image was tried."""
    connection = sqlite3.connect(f"file:{node.data_dir / 'node.db'}?mode=ro", uri=True)
    try:
        query = "SELECT attempts FROM job WHERE kind = 'analyse' ORDER BY id DESC LIMIT 1"
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


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoragePacs]:
    with closing(StoragePacs(tmp_path_factory.mktemp("pacs"))) as made:
        yield made


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, pacs: StoragePacs) -> Iterator[NodeProcess]:
    """One node: each test finds it as the death before left it."""
    folder = tmp_path_factory.mktemp("kill") / "node"
    with running(make_node(folder, pacs.address, DICOM_NODE_WORKER__LEASE_SECONDS="3")) as made:
        yield made
        assert made.stop() == 0


@pytest.mark.parametrize("murder", [_kill_pool, _kill_all])
def test_one_seg_and_one_sr_after_kill_9_in_mid_analysis(
    murder: Callable[[NodeProcess], list[psutil.Process]],
    node: NodeProcess,
    pacs: StoragePacs,
    tmp_path: Path,
) -> None:
    image = make_chest(tmp_path / "chest.dcm")
    uid = dcmread(image).StudyInstanceUID
    before, received = len(node.results()), pacs.received
    assert store(node.dicom_port, image) == [0x0000]
    _wait_for_lease(node)
    killed = murder(node)
    assert killed
    assert not any(each.is_running() for each in killed)
    results = wait_for_results(node, before + 1)
    assert {result.status for result in results} == {"analysed"}
    assert _attempts(node) > 1, "the kill came too late to interrupt anything"
    assert node.run("ledger").returncode == 0
    ours = [each for each in pacs.objects() if each.study_instance_uid == uid]
    assert sorted(each.sop_class_uid for each in ours) == sorted([SEG, COMPREHENSIVE_3D_SR])
    assert pacs.received - received == 2
