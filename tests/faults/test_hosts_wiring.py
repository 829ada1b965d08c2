"""m. The hosts of the tests are as far apart as hosts are: disk, network, name, processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from absent import missing
from hosts_wiring import Host, Network, NoHostsError
from servers import wait_until

pytestmark = pytest.mark.faults

_ONE_HOST = """
import sys
from pathlib import Path
from hosts_wiring import Network
from servers import wait_until
with Network(Path(sys.argv[1])) as network:
    host = network.host("lonely")
    host.start("sleep", ["sleep", "1000"], {"PATH": "/usr/bin:/bin"}, Path(sys.argv[1]) / "log")
    wait_until(lambda: any(each.name() == "sleep" for each in host.processes()), 30, "a process")
    host.freeze()
    print(network.address, host.pid, *(each.pid for each in host.processes()), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    try:
        with Network(tmp_path_factory.mktemp("network")) as made:
            yield made
    except NoHostsError as error:
        missing(str(error))


@pytest.fixture
def pair(network: Network) -> Iterator[tuple[Host, Host]]:
    two = network.host("host-a"), network.host("host-b")
    yield two
    for each in two:
        each.power_off()


def _reaches(host: Host, address: str) -> bool:
    command = host.command("timeout", "5", "bash", "-c", f": </dev/tcp/{address}/9")
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return "refused" in answer.stderr  # somebody is there and has no such port


def test_a_file_of_one_host_is_seen_by_no_other(network: Network, pair: tuple[Host, Host]) -> None:
    one, other = pair
    path = network.disk / "file"
    one.run("sh", "-c", f"echo mine >{path}")
    assert one.run("cat", str(path)) == "mine\n"
    assert one.outside(path).read_text() == "mine\n"
    assert not other.outside(path).exists()
    assert not path.exists(), "the disk of the host is a folder of this machine"
    devices = {os.stat(each.outside(network.disk)).st_dev for each in pair}  # noqa: PTH116  a link
    assert len(devices) == 2


@pytest.mark.parametrize("folder", [Path(__file__).parent, Path("/var/tmp"), Path("/run")])  # noqa: S108  must be refused
def test_a_host_writes_nowhere_but_on_its_disk(folder: Path, pair: tuple[Host, Host]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        pair[0].run("touch", str(folder / "written-by-a-host"))
    assert "Read-only" in refused.value.stderr


def test_hosts_reach_this_machine_and_not_each_other(
    network: Network, pair: tuple[Host, Host]
) -> None:
    assert _reaches(pair[0], network.address)
    assert not _reaches(pair[0], pair[1].address)
    shared = network.host("shared", for_all=True)
    assert _reaches(pair[0], shared.address)
    with pair[0].unplugged():
        assert not _reaches(pair[0], network.address)
        assert _reaches(pair[1], network.address)
    wait_until(lambda: _reaches(pair[0], network.address), 30, "the cable is back")
    shared.power_off()


def test_hosts_have_names_and_processes_of_their_own(pair: tuple[Host, Host]) -> None:
    assert [each.run("hostname").strip() for each in pair] == ["host-a", "host-b"]
    assert pair[0].run("sh", "-c", "echo /proc/[0-9]*").split()[0] == "/proc/1"
    assert len(pair[0].run("sh", "-c", "echo /proc/[0-9]*").split()) < 10


def test_a_host_without_power_leaves_nothing(
    network: Network, pair: tuple[Host, Host], tmp_path: Path
) -> None:
    host = pair[0]
    host.run("touch", str(network.disk / "file"))
    role = host.start("sleep", ["sleep", "1000"], os.environ, tmp_path / "log")
    wait_until(lambda: len(host.processes()) > 0, 30, "a process")
    known = host.processes()
    host.freeze()
    host.power_off()
    assert role.process.wait(30) == -signal.SIGKILL
    assert not any(each.is_running() for each in known)
    again = network.host("host-a")
    assert not again.outside(network.disk / "file").exists()
    again.power_off()


@pytest.mark.usefixtures("network")
def test_nothing_is_left_when_the_tests_are_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _ONE_HOST, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as tests:
        assert tests.stdout is not None
        address, *pids = tests.stdout.readline().split()
        family = [psutil.Process(int(pid)) for pid in pids]
        assert len(family) > 1
        assert _has_address(address)
        tests.kill()
    wait_until(lambda: not any(each.is_running() for each in family), 30, "the host is gone")
    wait_until(lambda: not _has_address(address), 30, "the cable is gone")


def _has_address(address: str) -> bool:
    return any(each.address == address for card in psutil.net_if_addrs().values() for each in card)
