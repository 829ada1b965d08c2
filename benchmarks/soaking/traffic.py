"""Mixed traffic at a set rate: what modalities send, and what else comes."""

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from dicom_node.mended import MENDED
from worker.training.phantom import make_phantom

CR: Final = "1.2.840.10008.5.1.4.1.1.1"
BASIC_TEXT_SR: Final = "1.2.840.10008.5.1.4.1.1.88.11"
_VERIFICATION: Final = "1.2.840.10008.1.1"
_SUCCESS: Final = 0x0000
_DRAWN_ROWS: Final = 512
_PHANTOMS: Final = 4
_REMEMBERED: Final = 200  # studies that may come again
_SENDERS: Final = 8
_TIMEOUT_SECONDS: Final = 60.0

# Share of each kind of item; the rest are new studies.
_SHARES: Final = {
    "again": 0.05,  # a study that was sent before, the same bytes
    "corrected": 0.03,  # a study that was sent before, under another identity
    "document": 0.05,  # an object that is no image
    "corrupt": 0.04,  # pixel data cut short, or a data set of noise
    "echo": 0.05,
    "probe": 0.05,  # TCP only: closed at once, or noise
}


@dataclass(frozen=True)
class Answer:
    """One object that was offered: answered after `seconds` at `at` (monotonic), or None."""

    kind: str
    study_instance_uid: str
    at: float
    seconds: float
    status: int | None


@dataclass
class Diary:
    """What all senders were told; the outside view of the node. Threads share it."""

    answers: list[Answer] = field(default_factory=list)
    refused_associations: int = 0
    probes: int = 0
    echoes: int = 0
    reportable: dict[str, float] = field(default_factory=dict)  # study: when its last image was in
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, answer: Answer) -> None:
        """Note one answer."""
        with self._lock:
            self.answers.append(answer)

    def expect_report(self, study_instance_uid: str, at: float) -> None:
        """Note that a study with a frontal chest has been answered in full."""
        with self._lock:
            self.reportable.setdefault(study_instance_uid, at)

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with self._lock:
            setattr(self, name, getattr(self, name) + 1)


@dataclass(frozen=True)
class Picture:
    """Stored values as they stand in Pixel Data; images share them, so thousands need no room."""

    rows: int
    columns: int
    data: bytes

    @classmethod
    def of(cls, pixels: NDArray[np.uint16]) -> Self:
        """Take the pixels of an array."""
        return cls(pixels.shape[0], pixels.shape[1], pixels.tobytes())


