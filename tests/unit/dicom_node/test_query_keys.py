"""Identifiers of C-FIND, C-MOVE and C-GET: what is asked, and what is refused."""

from typing import Any

import pytest
from pydicom.datadict import dictionary_has_tag, tag_for_keyword
from querying import identifier

from dicom_node.errors import IdentifierError, IdentifierUnreadableError, QueryError
from dicom_node.query.keys import KEYS, Kind, Level, read_query, read_selection
from dicom_node.query.status import QUERY_STATUS, query_status


def test_keys_are_attributes_of_the_standard() -> None:
    for level, keys in KEYS.items():
        assert all(dictionary_has_tag(tag_for_keyword(keyword) or 0) for keyword in keys)
        assert [*keys.values()].count(Kind.UNIQUE) == 1, level


def test_a_query_keeps_its_keys_and_what_is_not_supported() -> None:
    ds = identifier(QueryRetrieveLevel="STUDY", PatientName="A*", StudyDate="", EthnicGroup="x")
    ds.ReferencedStudySequence = []
    ds.SpecificCharacterSet = "ISO_IR 192"
    query = read_query(ds, 10)
    assert query.level is Level.STUDY
    assert query.conditions["PatientName"].values == ("A*",)
    assert query.conditions["StudyDate"].is_universal
    assert query.conditions["StudyInstanceUID"].is_universal  # returned though not asked for
    assert [vr for _, vr in query.unsupported] == ["SQ", "SH"]


def test_a_key_of_another_level_is_not_supported() -> None:
    ds = identifier(QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", PatientID="P")
    assert [vr for _, vr in read_query(ds, 10).unsupported] == ["LO"]


@pytest.mark.parametrize(
    ("values", "keyword"),
    [
        ({}, "QueryRetrieveLevel"),
        ({"QueryRetrieveLevel": "PATIENT"}, "QueryRetrieveLevel"),
        ({"QueryRetrieveLevel": "STUDY\\SERIES"}, "QueryRetrieveLevel"),
        ({"QueryRetrieveLevel": "SERIES"}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": ["1.2", "1.3"]}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "*"}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2"}, "SeriesInstanceUID"),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1.2.%"}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "1" * 65}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": ["1.2"] * 11}, "StudyInstanceUID"),
        ({"QueryRetrieveLevel": "STUDY", "StudyDate": "last week"}, "StudyDate"),
        ({"QueryRetrieveLevel": "STUDY", "PatientID": "*a" * 200}, "PatientID"),
        ({"QueryRetrieveLevel": "STUDY", "PatientID": ["a"] * 65}, "PatientID"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(values: dict[str, Any], keyword: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        read_query(identifier(**values), 10)
    assert caught.value.keyword == keyword
    assert query_status(caught.value, retrieves=False) == 0xA900


@pytest.mark.parametrize(
    "values",
    [
        {"QueryRetrieveLevel": "STUDY"},
        {"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": "*"},
        {"QueryRetrieveLevel": "SERIES", "StudyInstanceUID": "1.2"},
        {"QueryRetrieveLevel": "IMAGE", "StudyInstanceUID": "1.2", "SOPInstanceUID": "1.3"},
    ],
)
def test_a_retrieve_names_the_uids_of_its_level(values: dict[str, Any]) -> None:
    with pytest.raises(IdentifierError):
        read_selection(identifier(**values), 10)


def test_a_retrieve_takes_a_list_of_uids() -> None:
    ds = identifier(
        QueryRetrieveLevel="SERIES", StudyInstanceUID="1.2", SeriesInstanceUID=["1.3", "1.4"]
    )
    uids = {"StudyInstanceUID": ("1.2",), "SeriesInstanceUID": ("1.3", "1.4")}
    assert read_selection(ds, 10).uids == uids


def test_every_reason_to_refuse_has_its_status() -> None:
    assert set(QueryError.__subclasses__()) <= QUERY_STATUS.keys()
    assert query_status(OSError(), retrieves=False) == 0xA700
    assert query_status(OSError(), retrieves=True) == 0xA701
    assert query_status(ZeroDivisionError(), retrieves=True) == 0xC000


def test_an_identifier_of_too_many_keys_is_refused() -> None:
    ds = identifier(QueryRetrieveLevel="STUDY")
    for element in range(0x1000, 0x1000 + 127):
        ds.add_new((0x0009, element), "LO", None)
    assert len(read_query(ds, 10).unsupported) == 127
    ds.PatientID = "P"
    with pytest.raises(IdentifierUnreadableError, match="more than 128 keys"):
        read_query(ds, 10)
