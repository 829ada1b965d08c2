"""C-FIND without a network: limits, cancel, and what responses hold."""

import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pydicom
import pytest
from builders import chest_dataset, chest_pixels, write_part10

from dicom_node.errors import QueryCancelledError, TooManyMatchesError
from dicom_node.query.exchange import SubOperations, _shown
from dicom_node.query.find import find
from dicom_node.query.held import Candidate
from dicom_node.query.keys import Level, Query
from dicom_node.query.match import Condition
from models.sections import QueryRetrieveSettings

_ANY = Query(Level.STUDY, {"StudyInstanceUID": Condition("UI")})


def _candidates(number: int, path: Path | None = None) -> Iterator[Candidate]:
    for each in range(number):
        yield Candidate({"StudyInstanceUID": (f"1.2.{each}",), "PatientID": ("P",)}, path)


def _never() -> bool:
    return False


def test_cancel_ends_a_query_between_matches() -> None:
    cancelled = threading.Event()
    matches = find(_candidates(9), _ANY, QueryRetrieveSettings(), cancelled.is_set)
    taken = [match.StudyInstanceUID for match in islice(matches, 3)]
    cancelled.set()
    with pytest.raises(QueryCancelledError):
        next(matches)
    assert taken == ["1.2.0", "1.2.1", "1.2.2"]


def test_cancel_ends_a_query_that_finds_nothing() -> None:
    asked = []

    def is_cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    query = Query(Level.STUDY, {"PatientID": Condition("LO", ("nobody",))})
    with pytest.raises(QueryCancelledError):
        next(find(_candidates(9), query, QueryRetrieveSettings(), is_cancelled))


def test_the_limit_of_matches_is_reached_by_one_more() -> None:
    limits = QueryRetrieveSettings(max_results=3)
    assert len(list(find(_candidates(3), _ANY, limits, _never))) == 3
    with pytest.raises(TooManyMatchesError):
        list(find(_candidates(4), _ANY, limits, _never))


@pytest.mark.parametrize("mode", [pydicom.config.WARN, pydicom.config.IGNORE])  # a node ignores
def test_a_file_is_opened_only_for_what_rows_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    monkeypatch.setattr(pydicom.config.settings, "reading_validation_mode", mode)
    path = write_part10(tmp_path / "image.dcm", chest_dataset(pixels=chest_pixels(16, 16)))
    number = b"\x20\x00\x11\x00IS\x02\x00"
    broken = path.read_bytes().replace(number + b"1 ", number + b"x ")
    path.write_bytes(broken)
    limits = QueryRetrieveSettings(max_files=1)
    wanted = {
        "StudyInstanceUID": Condition("UI"),
        "PatientID": Condition("LO", ("P",)),
        "PatientName": Condition("PN", ("phantom*",)),
        "SeriesNumber": Condition("IS"),
    }
    (found,) = find(_candidates(1, path), Query(Level.STUDY, wanted), limits, _never)
    assert str(found.PatientName) == "Phantom^Chest"
    assert found.SeriesNumber is None
    with pytest.raises(TooManyMatchesError):
        list(find(_candidates(2, path), Query(Level.STUDY, wanted), limits, _never))
    rows_only = {key: it for key, it in wanted.items() if key in ("StudyInstanceUID", "PatientID")}
    assert len(list(find(_candidates(9, path), Query(Level.STUDY, rows_only), limits, _never))) == 9


@pytest.mark.parametrize("content", [b"", b"no DICOM", b"\0" * 128 + b"DICM" + b"\xff" * 500])
def test_a_damaged_file_has_no_attributes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    wanted = {"StudyInstanceUID": Condition("UI"), "PatientName": Condition("PN")}
    (found,) = find(
        _candidates(1, path), Query(Level.STUDY, wanted), QueryRetrieveSettings(), _never
    )
    assert not found.PatientName
    wanted["PatientName"] = Condition("PN", ("P*",))
    asked = Query(Level.STUDY, wanted)
    assert list(find(_candidates(1, path), asked, QueryRetrieveSettings(), _never)) == []


def test_failed_uids_are_listed_as_far_as_one_element_holds_them() -> None:
    uids = ["2.25." + "1" * 59] * 2000
    assert len(_shown(uids)) == 65_534 // 65
    done = SubOperations(remaining=2)
    done.count("1.2", None)
    done.count("1.3", 0xB000)
    assert (done.remaining, done.failed_uids, done.warning) == (0, ["1.2"], 1)
