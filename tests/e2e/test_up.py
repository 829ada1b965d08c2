"""`dicom-node up`: ready when it says so, restarts what dies, leaves nothing behind."""

import http.client
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from nodes import kill, make_node, worker_processes
from pynetdicom import AE
from pynetdicom.sop_class import Verification
from servers import wait_until

from dicom_node.demo.node import NodeProcess, NodeProcessError
from dicom_node.demo.pacs import free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def _health(node: NodeProcess) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", node.web_port, timeout=10)
    try:
        connection.request("GET", "/api/v1/health")
        return connection.getresponse().status
    finally:
        connection.close()


def _echo(node: NodeProcess) -> int | None:
    ae = AE("TESTSCU")
    ae.add_requested_context(Verification)
    assoc = ae.associate("127.0.0.1", node.dicom_port, ae_title="NODE")
    if not assoc.is_established:
        return None
    status = assoc.send_c_echo().get("Status")
    assoc.release()
    return status


@pytest.fixture(scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    process = make_node(tmp_path_factory.mktemp("up") / "node")
    try:
        yield process
    finally:
        process.stop()


@pytest.fixture
def node(_node: NodeProcess) -> NodeProcess:
    """A node that is up: that of the test before, unless it has ended it."""
    if not _node.is_running():
        _node.start()
    return _node


def test_ready_means_dicom_and_health_answer(node: NodeProcess) -> None:
    assert _echo(node) == 0x0000
    assert _health(node) == 200
    assert "models loaded" in node.stderr.read_text()  # no first image waits for a network
    assert f":{node.web_port}/invitations/" in node.stderr.read_text()  # nobody has an account yet
    assert node.run("ledger", "--repair").returncode == 0


def test_a_taken_port_is_said_and_ends_the_node(node: NodeProcess, tmp_path: Path) -> None:
    """The first node answers the second one's C-ECHO: that must not make the second `ready`."""
    second = NodeProcess(tmp_path / "second", dicom_port=node.dicom_port, web_port=free_ports(1)[0])
    try:
        with pytest.raises(NodeProcessError, match="ended with 1"):
            second.start(60)
    finally:
        second.stop()
    said = second.stderr.read_text()
    assert f"cannot listen on 0.0.0.0:{node.dicom_port}" in said
    assert "--dicom-port" in said
    assert "Traceback" not in said


def test_sigterm_ends_with_0_and_leaves_no_process(node: NodeProcess) -> None:
    family = psutil.Process(node.pid).children(recursive=True)
    assert len(family) >= 5  # redis, listener, dispatch, delivery, web, worker and its pool
    assert node.stop() == 0
    assert [each for each in family if each.is_running()] == []
    assert node.stdout.read_text() == "ready\n"
    _require_sealed_life(node)


def _require_sealed_life(node: NodeProcess) -> None:
    """The audit has every role's start and end, nothing waits for a seal, and nobody changed it."""
    listed = node.run("audit", "--json").stdout.splitlines()
    ended = [json.loads(line) for line in listed if "application_stopped" in line]
    roles = {"listen", "dispatch", "deliver", "web", "worker"}
    assert {each["outcome"] for each in ended} == roles
    assert all(each["seal"] for each in ended)
    proof = node.run("audit", "verify")
    assert proof.returncode == 0, proof.stdout


@pytest.mark.faults
def test_every_child_is_started_again_after_kill_9(node: NodeProcess) -> None:
    before = psutil.Process(node.pid).children()
    for child in before:
        kill(child)

    def whole_again() -> bool:
        now = psutil.Process(node.pid).children()
        # pynetdicom leaks its socket when nobody listens, so the echo comes last.
        return len(now) == len(before) and _is_healthy(node) and _echo(node) == 0x0000

    wait_until(whole_again, 120, "every child back", every=1.0)
    wait_until(lambda: worker_processes(node)[1] != [], 60, "the worker's pool")
    assert worker_processes(node)[0] not in before


def _is_healthy(node: NodeProcess) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", node.dicom_port), 1):
            return _health(node) == 200
    except OSError:
        return False


def test_sigint_is_as_clean_as_sigterm(node: NodeProcess) -> None:
    family = psutil.Process(node.pid).children(recursive=True)
    psutil.Process(node.pid).send_signal(signal.SIGINT)
    wait_until(lambda: not node.is_running(), 90, "end after SIGINT")
    assert node.stop() == 0
    assert [each for each in family if each.is_running()] == []
