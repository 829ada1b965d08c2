"""The schema goes forward and back while objects come in and rows are worked on: nothing is lost.

Forward is for the release before, which goes on during an upgrade and after it. Back is a mistake
for the newer one: it refuses what it cannot record, and the sender keeps it.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from builders import chest_dataset
from flow import Flow, running_flow
from pydicom import dcmread
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from released import RELEASES
from servers import _answers, free_port, wait_until
from sqlalchemy import select, text
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.ledger import compute
from dicom_node.listener import Listener
from dicom_node.mended import MENDED
from dicom_node.receive import data_set_offset
from dicom_node.recovery import recover_orphans
from dicom_node.spool import Spool
from migrations import schema
from models.files import sha256_of
from models.imaging import Instance
from models.session import Database
from models.settings import Settings, load_settings

OUT_OF_RESOURCES = 0xA700
SECONDS = 120.0
MOST = 2000  # images, whatever happens
BEFORE = next(
    each for each in reversed(RELEASES) if each.revision < (schema.newest_revision() or "")
)


class Sender:
    """Sends one small image after the other until it is told to stop, and keeps each answer."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[tuple[FileDataset, int | None]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def of(self, status: int) -> list[FileDataset]:
        """Return the images that were answered so."""
        return [ds for ds, answer in list(self.answers) if answer == status]

    def wait_for_more(self, number: int, status: int = 0) -> None:
        """Wait until so many more were answered like that."""
        wanted = len(self.of(status)) + number
        wait_until(lambda: len(self.of(status)) >= wanted, SECONDS, f"answers {status:#06x}")

    @contextmanager
    def sending(self) -> Iterator["Sender"]:
        """Send while the block runs."""
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            self._thread.join(SECONDS)

    def _run(self) -> None:
        while not self._stop.is_set() and len(self.answers) < MOST:
            ds = _image()
            self.answers.append((ds, self.send(ds)))
            self._stop.wait(0.02)

    def send(self, ds: FileDataset) -> int | None:
        """Return the status; None when there was no answer."""
        ae = AE("LOADSCU")
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        assoc = ae.associate("127.0.0.1", self._port, evt_handlers=[MENDED])
        if not assoc.is_established:
            return None
        status: int | None = assoc.send_c_store(ds).get("Status")
        assoc.release()
        return status


def _image() -> FileDataset:
    """Return an image that a worker refuses quickly: it is too small."""
    uids: dict[str, Any] = {
        name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }
    ds = chest_dataset(pixels=np.zeros((64, 64), dtype=np.uint16), PatientID="LOAD", **uids)
    written = BytesIO()
    ds.save_as(written, enforce_file_format=True)  # its encoding is then that of its meta group
    return dcmread(BytesIO(written.getvalue()))


def _settings(data_dir: Path, url: str, broker_url: str) -> Settings:
    return load_settings(
        None,
        data_dir=data_dir,
        database_url=url,
        broker_url=broker_url,
        dicom={"host": "127.0.0.1", "port": 0, "min_free_bytes": 0},
    )


def _is_kept(database: Database, settings: Settings, images: list[FileDataset]) -> bool:
    """Say whether each image has its row, and the row its bytes."""
    with database.read() as session:
        rows = session.execute(select(Instance.sop_instance_uid, Instance)).all()
    known = dict(rows)
    for image in images:
        row = known[str(image.SOPInstanceUID)]
        path = settings.spool_dir / row.storage_key
        if sha256_of(path, data_set_offset(path)) != row.data_set_sha256:
            return False
    return True


def _is_published(database: Database) -> bool:
    """Say whether every job was handed to the queue."""
    waiting = "SELECT count(*) FROM job WHERE state = 'pending' AND published_at IS NULL"
    with database.read() as session:
        return session.scalar(text(waiting)) == 0


