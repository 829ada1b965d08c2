"""Hosts on one machine, each with network, disk, name and processes of its own, on one switch.

    with Network(tmp_path) as network:
        worker = network.host("worker-b")        # 198.18.N.2, a disk of its own at network.disk
        worker.start("worker", [...], {...}, log)
        with worker.unplugged():
            ...                                  # its cable is out
        worker.power_off()                       # all its processes and its disk are gone

A host is a process in namespaces of its own. Everything else on the machine is there to be read
only, so that nothing which one host writes can be seen by another. Hosts reach the machine that
runs the tests, at `network.address`, and not each other, unless a host is made `for_all`.

The process of a host ends when its standard input does, which is a pipe of this process. So also
after a kill -9 of the tests the kernel ends the hosts, and with them cables, disks and switch.
"""

import os
import random
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

import psutil
from fault_nodes import Role
from servers import find_program, wait_until

_SUBNETS: Final = range(512)  # of 198.18.0.0/15, which is for tests of networks (RFC 2544)
_DISK_MEGABYTES: Final = 1024
_POWER_ON: Final = """
set -eu
echo "$1" >/proc/sys/kernel/hostname
ip link set lo up
while read -r _ where type _; do
  case $type in
    proc | sysfs | cgroup* | devpts | devtmpfs | mqueue) ;;
    *) mount -o remount,bind,ro "$where" 2>/dev/null || true ;;
  esac
done </proc/self/mounts
mount -t tmpfs -o mode=1777 memory /dev/shm
mount -t tmpfs -o mode=0700,size="$3"m disk "$2"
mkdir "$2/tmp" "$2/home"
echo on
read -r _ || true
"""


class NoHostsError(RuntimeError):
    """This user, or this machine, cannot make hosts; the sentence says what is missing."""


