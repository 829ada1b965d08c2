"""Objects as DICOM JSON: what pydicom says of sound ones, always valid for hostile ones."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset, chest_pixels, write_part10
from mutations import Sound, mutant, sound
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
)

from dicom_node.web.dicomweb.errors import NotHereError
from dicom_node.web.dicomweb.frames import Frames
from dicom_node.web.dicomweb.json_model import bulk_value, known_of, text_of
from dicom_node.web.dicomweb.stored_header import open_stored

AT = "http://node/dicom-web/studies/1/series/2/instances/3"
KNOWN = known_of(SOPInstanceUID="1.2.3")
_NOT_OF_THE_FILE = ("00083002", "00080005")


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(text_of(open_stored(path), AT, KNOWN), parse_constant=pytest.fail)
    assert isinstance(found, dict)
    return found


def _nested(depth: int) -> Dataset:
    inner = Dataset()
    inner.CodeValue = "T-1"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([inner])
        inner = outer
    return inner


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]
)
def test_it_is_what_pydicom_makes_of_the_file(tmp_path: Path, syntax: str) -> None:
    ds = chest_dataset(
        transfer_syntax=syntax,
        PatientName="Müller^Jörg=山田",
        WindowCenter=[1.5, 2],
        SmallestImagePixelValue=0,
        ReferencedImageSequence=[_nested(1), _nested(2)],
    )
    path = write_part10(tmp_path / "a.dcm", ds)
    wanted = dcmread(path, stop_before_pixels=True).to_json_dict()
    found = _json(path)
    assert found["00083002"] == {"vr": "UI", "Value": [syntax]}
    assert found["00080005"] == {"vr": "CS", "Value": ["ISO_IR 192"]}
    pixels = found.pop("7FE00010")
    assert pixels == {"vr": "OW", "BulkDataURI": f"{AT}/bulkdata/7FE00010"}
    assert {k: v for k, v in found.items() if k not in _NOT_OF_THE_FILE} == {
        k: v for k, v in wanted.items() if k not in _NOT_OF_THE_FILE
    }


def test_long_values_are_named_and_found_under_their_name(tmp_path: Path) -> None:
    ds, value, longer = chest_dataset(), b"\1\2" * 1000, b"\3\4" * 50_000
    item = _nested(0)
    item.add_new(0x00282000, "OB", value)  # ICC Profile
    ds.OpticalPathSequence = Sequence([_nested(0), item])
    ds.add_new(0x00420011, "OB", longer)  # Encapsulated Document
    path = write_part10(tmp_path / "a.dcm", ds)
    found, stored = _json(path), open_stored(path)
    assert found["00420011"] == {"vr": "OB", "BulkDataURI": f"{AT}/bulkdata/00420011"}
    nested = found["00480105"]["Value"][1]["00282000"]
    assert nested == {"vr": "OB", "BulkDataURI": f"{AT}/bulkdata/00480105/2/00282000"}
    assert bulk_value(stored, ["00480105", "2", "00282000"]) == ("OB", value)
    assert b"".join(stored.value(stored.bulk[0x00420011])) == longer
    for path_ in (["00480105", "3", "00282000"], ["00100010"], ["00104000"], ["00480105", "2"]):
        with pytest.raises(NotHereError):
            bulk_value(stored, path_)


def test_what_json_cannot_say_has_no_value(tmp_path: Path) -> None:
    ds = chest_dataset()
    ds.add_new(0x00189073, "FD", float("nan"))
    ds.ReferencedImageSequence = Sequence([_nested(100)])
    found = _json(write_part10(tmp_path / "a.dcm", ds))
    assert found["00189073"] == {"vr": "FD"}
    assert "T-1" not in json.dumps(found)
    assert found["00100020"] == {"vr": "LO", "Value": ["P-1"]}


def test_without_a_header_rows_speak(tmp_path: Path) -> None:
    path = write_part10(tmp_path / "a.dcm")
    start = open_stored(path).start
    path.write_bytes(path.read_bytes()[:start] + b"\xff" * 64)
    assert _json(path) | {} == {
        "00080018": {"vr": "UI", "Value": ["1.2.3"]},
        "00083002": {"vr": "UI", "Value": [ExplicitVRLittleEndian]},
    }
    for nothing in (tmp_path / "b.dcm", Path(__file__)):
        with pytest.raises(NotHereError):
            open_stored(nothing)


def _sources() -> list[Sound]:
    found = []
    for syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian):
        ds = chest_dataset(pixels=chest_pixels(40, 30), transfer_syntax=syntax)
        found.append(sound(syntax.name, ds))
    ds = chest_dataset(pixels=chest_pixels(40, 30))
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    return [*found, sound("jls", ds)]


def test_hostile_objects_give_valid_json_and_frames_or_a_clear_no(tmp_path: Path) -> None:
    sources = _sources()
    for seed in range(300):
        each = mutant(sources, seed)
        path = tmp_path / "a.dcm"
        path.write_bytes(each.as_file())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's, about what it meets
            try:
                stored = open_stored(path)
            except NotHereError:
                continue
            json.loads(text_of(stored, AT, KNOWN), parse_constant=pytest.fail)
            try:
                frames = Frames.of(stored)
                for data in frames.data(range(1, min(3, frames.number) + 1)):
                    for _ in data:
                        pass
            except (NotHereError, EOFError):
                pass
