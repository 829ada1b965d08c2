"""A PACS that remembers every arrival, not only what it kept; and what a PACS holds, by meaning."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Final, Protocol

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
from servers import free_port

from dicom_node.demo.pacs import Pacs

SEG: Final = "1.2.840.10008.5.1.4.1.1.66.4"
SR: Final = "1.2.840.10008.5.1.4.1.1.88.34"
SUCCESS: Final = 0x0000


@dataclass(frozen=True)
class Held:
    """One SEG or SR at a PACS and what it speaks of."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    sha256: str  # of the data set
    images: frozenset[str]  # SOP Instance UIDs of the radiographs
    replaces: frozenset[str]  # SOP Instance UIDs of earlier documents


class Holder(Protocol):
    """Whoever can say what has arrived."""

    def held(self) -> list[Held]:
        """Return every result that arrived; the same object once for each different content."""
        ...


class WitnessPacs:
    """Our own storage SCP that keeps all that ever arrives, on a port that survives `stop`.

    `answer` decides the status of an object by its SOP Class UID; what is not success is not kept.
    """

    def __init__(
        self,
        ae_title: str = "WITNESS",
        answer: Callable[[str], int] = lambda _sop_class_uid: SUCCESS,
    ) -> None:
        self.ae_title, self.port, self.answer = ae_title, free_port(), answer
        self._lock = threading.Lock()
        self._arrivals: list[Held] = []
        self.refused: list[int] = []
        ae = AE(ae_title)
        ae.maximum_associations = 100
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax))
        self._ae = ae

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def start(self) -> "WitnessPacs":
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._ae.shutdown()

    def _store(self, event: Event) -> int:
        status = self.answer(str(event.request.AffectedSOPClassUID))
        with self._lock:
            if status == SUCCESS:
                self._arrivals.append(describe(event.encoded_dataset()))
            else:
                self.refused.append(status)
        return status

    @property
    def arrivals(self) -> int:
        """How many objects were taken, repeated ones counted each time."""
        return len(self._arrivals)

    def held(self) -> list[Held]:
        """Return what arrived; the same object counts once for each different content."""
        with self._lock:
            return list(dict.fromkeys(self._arrivals))


@dataclass(frozen=True)
class PacsOf:
    """What a PACS of the demo's kind (Orthanc) holds of some studies."""

    pacs: Pacs
    studies: Callable[[], set[str]]

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        return self.pacs.address

    def held(self) -> list[Held]:
        """Fetch and read every object of the studies."""
        wanted = self.studies()
        return [
            describe(self.pacs.fetch(each.key))
            for each in self.pacs.objects()
            if each.study_instance_uid in wanted
        ]


def describe(part10: bytes) -> Held:
    """Read one object: what it is, and of which images it speaks."""
    ds = dcmread(BytesIO(part10))
    return Held(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        study_instance_uid=str(ds.StudyInstanceUID),
        sha256=data_set_sha256(part10),
        images=frozenset(_images(ds)),
        replaces=frozenset(_documents(ds, "PredecessorDocumentsSequence")),
    )


def data_set_sha256(part10: bytes) -> str:
    """SHA-256 of the data set behind the file meta, whose length (0002,0000) says (PS3.10 7.1)."""
    start = 144 + int.from_bytes(part10[140:144], "little")
    return hashlib.sha256(part10[start:]).hexdigest()


def _images(ds: Dataset) -> set[str]:
    if ds.SOPClassUID == SEG:
        return {
            str(item.ReferencedSOPInstanceUID)
            for series in ds.ReferencedSeriesSequence
            for item in series.ReferencedInstanceSequence
        }
    return _documents(ds, "CurrentRequestedProcedureEvidenceSequence")


def _documents(ds: Dataset, keyword: str) -> set[str]:
    return {
        str(item.ReferencedSOPInstanceUID)
        for study in ds.get(keyword) or []
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