class HostRole(Role):
    """A process of the product on a host; what is waited for is the `nsenter` that started it."""

    def ask_to_end(self) -> None:
        """SIGTERM to the process itself."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                child.terminate()


class Host:
    """One host. It is on from the start, and can be switched off once."""

    def __init__(self, name: str, disk: Path) -> None:
        self.name, self.disk = name, disk
        self._roles: list[HostRole] = []
        self.address = self._port = ""
        self._switch: Host | None = None
        command = ["unshare", "--mount", "--net", "--uts", "--ipc", "--pid", "--fork"]
        command += ["--kill-child", "--mount-proc", "sh", "-c", _POWER_ON, "init"]
        self._init = subprocess.Popen(
            [*command, name, str(disk), str(_DISK_MEGABYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._init.stdout is not None
        if self._init.stdout.readline() != "on\n":
            _, said = self._init.communicate()
            msg = f"no namespaces here (root must be able to make them): {said.strip()}"
            raise NoHostsError(msg)
        self.pid = psutil.Process(self._init.pid).children()[0].pid

    def command(self, *words: str) -> list[str]:
        """Return the command that runs `words` on this host, and ends with this process."""
        enter = ["nsenter", "--target", str(self.pid), "-m", "-n", "-u", "-i", "-p"]
        return ["setpriv", "--pdeathsig", "KILL", *enter, *words]

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return it with what a program may write led to the disk of the host."""
        return {**environment, "HOME": str(self.disk / "home"), "TMPDIR": str(self.disk / "tmp")}

    def run(self, *words: str) -> str:
        """Run a command on this host; return what it printed. Raises CalledProcessError."""
        return subprocess.run(
            self.command(*words), check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def call(self, *words: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command of the product on this host, whatever becomes of it."""
        return subprocess.run(
            self.command(*words),
            env=self.environment(environment),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def start(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path
    ) -> HostRole:
        """Start a process of the product; its log is written outside of the host."""
        role = HostRole(name, self.command(*command), self.environment(environment), log)
        self._roles.append(role)
        return role

    def outside(self, path: Path) -> Path:
        """Return the path by which the tests reach a file on the disk of a running host."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")

    def join(self, switch: "Host", address: str, port: str, *, alone: bool) -> None:
        """Lay a cable to a port of the switch; `alone`: it leads to no other host."""
        ends = ["eth0", "netns", str(self.pid), "type", "veth", "peer", "name", port]
        _ip("link", "add", *ends, "netns", str(switch.pid))
        self.run("ip", "addr", "add", f"{address}/24", "dev", "eth0")
        self.run("ip", "link", "set", "eth0", "up")
        self.address, self._port, self._switch = address, port, switch
        switch.run("ip", "link", "set", port, "master", "switch")
        bridged = ["type", "bridge_slave", "isolated", "on" if alone else "off"]
        switch.run("ip", "link", "set", port, *bridged)
        switch.run("ip", "link", "set", port, "up")

    def unplug(self) -> None:
        """Take the cable out: no packet comes or goes, and no connection ends."""
        self._set_cable("down")

    def plug(self) -> None:
        """Put the cable back."""
        self._set_cable("up")

    def _set_cable(self, state: str) -> None:
        assert self._switch is not None
        self._switch.run("ip", "link", "set", self._port, state)

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Have the cable out for a block."""
        self.unplug()
        try:
            yield
        finally:
            self.plug()

    def processes(self) -> list[psutil.Process]:
        """Return everything that runs on this host, its first process left out."""
        mine = os.readlink(f"/proc/{self.pid}/ns/pid")  # noqa: PTH115  no file, a name
        return [
            process
            for process in psutil.process_iter()
            if process.pid != self.pid and _namespace(process.pid) == mine
        ]

    def freeze(self) -> None:
        """Stop every process as it is (SIGSTOP), and wait until they have stopped."""
        running = self.processes()
        for each in running:
            each.suspend()
        wait_until(lambda: all(map(_has_stopped, running)), 30, f"{self.name} frozen", every=0.01)

    def thaw(self) -> None:
        for each in self.processes():
            each.resume()
        self._thaw_entrances()

    def _thaw_entrances(self) -> None:
        """Have every `nsenter` go on, which stops itself where the process behind it is stopped."""
        for role in self._roles:
            if role.is_running():
                os.kill(role.pid, signal.SIGCONT)

    @property
    def is_on(self) -> bool:
        return self._init.poll() is None

    def _is_off(self) -> bool:
        self._thaw_entrances()  # until then nobody knows of the deaths behind them
        return not self.is_on

    def power_off(self) -> None:
        """Pull the plug: every process is killed at once, the disk and the network card go."""
        if self.is_on:
            os.kill(self.pid, signal.SIGKILL)
        wait_until(self._is_off, 60, f"{self.name} off")
        self._init.communicate()


class Network:
    """A switch, a cable from it to this machine, and the hosts on it."""

    def __init__(self, folder: Path) -> None:
        self.disk = folder / "disk"  # of every host its own, at the same place
        self.disk.mkdir(parents=True)
        self._numbers = iter(range(2, 250))
        self.hosts: list[Host] = []
        self._switch: Host | None = None
        self._subnet = ""

    @property
    def address(self) -> str:
        """Where hosts reach this machine."""
        return f"{self._subnet}.1"

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            msg = "hosts on one machine want root"
            raise NoHostsError(msg)
        if absent := [
            each for each in ("ip", "unshare", "nsenter", "setpriv") if not find_program(each)
        ]:
            msg = f"{absent[0]} is not installed"
            raise NoHostsError(msg)
        self._switch = Host("switch", self.disk)
        try:
            self._switch.run("ip", "link", "add", "switch", "type", "bridge")
            self._switch.run("ip", "link", "set", "switch", "up")
            self._join_this_machine(self._switch)
        except BaseException:
            self._switch.power_off()
            raise
        return self

    def _join_this_machine(self, switch: Host) -> None:
        """Claim a subnet by the name of our end of the cable, which exists once."""
        for number in random.sample(_SUBNETS, k=len(_SUBNETS)):
            card = f"hosts{number}"
            far = ["type", "veth", "peer", "name", "uplink", "netns", str(switch.pid)]
            try:
                _ip("link", "add", card, *far)
            except subprocess.CalledProcessError as error:
                if "exists" in error.stderr:
                    continue
                msg = f"no virtual cables here: {error.stderr.strip()}"
                raise NoHostsError(msg) from error
            self._subnet = f"198.{18 + number // 256}.{number % 256}"
            _ip("addr", "add", f"{self.address}/24", "dev", card)
            _ip("link", "set", card, "up")
            switch.run("ip", "link", "set", "uplink", "master", "switch")
            switch.run("ip", "link", "set", "uplink", "up")
            return
        msg = "every subnet for hosts is taken"
        raise NoHostsError(msg)

    def host(self, name: str, *, for_all: bool = False) -> Host:
        """Switch a host on; `for_all`: the other hosts reach it too.

        A name may come again when the one that had it is off: another address, an empty disk.
        """
        assert self._switch is not None
        number, host = next(self._numbers), Host(name, self.disk)
        self.hosts.append(host)
        host.join(self._switch, f"{self._subnet}.{number}", f"port{number}", alone=not for_all)
        return host

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:  # each of them, whatever becomes of the others
            for host in [self._switch, *self.hosts]:
                if host is not None:
                    stack.callback(host.power_off)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=60)


def _namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115  no file, a name
    except OSError:
        return ""  # it has just ended


def _has_stopped(process: psutil.Process) -> bool:
    try:
        return bool(process.status() in {psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE})
    except psutil.NoSuchProcess:
        return True
