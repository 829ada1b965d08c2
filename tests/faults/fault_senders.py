"""Senders that remember what they were answered: the outside of "no study lost"."""

import copy
import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from builders import chest_dataset
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.dsutils import encode

from dicom_node.mended import MENDED

SUCCESS: Final = 0x0000
_PAUSE_SECONDS = 0.2


@dataclass(frozen=True)
class Sent:
    """One object that was offered to the node; None: no answer came."""

    sop_instance_uid: str
    study_instance_uid: str
    data_set_sha256: str
    status: int | None


@dataclass
class Notebook:
    """What the senders of one test know. Several threads may write into it."""

    address: str = "127.0.0.1"  # of the node
    offers: list[Sent] = field(default_factory=list)
    refused_associations: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def send(
        self, port: int, *objects: Dataset, calling: str = "MODALITY", seconds: float = 30.0
    ) -> list[int | None]:
        """C-STORE objects over one association; None for each that got no answer."""
        ae = AE(ae_title=calling)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = seconds
        for sop_class, syntax in {
            (str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in objects
        }:
            ae.add_requested_context(sop_class, syntax)
        assoc = ae.associate(self.address, port, ae_title="NODE", evt_handlers=[MENDED])
        if not assoc.is_established:
            with self._lock:
                self.refused_associations += 1
        statuses: list[int | None] = []
        for ds in objects:
            if not assoc.is_established:
                break
            statuses.append(self._offer(assoc, ds))
            self._note(ds, statuses[-1])
            if statuses[-1] is None:
                break  # pynetdicom would wait for its time-out with each of the others
        if assoc.is_established:
            assoc.abort() if None in statuses else assoc.release()
        ae.shutdown()
        return statuses + [None] * (len(objects) - len(statuses))

    @staticmethod
    def _offer(assoc: Association, ds: Dataset) -> int | None:
        try:
            answer = assoc.send_c_store(ds)
        except (RuntimeError, ValueError):
            return None  # the association went away just before, or its context
        return int(answer.Status) if "Status" in answer else None

    def _note(self, ds: Dataset, status: int | None) -> None:
        digest = data_set_hash(ds)
        sent = Sent(str(ds.SOPInstanceUID), str(ds.StudyInstanceUID), digest, status)
        with self._lock:
            self.offers.append(sent)

    def send_all(self, port: int, objects: Sequence[Dataset], seconds: float = 60.0) -> None:
        """Send again what was not answered 0x0000 until everything was. Raises TimeoutError."""
        deadline = time.monotonic() + seconds
        left = list(objects)
        while left:
            statuses = self.send(port, *left)
            left = [ds for ds, status in zip(left, statuses, strict=True) if status != SUCCESS]
            if left and time.monotonic() > deadline:
                msg = f"{len(left)} objects never got 0x0000: {sorted(set(map(str, statuses)))}"
                raise TimeoutError(msg)
            if left:
                time.sleep(_PAUSE_SECONDS)

    @property
    def answered(self) -> dict[str, Sent]:
        """What was answered 0x0000, by SOP Instance UID."""
        with self._lock:
            return {each.sop_instance_uid: each for each in self.offers if each.status == SUCCESS}

    def statuses(self) -> set[int | None]:
        """Return every answer that was given."""
        with self._lock:
            return {each.status for each in self.offers}


def data_set_hash(ds: Dataset) -> str:
    """SHA-256 of the data set as it is sent."""
    syntax = ds.file_meta.TransferSyntaxUID
    data = encode(ds, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
    assert data is not None
    return hashlib.sha256(data).hexdigest()


def new_image(of: Dataset | None = None, *, study: str | None = None) -> Dataset:
    """Return an image of its own: of another patient and study, or of `study`.

    Without `of`: a drawn chest of 256 by 240 that is good enough to be received.
    """
    ds = copy.deepcopy(chest_dataset() if of is None else of)
    ds.StudyInstanceUID = study or generate_uid()
    ds.SeriesInstanceUID, ds.SOPInstanceUID = generate_uid(), generate_uid()
    ds.PatientID = hashlib.sha256(str(ds.StudyInstanceUID).encode()).hexdigest()[:16]
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.set_original_encoding(is_implicit_vr=False, is_little_endian=True)
    return ds
