"""The receiving side of the demo: a PACS that really stores, and can be asked what it holds."""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

from pydicom import dcmread
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import

from models.files import atomic_write, new_key

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_SYSTEM_FOLDERS = "/usr/sbin:/usr/local/sbin"  # Debian's place for it, not on every user's PATH
_SUCCESS, _OUT_OF_RESOURCES = 0x0000, 0xA700  # PS3.4 B.2.3


@dataclass(frozen=True)
class StoredObject:
    """One object that the PACS holds; `key` is the PACS's own name for it."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    key: str


class Pacs(Protocol):
    """What the demo asks of a PACS."""

    @property
    def name(self) -> str:
        """The product, for people."""
        ...

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        ...

    def objects(self) -> list[StoredObject]:
        """Return everything the PACS holds now."""
        ...

    def fetch(self, key: str) -> bytes:
        """Return one object as a DICOM file."""
        ...

    def close(self) -> None:
        """Stop it. Stored objects stay on disk."""
        ...


class StoragePacs:
    """A storage SCP that writes every object to a file of its own and accepts every class.

    An object that comes twice is answered with success and kept once, as Orthanc does.
    """

    name = "our own storage SCP"

    def __init__(self, folder: Path, ae_title: str = "DEMOPACS", port: int = 0) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._stored: dict[str, StoredObject] = {}
        self.ae_title = ae_title
        self.received = 0
        ae = AE(ae_title)
        ae.maximum_associations = 100
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax))
        self._ae = ae
        server = ae.start_server(
            ("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        if server is None:
            msg = "the storage SCP did not start"
            raise RuntimeError(msg)
        self.port = int(server.server_address[1])

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def _store(self, event: Event) -> int:
        """Answer success once the object is on disk."""
        data = event.encoded_dataset()
        header = dcmread(BytesIO(data), stop_before_pixels=True)
        uid = str(header.SOPInstanceUID)
        with self._lock:
            self.received += 1
            if uid in self._stored:
                return _SUCCESS
            key = new_key(".dcm")
            try:
                atomic_write(self._folder / key, data)
            except OSError:
                return _OUT_OF_RESOURCES
            self._stored[uid] = StoredObject(
                str(header.SOPClassUID), uid, str(header.StudyInstanceUID), key
            )
        return _SUCCESS

    def objects(self) -> list[StoredObject]:
        """Return everything stored so far, read back from the files."""
        return [self._read(path) for path in sorted(self._folder.glob("*/*.dcm"))]

    def _read(self, path: Path) -> StoredObject:
        header = dcmread(path, stop_before_pixels=True)
        return StoredObject(
            str(header.SOPClassUID),
            str(header.SOPInstanceUID),
            str(header.StudyInstanceUID),
            str(path.relative_to(self._folder)),
        )

    def fetch(self, key: str) -> bytes:
        """Return one object as a DICOM file."""
        return (self._folder / key).read_bytes()

    def close(self) -> None:
        """Stop listening; the files stay."""
        self._ae.shutdown()


class OrthancPacs:
    """A private Orthanc on free ports that accepts everything; asked over its REST interface."""

    name = "Orthanc"

    def __init__(self, program: Path, folder: Path, ae_title: str = "ORTHANC") -> None:
        self._folder = folder
        self.ae_title = ae_title
        self.port, self.http_port = free_ports(2)
        folder.mkdir(parents=True, exist_ok=True)
        self._log = (folder / "orthanc.log").open("ab")
        self._process = subprocess.Popen(  # noqa: S603  the program found on PATH
            [program, self._configure()],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        try:
            self._wait_for_rest()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of Orthanc."""
        return self._process.pid

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def _configure(self) -> Path:
        configuration = self._folder / "orthanc.json"
        storage = str(self._folder / "storage")
        settings = {
            "Name": "dicom-node",
            "StorageDirectory": storage,
            "IndexDirectory": storage,
            "DicomAet": self.ae_title,
            "DicomPort": self.port,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowEcho": True,
            "DicomCheckCalledAet": False,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "OverwriteInstances": False,
            "Plugins": [],
        }
        configuration.write_text(json.dumps(settings, indent=2))
        return configuration

    def _wait_for_rest(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.get("/system")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                msg = f"Orthanc did not start, see {self._log.name}"
                raise RuntimeError(msg)
            time.sleep(0.1)

    def get_bytes(self, path: str) -> bytes:
        """Return the body of GET `path`. Raises OSError unless the answer is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            msg = f"Orthanc answered {answer.status} to {path}"
            raise OSError(msg)
        return body

    def get(self, path: str) -> Any:  # noqa: ANN401  JSON
        """Return the JSON answer to GET `path`."""
        return json.loads(self.get_bytes(path))

    def objects(self) -> list[StoredObject]:
        """Return everything Orthanc holds."""
        return [self._describe(key) for key in self.get("/instances")]

    def _describe(self, key: str) -> StoredObject:
        tags = self.get(f"/instances/{key}/simplified-tags")
        uids = (tags["SOPClassUID"], tags["SOPInstanceUID"], tags["StudyInstanceUID"])
        return StoredObject(*uids, key=key)

    def fetch(self, key: str) -> bytes:
        """Return one object as a DICOM file."""
        return self.get_bytes(f"/instances/{key}/file")

    def close(self) -> None:
        """Stop the process; its storage folder stays."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def find_orthanc() -> Path | None:
    """Find Orthanc on PATH or where Debian puts it."""
    found = shutil.which("Orthanc") or shutil.which("Orthanc", path=_SYSTEM_FOLDERS)
    return Path(found) if found else None


def free_ports(count: int) -> list[int]:
    """Return TCP ports nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextlib.contextmanager
def running_pacs(folder: Path, *, use_orthanc: bool) -> Iterator[Pacs]:
    """Run a PACS for a block: Orthanc where wanted and installed, else our own storage SCP."""
    program = find_orthanc() if use_orthanc else None
    pacs: Pacs = OrthancPacs(program, folder) if program else StoragePacs(folder)
    try:
        yield pacs
    finally:
        pacs.close()
