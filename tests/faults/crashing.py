"""Crash points: a process of the product kills itself with SIGKILL at a named step of a C-STORE.

They are put around what every implementation must call (fsync, rename, COMMIT, send), from the
outside: `injected/sitecustomize.py` installs them in processes that have FAULTS_CRASH_FOLDER, and
nothing happens until a test writes the name of a point into `armed` in that folder.
"""

import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn

VARIABLE: Final = "FAULTS_CRASH_FOLDER"
INJECTED: Final = Path(__file__).resolve().parent / "injected"

# In the order of the steps. A point is before or after the call that its sentence names.
POINTS: Final = {
    "before_rename": "data set complete, before the rename to the final name",
    "renamed": "after it",
    "before_file_sync": "before the fsync of the received file",
    "file_synced": "after it",
    "directory_synced": "after the fsync of the directory that got the name",
    "before_commit": "inside the transaction, rows inserted, before COMMIT",
    "committed": "after it",
    "before_response": "before the C-STORE-RSP is handed to the socket",
    "responded": "after it",
}

_SPOOL: Final = "/spool/"
_P_DATA_TF: Final = 0x04  # PS3.8 9.3.1, PDU-type
# (0000,0100) Command Field, 2 bytes, C-STORE-RSP: PS3.7 E.1-1, Implicit VR Little Endian
_STORE_RSP: Final = bytes((0, 0, 0, 1, 2, 0, 0, 0, 1, 0x80))


class Armed:
    """The test's side: arm a point, and read afterwards that it was reached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.environment = {VARIABLE: str(folder), "PYTHONPATH": _with(INJECTED)}

    def arm(self, point: str) -> None:
        """The next process that reaches the point kills itself there."""
        assert point in POINTS
        (self._folder / point).unlink(missing_ok=True)
        (self._folder / "armed").write_text(point)

    def victim(self, point: str) -> int | None:
        """Return the process that killed itself at the point; None: nobody reached it."""
        path = self._folder / point
        return int(path.read_text()) if path.exists() else None


def _with(folder: Path) -> str:
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))


class _Points:
    """The product's side: what is wrapped, and what each thread is in the middle of."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._renamed: set[str] = set()  # directories that got a name
        self._inserting: set[int] = set()  # threads with a new instance in their transaction

    def _reach(self, point: str) -> None:
        armed = self._folder / "armed"
        try:
            if armed.read_text() != point:
                return
            armed.unlink()
        except FileNotFoundError:
            return
        self._die(point)

    def _die(self, point: str) -> NoReturn:
        (self._folder / point).write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError(point)

    def install(self) -> None:
        for name in ("fsync", "fdatasync"):
            self._wrap(os, name, self._is_file, "before_file_sync", "file_synced")
            self._wrap(os, name, self._is_new_name, None, "directory_synced")
        for name in ("rename", "replace", "link"):
            self._wrap(os, name, self._is_adopted, "before_rename", "renamed")
        for name in ("send", "sendall", "sendmsg"):
            self._wrap(socket.socket, name, _is_response, "before_response", "responded")
        self._install_commit()

    def _wrap(
        self,
        owner: Any,
        name: str,
        is_meant: Callable[..., bool],
        before: str | None,
        after: str,
    ) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            meant = is_meant(*args)
            if meant and before is not None:
                self._reach(before)
            result = original(*args, **options)
            if meant:
                self._reach(after)
            return result

        setattr(owner, name, wrapped)

    def _is_file(self, descriptor: Any, *_: Any) -> bool:
        return _SPOOL in _path(descriptor) and stat.S_ISREG(os.fstat(descriptor).st_mode)

    def _is_new_name(self, descriptor: Any, *_: Any) -> bool:
        return _path(descriptor) in self._renamed

    def _is_adopted(self, source: Any, target: Any, *_: Any) -> bool:
        if _SPOOL not in str(target) or not str(target).endswith(".dcm"):
            return False
        self._renamed.add(str(Path(target).parent))
        return bool(source)

    def _install_commit(self) -> None:
        from sqlalchemy import Engine, event  # noqa: PLC0415  only in processes of the product
        from sqlalchemy.engine.default import DefaultDialect  # noqa: PLC0415  the same

        from models.prepared import Prepared  # noqa: PLC0415  the same

        @event.listens_for(Engine, "before_cursor_execute")
        def _note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if statement.startswith("INSERT INTO instance "):
                self._inserting.add(threading.get_ident())

        run = Prepared._run

        def note_and_run(prepared: Prepared, connection: Any, values: Any) -> Any:
            _note(connection, None, prepared._text)
            return run(prepared, connection, values)

        Prepared._run = note_and_run  # type: ignore[method-assign]  # statements without events

        def is_meant(*_: Any) -> bool:
            found = threading.get_ident() in self._inserting
            self._inserting.discard(threading.get_ident())
            return found

        self._wrap(DefaultDialect, "do_commit", is_meant, "before_commit", "committed")


def _path(descriptor: Any) -> str:
    try:
        return str(Path(f"/proc/self/fd/{int(descriptor)}").readlink())
    except (OSError, TypeError, ValueError):
        return ""


def _is_response(_socket: Any, data: Any, *_: Any) -> bool:
    parts = data if isinstance(data, list | tuple) else [data]
    text = b"".join(bytes(part) for part in parts)
    return text[:1] == bytes([_P_DATA_TF]) and _STORE_RSP in text


def install() -> None:
    """Put the points into this process, if its environment names a folder."""
    if folder := os.environ.get(VARIABLE):
        _Points(Path(folder)).install()
