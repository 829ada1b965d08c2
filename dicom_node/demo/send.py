"""Send DICOM files to the node as a modality does: one association per study."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from pydicom import dcmread
from pydicom.config import disable_value_validation
from pynetdicom import AE

from dicom_node.mended import MENDED

_MAX_CONTEXTS = 128  # PS3.8 9.3.2.2: odd one-byte identifiers
_SUCCESS = 0x0000


@dataclass(frozen=True)
class Sample:
    """One DICOM file and what its header says."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    modality: str
    view: str


@dataclass(frozen=True)
class Sent:
    """What the node answered to one file; `status` is None when it could not even be offered."""

    sample: Sample
    status: int | None
    note: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the node took responsibility for it."""
        return self.status == _SUCCESS


def read_samples(folder: Path) -> tuple[list[Sample], list[Path]]:
    """Read the headers of every file below `folder`; return samples and what is not DICOM."""
    samples, others = [], []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        sample = _read(path)
        if sample is None:
            others.append(path)
        else:
            samples.append(sample)
    return samples, others


def _read(path: Path) -> Sample | None:
    try:
        with disable_value_validation():  # no warning that quotes a stranger's values
            ds = dcmread(path, stop_before_pixels=True)
        return Sample(
            path=path,
            sop_class_uid=str(ds.SOPClassUID),
            sop_instance_uid=str(ds.SOPInstanceUID),
            study_instance_uid=str(ds.StudyInstanceUID),
            transfer_syntax_uid=str(ds.file_meta.TransferSyntaxUID),
            modality=str(ds.get("Modality") or ""),
            view=str(ds.get("ViewPosition") or ""),
        )
    except Exception:  # noqa: BLE001  a stranger's file fails in more ways than can be listed
        return None


def send_samples(
    samples: Iterable[Sample], port: int, called_aet: str, on_sent: Callable[[Sent], None]
) -> list[Sent]:
    """Send every sample, grouped by study, and return the node's answers in that order."""
    answers: list[Sent] = []
    by_study = attrgetter("study_instance_uid")
    for _, group in groupby(sorted(samples, key=by_study), key=by_study):
        for answer in _send_study(list(group), port, called_aet):
            answers.append(answer)
            on_sent(answer)
    return answers


def _send_study(samples: list[Sample], port: int, called_aet: str) -> Iterable[Sent]:
    ae = AE("DEMOMODALITY")
    pairs = sorted({(each.sop_class_uid, each.transfer_syntax_uid) for each in samples})
    for sop_class, syntax in pairs[:_MAX_CONTEXTS]:
        # One syntax per context: an acceptor picks one of several, and the file may need another.
        ae.add_requested_context(sop_class, syntax)
    assoc = ae.associate("127.0.0.1", port, ae_title=called_aet, evt_handlers=[MENDED])
    if not assoc.is_established:
        yield from (Sent(each, None, "association refused") for each in samples)
        return
    for sample in samples:
        try:
            with disable_value_validation():
                answer = assoc.send_c_store(sample.path)
            yield Sent(sample, answer.get("Status"), "")
        except (ValueError, AttributeError, RuntimeError, OSError):
            yield Sent(sample, None, "not offered: the node takes no such SOP Class or encoding")
    assoc.release()
