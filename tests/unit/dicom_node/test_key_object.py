"""dicom_node.key_object: what a note says, and that a hostile one says nothing."""

import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import chest_dataset, write_part10
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from rejection_notes import OF_INTEREST, QUALITY, RETENTION, SAFETY, WORKLIST, code, rejection_note
from senders import encoded

from dicom_node.errors import KeyObjectError
from dicom_node.key_object import RejectionNote, read_rejection_note
from models.reasons import Reason

IMAGES = [chest_dataset(seed=number, StudyInstanceUID="1.2.840.1") for number in (1, 2)]
OWN = "1.2.840.1"


def _read(ds: Dataset, folder: Path, syntax: str | None = None) -> RejectionNote | None:
    path = write_part10(folder / "note.dcm", ds)
    return read_rejection_note(path, syntax or str(ds.file_meta.TransferSyntaxUID), OWN)


@pytest.mark.parametrize(
    ("title", "reason"),
    [
        (QUALITY, Reason.REJECTED_QUALITY),
        (SAFETY, Reason.REJECTED_SAFETY),
        (WORKLIST, Reason.REJECTED_WORKLIST),
        (RETENTION, Reason.REJECTED_RETENTION),
    ],
)
def test_a_title_is_a_reason(tmp_path: Path, title: str, reason: Reason) -> None:
    note = _read(rejection_note(IMAGES, title), tmp_path)
    assert note == RejectionNote(reason, frozenset(it.SOPInstanceUID for it in IMAGES), 0)


@pytest.mark.parametrize(
    "title",
    [[code(OF_INTEREST)], [code(QUALITY, "99LOCAL")], [], None],
)
def test_another_title_rejects_nothing(tmp_path: Path, title: list[Dataset] | None) -> None:
    assert _read(rejection_note(IMAGES, ConceptNameCodeSequence=title), tmp_path) is None


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        DeflatedExplicitVRLittleEndian,
        ExplicitVRBigEndian,
    ],
)
def test_every_native_encoding_is_read(tmp_path: Path, syntax: str) -> None:
    made, ds = rejection_note(IMAGES), Dataset()
    ds.update(made)
    ds.file_meta = made.file_meta
    ds.file_meta.TransferSyntaxUID = syntax
    note = _read(ds, tmp_path)
    assert note is not None
    assert len(note.references) == 2


@pytest.mark.parametrize(
    "empty", ["CurrentRequestedProcedureEvidenceSequence", "ContentSequence"], ids=str
)
def test_evidence_or_content_alone_is_enough(tmp_path: Path, empty: str) -> None:
    note = _read(rejection_note(IMAGES, **{empty: None}), tmp_path)
    assert note is not None
    assert len(note.references) == 2


def test_objects_of_another_study_are_counted_and_not_rejected(tmp_path: Path) -> None:
    foreign = chest_dataset(seed=3)
    note = _read(rejection_note([*IMAGES, foreign]), tmp_path)
    assert note is not None
    assert (len(note.references), note.elsewhere) == (2, 1)
    assert foreign.SOPInstanceUID not in note.references


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, about the values
def test_values_that_are_no_uids_are_passed_over(tmp_path: Path) -> None:
    for text in ("", "x" * 80, "1." + "2" * 70, "../../etc"):
        odd = chest_dataset(StudyInstanceUID=OWN, seed=4)
        ds = rejection_note([IMAGES[0], odd], ContentSequence=None)
        ds.CurrentRequestedProcedureEvidenceSequence[1].ReferencedSeriesSequence[
            0
        ].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = text
        note = _read(ds, tmp_path)
        assert note is not None
        assert note.references == {IMAGES[0].SOPInstanceUID}


def _nested(depth: int) -> list[Dataset]:
    """Content items inside each other."""
    item = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = [item]
        item = outer
    return [item]


def _deep_bytes(depth: int) -> bytes:
    """Content Sequences of undefined length inside each other, never closed."""
    sequence = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return encoded(rejection_note(IMAGES, ContentSequence=None)) + (sequence + item) * depth


def _raw(data: bytes) -> Callable[[Path], tuple[Path, str]]:
    def make(folder: Path) -> tuple[Path, str]:
        path = write_part10(folder / "note.dcm", rejection_note(IMAGES))
        whole = path.read_bytes()
        head = 144 + int.from_bytes(whole[140:144], "little")
        path.write_bytes(whole[:head] + data)
        return path, ExplicitVRLittleEndian

    return make


def _note(**overrides: object) -> Callable[[Path], tuple[Path, str]]:
    def make(folder: Path) -> tuple[Path, str]:
        ds = rejection_note(IMAGES, **overrides)
        return write_part10(folder / "note.dcm", ds), ExplicitVRLittleEndian

    return make


def _bomb(folder: Path) -> tuple[Path, str]:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = packer.compress(bytes(64 << 20)) + packer.flush()
    path, _ = _raw(bomb)(folder)
    return path, DeflatedExplicitVRLittleEndian


HOSTILE: dict[str, Callable[[Path], tuple[Path, str]]] = {
    "names nothing": _note(CurrentRequestedProcedureEvidenceSequence=None, ContentSequence=None),
    "empty items": _note(
        CurrentRequestedProcedureEvidenceSequence=[Dataset()], ContentSequence=[Dataset()]
    ),
    "nine levels": _note(ContentSequence=_nested(9)),
    "five thousand levels": _raw(_deep_bytes(5000)),
    "too large": _note(EncapsulatedDocument=bytes(5 << 20)),
    "inflates without end": _bomb,
    "cut in the middle": _raw(encoded(rejection_note(IMAGES, ContentSequence=None))[:-250]),
    "deflated, and is not": lambda folder: (
        _raw(b"\xff" * 500)(folder)[0],
        DeflatedExplicitVRLittleEndian,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_note_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    path, syntax = HOSTILE[name](tmp_path)
    with pytest.raises(KeyObjectError) as error:
        read_rejection_note(path, syntax, OWN)
    assert str(error.value)
    assert "\n" not in str(error.value)


def test_more_objects_than_a_note_may_name(tmp_path: Path) -> None:
    ds = rejection_note(IMAGES, ContentSequence=None)
    items = []
    for number in range(10_001):
        item = Dataset()
        item.ReferencedSOPInstanceUID = f"1.2.3.{number}"
        items.append(item)
    evidence = ds.CurrentRequestedProcedureEvidenceSequence[0]
    evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence = items
    with pytest.raises(KeyObjectError, match="more than 10000 objects"):
        _read(ds, tmp_path)


def test_a_file_that_is_gone_is_no_fault_of_the_note(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="note"):
        read_rejection_note(tmp_path / "note.dcm", ExplicitVRLittleEndian, OWN)