@cache
def pictures(rows: int) -> tuple[list[Picture], Picture]:
    """Return frontal chests and a lateral one with about that many rows (a multiple of 512)."""
    scale = np.ones((max(1, rows // _DRAWN_ROWS),) * 2, np.uint16)
    frontal = [
        make_phantom(seed, _DRAWN_ROWS, 15.0 * seed).pixels >> 4 for seed in range(_PHANTOMS)
    ]
    lateral = make_phantom(99, _DRAWN_ROWS, 0.0, "LL").pixels >> 4
    return [Picture.of(np.kron(each, scale)) for each in frontal], Picture.of(
        np.kron(lateral, scale)
    )


class Modality:
    """Makes the items of the traffic, in an order that the seed decides."""

    def __init__(self, rows: int, seed: int) -> None:
        self._random = random.Random(seed)
        self._frontal, self._lateral = pictures(rows)
        self._number = 0
        self._sent: list[list[Dataset]] = []

    def items(self) -> Iterator[tuple[str, list[Dataset]]]:
        """Yield kind and objects of one item after the other, without end."""
        kinds = [*_SHARES, "study"]
        weights = [*_SHARES.values(), 1 - sum(_SHARES.values())]
        while True:
            kind = self._random.choices(kinds, weights)[0]
            if kind in {"again", "corrected"} and not self._sent:
                kind = "study"
            yield kind, self._objects(kind)

    def _objects(self, kind: str) -> list[Dataset]:
        if kind == "study":
            study = self._study()
            self._sent = [*self._sent[-_REMEMBERED:], study]
            return study
        if kind == "again":
            return self._random.choice(self._sent)
        if kind == "corrected":
            return self._corrected(self._random.choice(self._sent[:-10] or self._sent))
        if kind == "document":
            return [self._document()]
        if kind == "corrupt":
            broken = self._image(self._new_study(), self._frontal[0])
            broken.PixelData = broken.PixelData[: len(broken.PixelData) // 3 // 2 * 2]
            return [broken]
        return []

    def _study(self) -> list[Dataset]:
        header = self._new_study()
        images = [self._image(header, self._random.choice(self._frontal))]
        if self._random.random() < 0.6:  # noqa: PLR2004  most examinations have two views
            images.append(self._image(header, self._lateral, view="LL"))
        if self._random.random() < 0.15:  # noqa: PLR2004  now and then one is repeated
            images.append(self._image(header, self._random.choice(self._frontal), view="AP"))
        return images

    def _corrected(self, study: list[Dataset]) -> list[Dataset]:
        """Return the study under another patient, as a PACS sends it after a correction."""
        images = []
        for ds in study:
            image = _of_class(CR)
            image.update(ds)
            image.file_meta = ds.file_meta
            del image.PatientID  # the element is still that of `ds`: a new value would be its, too
            image.PatientID = f"{ds.PatientID}-C"
            images.append(image)
        return images

    def _new_study(self) -> Dataset:
        self._number += 1
        ds = Dataset()
        ds.PatientID, ds.PatientName = f"SOAK-{self._number}", "Soak^Phantom"
        ds.PatientBirthDate, ds.PatientSex = "19700101", "O"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
        ds.StudyID, ds.AccessionNumber = "1", f"S{self._number}"
        ds.StudyDate, ds.StudyTime, ds.ReferringPhysicianName = "20260101", "120000", ""
        return ds

    def _image(self, header: Dataset, picture: Picture, view: str = "PA") -> Dataset:
        ds = _of_class(CR)
        ds.update(header)
        ds.Modality, ds.BodyPartExamined, ds.ViewPosition = "CR", "CHEST", view
        ds.PatientOrientation = ["A", "F"] if view == "LL" else ["L", "F"]
        ds.SeriesNumber, ds.InstanceNumber, ds.ImageType = 1, 1, ["ORIGINAL", "PRIMARY"]
        ds.ImagerPixelSpacing = [0.2, 0.2]
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = (
            1,
            "MONOCHROME2",
            0,
        )
        ds.Rows, ds.Columns = picture.rows, picture.columns
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 12, 11
        ds.PixelData = picture.data
        return ds

    def _document(self) -> Dataset:
        ds = _of_class(BASIC_TEXT_SR)
        ds.update(self._new_study())
        ds.Modality = "SR"
        return ds


def _of_class(sop_class_uid: str) -> Dataset:
    ds = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class_uid, generate_uid()
    ds.Manufacturer = "Soak"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = sop_class_uid
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


class Traffic:
    """Sends the items of a modality from several threads, and writes the diary."""

    def __init__(self, port: int, modality: Modality, diary: Diary, seed: int) -> None:
        self._port, self._items, self._diary = port, modality.items(), diary
        self._random = random.Random(seed)
        self._free = threading.Semaphore(_SENDERS)

    def run(self, images_per_minute: float, until: float, may_go: Callable[[], bool]) -> None:
        """Send until the monotonic time `until`, on average `images_per_minute`.

        An item waits while `may_go` says no, or all senders are busy: what is late is made up for.
        """
        due = time.monotonic()
        with ThreadPoolExecutor(_SENDERS) as pool:
            while (now := time.monotonic()) < until:
                if now < due or not may_go():
                    time.sleep(0.02)
                    continue
                kind, objects = next(self._items)
                gap = 60.0 / images_per_minute * len(objects)
                due = max(due, now - 60.0) + gap * self._random.uniform(0.5, 1.5)
                self._free.acquire()
                pool.submit(self._send, kind, objects, self._random.random())

    def _send(self, kind: str, objects: list[Dataset], chance: float) -> None:
        try:
            if kind == "probe":
                _probe(self._port, noise=chance < 0.5)  # noqa: PLR2004  half of them
                self._diary.count("probes")
            else:
                self._associate(kind, objects, noise=chance < 0.3)  # noqa: PLR2004  some of them
        finally:
            self._free.release()

    def _associate(self, kind: str, objects: list[Dataset], *, noise: bool) -> None:
        ae = AE("SOAK")
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = _TIMEOUT_SECONDS
        for sop_class in {str(ds.SOPClassUID) for ds in objects} or {_VERIFICATION}:
            ae.add_requested_context(sop_class, ExplicitVRLittleEndian)
        assoc = ae.associate("127.0.0.1", self._port, ae_title="NODE", evt_handlers=[MENDED])
        if not assoc.is_established:
            self._diary.count("refused_associations")
            return
        try:
            if kind == "echo":
                assoc.send_c_echo()
                self._diary.count("echoes")
            is_noise = kind == "corrupt" and noise
            answers = [self._store(assoc, kind, ds, is_noise=is_noise) for ds in objects]
        finally:
            if assoc.is_established:
                assoc.release()
        if kind == "study" and all(each.status == _SUCCESS for each in answers):
            self._diary.expect_report(answers[-1].study_instance_uid, answers[-1].at)

    def _store(self, assoc: Association, kind: str, ds: Dataset, *, is_noise: bool) -> Answer:
        start = time.monotonic()
        try:
            status = _send_noise(assoc, ds) if is_noise else _status(assoc.send_c_store(ds))
        except (RuntimeError, ValueError):
            status = None
        now = time.monotonic()
        answer = Answer(
            "noise" if is_noise else kind, str(ds.StudyInstanceUID), now, now - start, status
        )
        self._diary.add(answer)
        return answer


def _status(answer: Dataset) -> int | None:
    return int(answer.Status) if "Status" in answer else None


def _send_noise(assoc: Association, ds: Dataset) -> int | None:
    """C-STORE a data set that is none."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    request.DataSet = BytesIO(random.Random(1).randbytes(5000))
    assoc._reactor_checkpoint.clear()  # noqa: SLF001  as pynetdicom's own send_c_store does
    while not assoc._is_paused:  # noqa: SLF001  the same
        time.sleep(0.001)
    try:
        assoc.dimse.send_msg(request, assoc.accepted_contexts[0].context_id or 1)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()  # noqa: SLF001  the same
    return None if answer is None else int(answer.Status)


def _probe(port: int, *, noise: bool) -> None:
    """Connect as a load balancer or a port scanner does."""
    with socket.create_connection(("127.0.0.1", port), 5.0) as probe:
        if noise:
            probe.sendall(b"GET / HTTP/1.0\r\n\r\n")
