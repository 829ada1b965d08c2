"""Nodes and objects for tests that run the whole product."""

import copy
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import psutil
from builders import chest_dataset, write_part10
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from dicom_node.demo.node import NodeProcess, Result
from dicom_node.demo.pacs import free_ports
from dicom_node.mended import MENDED
from worker.training.phantom import make_phantom

# Short pauses, so that a test does not wait for what it does not test.
FAST = {
    "DICOM_NODE_DISPATCH__SETTLE_SECONDS": "1",
    "DICOM_NODE_DISPATCH__REPUBLISH_SECONDS": "5",
    "DICOM_NODE_WORKER__LEASE_SECONDS": "5",
    "DICOM_NODE_DELIVERY__BACKOFF_SECONDS": "0.5",
    "DICOM_NODE_DICOM__MIN_FREE_BYTES": "100000000",
}


_ASK_SECONDS = 5.0
_BUSY = """
SELECT (SELECT count(*) FROM instance) < ?
  OR EXISTS (SELECT 1 FROM study WHERE state IN ('open', 'settled'))
  OR EXISTS (SELECT 1 FROM job WHERE state IN ('pending', 'leased') AND kind != 'shadow')
  OR EXISTS (SELECT 1 FROM delivery WHERE state IN ('due', 'sending'))
"""


def make_node(data_dir: Path, *pacs: str, workers: int = 1, **settings: str) -> NodeProcess:
    """Return a node on free ports, not started."""
    dicom_port, web_port = free_ports(2)
    return NodeProcess(
        data_dir,
        dicom_port=dicom_port,
        web_port=web_port,
        pacs=pacs,
        workers=workers,
        settings={**FAST, **settings},
    )


def make_phantoms(out: Path) -> list[Path]:
    """Write the phantom studies and return their DICOM files."""
    program = Path(sys.executable).with_name("dicom-worker")
    subprocess.run([program, "phantom", "--out", out], check=True, capture_output=True)
    return sorted(out.rglob("*.dcm"))


def make_chest(path: Path) -> Path:
    """Write one phantom, which is analysed."""
    pixels = make_phantom(7, 512, 20.0).pixels >> 4
    uids = {name: generate_uid() for name in ("StudyInstanceUID", "SOPInstanceUID")}
    return write_part10(path, chest_dataset(pixels=pixels, **uids))


def read_any(path: Path) -> Dataset:
    """Read a DICOM file, also one without Part 10 header."""
    ds = dcmread(path, force=True)
    if not hasattr(ds, "file_meta") or "TransferSyntaxUID" not in ds.file_meta:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    return ds


def with_identity(ds: Dataset, patient_id: str, *, new_uids: bool = True) -> Dataset:
    """Return a copy that belongs to `patient_id`, by default as another study."""
    ds = copy.deepcopy(ds)
    ds.PatientID = patient_id
    if new_uids:
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
        ds.SOPInstanceUID = generate_uid()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def store(
    port: int, *paths: Path, called_aet: str = "NODE", calling_aet: str = "TESTSCU"
) -> list[int | None]:
    """Send files over one association and return the statuses."""
    ae = AE(calling_aet)
    wanted = {
        (str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in map(_head, paths)
    }
    for sop_class, syntax in sorted(wanted):
        ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=called_aet, evt_handlers=[MENDED])
    if not assoc.is_established:
        msg = "the node refused the association"
        raise ConnectionError(msg)
    try:
        return [assoc.send_c_store(path).get("Status") for path in paths]
    finally:
        assoc.release()


def _head(path: Path) -> Dataset:
    return dcmread(path, stop_before_pixels=True)


def wait_for_results(node: NodeProcess, images: int, seconds: float = 300.0) -> list[Result]:
    """Wait until `images` results have ended and been delivered. Raises TimeoutError.

    The command says so; it is asked seldom while the rows say that there is work, for its start
    takes a processor that the worker could have.
    """
    deadline = time.monotonic() + seconds
    while True:
        soon = time.monotonic() + _ASK_SECONDS
        while _is_busy(node.data_dir / "node.db", images) and time.monotonic() < soon:
            time.sleep(0.1)
        results = node.results()
        if len(results) >= images and all(each.ended for each in results):
            return results
        if time.monotonic() > deadline:
            rows = [(each.status, each.reason, each.products) for each in results]
            msg = f"{len(results)} of {images} results after {seconds:g} s: {rows}"
            raise TimeoutError(msg)
        time.sleep(0.5)


def _is_busy(database: Path, images: int) -> bool:
    """Whether the rows of an embedded database name work for these images."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
        return bool(connection.execute(_BUSY, (images,)).fetchone()[0])


def worker_processes(node: NodeProcess) -> tuple[psutil.Process, list[psutil.Process]]:
    """Return the parent of the Celery worker and its pool processes."""
    for child in psutil.Process(node.pid).children(recursive=True):
        command = " ".join(child.cmdline())
        if "--unwatched" in command.split():
            return child, child.children()
    msg = "no worker below the node"
    raise LookupError(msg)


def kill(process: psutil.Process) -> None:
    """Kill -9, and wait until it is gone."""
    os.kill(process.pid, signal.SIGKILL)
    psutil.wait_procs([process], timeout=10)