@contextmanager
def _working(flow: Flow) -> Iterator[None]:
    """Do what follows from the rows, again and again, whatever the database says to it."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.05):
            try:
                flow.run()
            except* (SQLAlchemyError, TimeoutError):
                pass  # of one part, or of several

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(SECONDS)


def test_on_an_older_schema_this_release_refuses_and_loses_nothing(
    tmp_path: Path, bare_database_url: str, redis_server: str
) -> None:
    """Somebody takes the schema back under a running node, sees it, and upgrades again."""
    settings = _settings(
        BEFORE.unpack(tmp_path / "node", bare_database_url), bare_database_url, redis_server
    )
    with ExitStack() as stack:
        database = Database(bare_database_url)
        stack.callback(database.dispose)
        schema.upgrade(database)
        listener = Listener(settings, database)
        stack.callback(listener.stop)
        flow = stack.enter_context(running_flow(database, settings, redis_server))
        sender = Sender(listener.port)
        with _working(flow), sender.sending():
            sender.wait_for_more(3)
            schema.downgrade(database, BEFORE.revision)
            sender.wait_for_more(3, OUT_OF_RESOURCES)
            schema.upgrade(database)
            sender.wait_for_more(3)
        assert {status for _, status in sender.answers} == {0, OUT_OF_RESOURCES}
        refused = sender.of(OUT_OF_RESOURCES)
        assert [sender.send(ds) for ds in refused] == [0] * len(refused)
        recover_orphans(database, settings, Spool(settings.image_store, 0), 0.0)
        assert _is_kept(database, settings, [ds for ds, _ in sender.answers])
        assert [str(line) for line in compute(database, settings) if not line.balanced] == []


@contextmanager
def _role(name: str, code: Path, settings: Settings, port: int) -> Iterator[None]:
    """Run a role by the code of an older release."""
    environment = {key: text for key, text in os.environ.items() if "DICOM_NODE" not in key} | {
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
        "DICOM_NODE_DATABASE_URL": settings.effective_database_url,
        "DICOM_NODE_BROKER_URL": settings.broker_url or "",
        "DICOM_NODE_DICOM__HOST": "127.0.0.1",
        "DICOM_NODE_DICOM__PORT": str(port),
        "DICOM_NODE_DICOM__LISTENERS": "1",
        "DICOM_NODE_DICOM__MIN_FREE_BYTES": "0",
        "DICOM_NODE_DISPATCH__SETTLE_SECONDS": "1",
    }
    command = [sys.executable, "-m", "dicom_node", name, "--data-dir", str(settings.data_dir)]
    log = settings.data_dir / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            yield
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()
            process.wait(SECONDS)


def test_the_release_before_goes_on_while_the_schema_is_upgraded_and_taken_back(
    tmp_path: Path, postgres_url: str, redis_server: str, repository: Path
) -> None:
    """Its listener and its dispatcher are those of its own commit, and find all that they need."""
    code = BEFORE.checkout(tmp_path / "code", repository)
    settings = _settings(BEFORE.unpack(tmp_path / "node", postgres_url), postgres_url, redis_server)
    port = free_port()
    database = Database(postgres_url)
    sender = Sender(port)
    try:
        with _role("listen", code, settings, port), _role("dispatch", code, settings, port):
            wait_until(lambda: _answers(port), SECONDS, "the older release listens")
            with sender.sending():
                sender.wait_for_more(3)
                schema.upgrade(database)
                sender.wait_for_more(10)
                schema.downgrade(database, BEFORE.revision)
                sender.wait_for_more(10)
            wait_until(lambda: _is_published(database), SECONDS, "the older release dispatches")
            refused = sender.of(OUT_OF_RESOURCES)
            assert [sender.send(ds) for ds in refused] == [0] * len(refused)
        assert {status for _, status in sender.answers} <= {0, OUT_OF_RESOURCES}
        for role in ("listen", "dispatch"):
            said = (settings.data_dir / f"{role}.log").read_text()
            assert "Undefined" not in said, "a column that it needs was gone"
            assert "IntegrityError" not in said, "a row that it writes was refused"
        schema.upgrade(database)
        recover_orphans(database, settings, Spool(settings.image_store, 0), 0.0)
        assert _is_kept(database, settings, [ds for ds, _ in sender.answers])
        assert [str(line) for line in compute(database, settings) if not line.balanced] == []
    finally:
        database.dispose()
