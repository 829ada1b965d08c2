"""Memory and open files of the node's processes on this host, by role and program."""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from models.running import running

log = logging.getLogger(__name__)

_DECODER: Final = "worker.decode"


@dataclass
class Group:
    """The processes of one role that run the same program, together."""

    processes: int = 0
    memory_bytes: int = 0
    open_files: int = 0
    open_files_share: float = 0.0  # of the one that is nearest to its limit

    def add(self, process: psutil.Process) -> None:
        """Count one process. Raises psutil.Error when it is gone, or not ours."""
        with process.oneshot():
            memory, files = process.memory_info().rss, process.num_fds()
        limit, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        self.processes += 1
        self.memory_bytes += memory
        self.open_files += files
        if limit > 0:
            self.open_files_share = max(self.open_files_share, files / limit)


def groups(data_dir: Path) -> dict[tuple[str, str], Group]:
    """Return role and program of every process that the node has here, and what they hold.

    A process that registered gives the role to what it started: the children of a listener, the
    pool of a worker and its decoder, the embedded broker of `up`.
    """
    roles = {each.pid: each.role for each in running(data_dir)}
    found: dict[tuple[str, str], Group] = defaultdict(Group)
    for pid, role in _family(roles):
        try:
            process = psutil.Process(pid)
            key = role, "main" if pid in roles else _program(process)
            found[key].add(process)
        except psutil.Error as error:
            log.debug("a process is left out: %s", type(error).__name__)
    return dict(found)


def _family(roles: Mapping[int, str]) -> Iterator[tuple[int, str]]:
    """Yield every process that is registered, or below one that is, with the role of that."""
    if not roles:
        return
    parents = {each.pid: each.info["ppid"] for each in psutil.process_iter(["ppid"])}
    for pid in parents:
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in roles:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            yield pid, roles[ancestor]


def _program(process: psutil.Process) -> str:
    """Name a process by what it does. A fork has the command line of its parent."""
    words = process.cmdline()
    if _DECODER in words:
        return "decoder"
    parent = process.parent()
    if parent is not None and parent.cmdline() == words:
        return "fork"
    return "worker" if "--unwatched" in words else Path(words[0]).name if words else "gone"
