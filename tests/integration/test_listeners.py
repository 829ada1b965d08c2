"""Several processes on one port: one dies, the others go on; a signal ends them all."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from builders import chest_dataset
from rows import instances, open_database
from senders import associate, store
from servers import free_port, wait_until

from models.session import Database

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as database:
        yield database


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(tmp_path: Path, port: int, database: Database) -> Iterator[Start]:
    """Start `dicom-node listen` with three processes, and wait until it listens."""
    running: list[subprocess.Popen[bytes]] = []

    def _start(**settings: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "DICOM_NODE_DATABASE_URL": database.url.render_as_string(),
            "DICOM_NODE_DICOM__PORT": str(port),
            "DICOM_NODE_DICOM__LISTENERS": "3",
            "DICOM_NODE_DICOM__MIN_FREE_BYTES": "0",
            **settings,
        }
        command = [sys.executable, "-m", "dicom_node", "listen", "--data-dir", str(tmp_path)]
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        running.append(process)
        return process

    yield _start
    for process in running:
        process.kill()
        process.communicate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _children(process: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> list[psutil.Process]:
    """Return the three listeners once each of them has its thread that accepts."""
    wait_until(
        lambda: [child.num_threads() > 1 for child in _children(process)] == [True] * 3,
        60,
        "three listeners",
    )
    assert _answers(port)
    return _children(process)


def test_associations_spread_over_the_processes(
    start: Start, port: int, database: Database
) -> None:
    process = start()
    children = _wait(process, port)
    with (
        associate(port) as one,
        associate(port) as two,
        associate(port) as three,
        associate(port) as four,
    ):
        for number, assoc in enumerate((one, two, three, four)):
            ds = chest_dataset(PatientID="P1", seed=number)
            assert assoc.send_c_store(ds).Status == 0x0000
        served = [
            sum(each.status == "ESTABLISHED" for each in child.net_connections("tcp"))
            for child in children
        ]
    assert sum(served) == 4
    assert sum(number > 0 for number in served) >= 2
    assert len(instances(database)) == 4


def test_one_that_is_killed_is_replaced_and_the_others_go_on(
    start: Start, port: int, database: Database
) -> None:
    process = start()
    children = _wait(process, port)
    children[0].kill()
    for number in range(6):
        assert store(port, chest_dataset(PatientID="P1", seed=number)) == 0x0000
    wait_until(
        lambda: len(_children(process)) == 3 and children[0] not in _children(process),
        30,
        "another listener in the place of the dead one",
    )
    assert len(instances(database)) == 6


def test_a_signal_lets_associations_finish_and_ends_every_process(
    start: Start, port: int, database: Database
) -> None:
    process = start()
    children = _wait(process, port)
    with associate(port) as assoc:
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _answers(port), 10, "the port to close")
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
    assert process.wait(40) == 0
    assert not any(child.is_running() for child in children)
    assert len(instances(database)) == 1


def test_one_that_is_told_to_end_leaves_the_port_to_the_others(
    start: Start, port: int, database: Database
) -> None:
    """An operator ends one that hangs: what it closes is its own, the others listen on."""
    process = start()
    children = _wait(process, port)
    children[0].terminate()
    psutil.wait_procs(children[:1], timeout=30)
    for number in range(3):
        assert store(port, chest_dataset(PatientID="P1", seed=number)) == 0x0000
    wait_until(lambda: len(_children(process)) == 3, 30, "another listener")
    assert len(instances(database)) == 3


def test_when_their_parent_is_killed_they_end_and_free_the_port(start: Start, port: int) -> None:
    process = start()
    children = _wait(process, port)
    process.kill()
    process.wait(10)
    psutil.wait_procs(children, timeout=40)
    assert not any(child.is_running() for child in children)
    _wait(start(), port)


def test_a_port_that_is_taken_ends_the_start_in_words(start: Start, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port))  # noqa: S104  as the node binds
        taken.listen()
        process = start()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert f"cannot listen on 0.0.0.0:{port}" in said.decode()


def test_a_certificate_that_is_not_there_ends_the_start_in_words(
    start: Start, tmp_path: Path
) -> None:
    missing = str(tmp_path / "missing.pem")
    tls = {"PORT": str(free_port()), "CERTIFICATE": missing, "PRIVATE_KEY": missing}
    tls["TRUSTED_CAS"] = missing
    process = start(**{f"DICOM_NODE_DICOM__TLS__{name}": value for name, value in tls.items()})
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "dicom.tls.certificate" in said.decode()


def test_the_limit_of_associations_is_shared(start: Start, port: int) -> None:
    process = start(DICOM_NODE_DICOM__MAX_ASSOCIATIONS="3")
    _wait(process, port)
    with associate(port) as one, associate(port) as two, associate(port) as three:
        assert all(assoc.is_established for assoc in (one, two, three))
        with associate(port) as fourth:
            assert fourth.is_rejected
