"""The one place that adjusts pynetdicom: what a C-STORE brings goes straight to the spool.

With `STORE_RECV_CHUNKED_DATASET` pynetdicom 3.0 writes each data set to a `NamedTemporaryFile` in
the default temporary folder. Two things about that are unfit for a node that must not lose
anything: the folder may be on another file system (no atomic rename), and a write that fails
(disk full) ends the association without a status and leaks the file. `install` gives pynetdicom's
message decoder a file class of ours instead.

pynetdicom 3.0 also chooses the service by the SOP Class that a command names, not by the operation:
a C-STORE of a class that it does not know ends the association without a status, and one that names
the Verification SOP Class is answered by a C-ECHO response with success. Its one setting for that,
`UNRESTRICTED_STORAGE_SERVICE`, would accept every storage context and make our table of contexts
void. So `install` makes every C-STORE an operation of the Storage Service Class, and the handler
judges its SOP Class.

Its idle timer knows only what a peer sends: a peer that waited for a slow C-MOVE longer than the
network time-out would be aborted right after the final response. So the timer starts anew when a
request has been served.

test_listener.py, test_frozen_peers.py and test_refused_stores.py in tests/integration notice when a
new pynetdicom no longer uses these.
"""

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pydicom.config
import pynetdicom.association
import pynetdicom.dimse_messages
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

from dicom_node.errors import NotUnderstoodError, SpoolFullError
from dicom_node.spool import Spool

Serve = Callable[[Association, C_FIND | C_GET | C_MOVE, PresentationContext], None]

_META_END = 144  # preamble 128, "DICM" 4, (0002,0000) UL 12: what its value counts starts here
_META_LENGTH = slice(140, 144)


class ReceivedFile:
    """A temporary file that never raises while receiving.

    After a failed write it drains: bytes are dropped, the association lives on, and the C-STORE
    handler finds the error and answers 0xA700.
    """

    def __init__(self, folder: Path) -> None:
        self.error: OSError | None = None
        self.size = 0
        self.owner = threading.current_thread()
        self._descriptor = -1
        self.name = str(folder / "unopened")
        try:
            self._descriptor, self.name = tempfile.mkstemp(".part", dir=folder)
        except OSError as error:
            self.error = error

    @property
    def file(self) -> "ReceivedFile":
        """Pynetdicom flushes through the `file` attribute of a NamedTemporaryFile."""
        return self

    def write(self, data: bytes) -> int:
        """Append `data`, or drop it after an earlier failure."""
        if self.error is None:
            view = memoryview(data)
            try:
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError as error:
                self.error = error
                self.discard()
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""

    def sync(self) -> None:
        """Make the bytes durable. Raises SpoolFullError when any of them could not be written."""
        if self.error is None:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self.error = error
        if self.error is not None:
            self.discard()
            msg = f"the spool's disk refused the data set: {self.error.strerror}"
            raise SpoolFullError(msg) from self.error
        self.close()

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def discard(self) -> None:
        """Close and remove the file."""
        self.close()
        with contextlib.suppress(OSError):
            Path(self.name).unlink(missing_ok=True)


class Reception:
    """The files being received in this process, by path."""

    def __init__(self, spool: Spool) -> None:
        self._folder = spool.incoming
        self._files: dict[str, ReceivedFile] = {}
        self._lock = threading.Lock()

    def install(self, services: Mapping[str, Serve] = MappingProxyType({})) -> None:
        """Make pynetdicom receive into the spool, from now on, in this process.

        `services` answer C-FIND, C-MOVE and C-GET instead of pynetdicom, by abstract syntax.

        pydicom's value checks are off in this process: they would refuse, or quote in a log, what
        a peer sent; what intake needs of it, `header.read_identity` checks by its own rules.
        """
        pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
        pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
        _config.STORE_RECV_CHUNKED_DATASET = True
        vars(pynetdicom.dimse_messages)["NamedTemporaryFile"] = self._open
        vars(pynetdicom.association)["uid_to_service_class"] = partial(_service_of, services)

    def _open(self, *_args: Any, **_kwargs: Any) -> ReceivedFile:  # noqa: ANN401  NamedTemporaryFile's
        received = ReceivedFile(self._folder)
        with self._lock:
            # A command that pynetdicom cannot read ends its thread without any event.
            ended = {file.owner for file in self._files.values() if not file.owner.is_alive()}
            self._files[received.name] = received
        for owner in ended:
            self.forget(owner)
        return received

    def take(self, path: Path | None) -> ReceivedFile:
        """Hand over the complete file behind a C-STORE event; the caller disposes of it.

        Raises NotUnderstoodError when the command came without a data set, which is mandatory
        (PS3.7 9.1.1.1).
        """
        if path is None:
            msg = "the C-STORE command has no data set"
            raise NotUnderstoodError(msg)
        with self._lock:
            return self._files.pop(str(path))

    def forget(self, owner: threading.Thread) -> int:
        """Remove what the given association thread left half received; return how many files."""
        with self._lock:
            left = [key for key, file in self._files.items() if file.owner is owner]
            files = [self._files.pop(key) for key in left]
        for file in files:
            file.discard()
        return len(files)

    def __len__(self) -> int:
        """Return how many files are being received or wait for their handler."""
        return len(self._files)


@dataclass(frozen=True)
class _Service:
    """What serves a request on an association: for C-STORE storage, else as the SOP Class says."""

    services: Mapping[str, Serve]
    uid: str
    assoc: Association

    def SCP(self, request: object, context: PresentationContext) -> None:  # noqa: N802  pynetdicom's
        """Serve one request (PS3.7 9.1.1: C-STORE is the operation of storage alone)."""
        try:
            self._serve(request, context)
        finally:
            self.assoc.dul._idle_timer.restart()  # noqa: SLF001  no public name

    def _serve(self, request: object, context: PresentationContext) -> None:
        serve = self.services.get(str(context.abstract_syntax))
        if serve is not None and isinstance(request, C_FIND | C_GET | C_MOVE):
            serve(self.assoc, request, context)
            return
        is_store = isinstance(request, C_STORE)
        service = StorageServiceClass if is_store else uid_to_service_class(self.uid)
        service(self.assoc).SCP(request, context)


def _service_of(services: Mapping[str, Serve], uid: str) -> Callable[[Association], _Service]:
    return partial(_Service, services, uid)


def data_set_offset(path: Path) -> int:
    """Return where the data set starts in a Part 10 file that `Reception` wrote (PS3.10 7.1)."""
    with path.open("rb") as file:
        head = file.read(_META_END)
    return _META_END + int.from_bytes(head[_META_LENGTH], "little")
