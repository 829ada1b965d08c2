"""What the SR documents on disk say: the ledger's witness against the rows."""

import os
from dataclasses import dataclass, field

from pydicom import dcmread

from models.storage import Store

_RADIOGRAPHS = ("Computed Radiography Image Storage", "For Presentation", "For Processing")


@dataclass(frozen=True)
class _Read:
    """What a file was when it was read, and whom it names."""

    stamp: tuple[float, int]
    images: frozenset[str]


@dataclass
class Documents:
    """The SR documents of a store; each is read once, and again when its file has changed.

    A long-running process keeps one: a hundred thousand documents take minutes to read and
    seconds to look at. Some 300 bytes are kept per document.
    """

    store: Store
    _known: dict[str, _Read] = field(default_factory=dict, repr=False)

    def images_in(self, storage_key: str) -> frozenset[str]:
        """Return the SOP Instance UIDs of the radiographs that an SR names as evidence.

        None of a file that is gone or cannot be read.
        """
        try:
            stamp = self.store.stamp(storage_key)
            known = self._known.get(storage_key)
            if known is None or known.stamp != stamp:
                images = _images_in(self.store.path(storage_key))
                known = self._known[storage_key] = _Read(stamp, images)
        except OSError:
            return frozenset()
        return known.images


def _images_in(path: os.PathLike[str]) -> frozenset[str]:
    """Return whom a file names. Raises OSError when it cannot be read."""
    try:
        return _evidence(path)
    except OSError:
        raise
    except Exception:  # noqa: BLE001  a damaged document says nothing, and the ledger shows it
        return frozenset()


def _evidence(path: os.PathLike[str]) -> frozenset[str]:
    evidence = dcmread(path).get("CurrentRequestedProcedureEvidenceSequence") or []
    return frozenset(
        str(item.ReferencedSOPInstanceUID)
        for study in evidence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
        if item.ReferencedSOPClassUID.name.endswith(_RADIOGRAPHS)
    )
