"""QIDO-RS: a query string is read as the identifier of a relational C-FIND (PS3.18 10.6).

What matches is decided by `dicom_node.query`, for both services.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import pydicom.config
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_node.query.find import matching, response_of
from dicom_node.query.held import Holdings
from dicom_node.query.keys import (
    UNIQUE_KEYS,
    Level,
    Query,
    read_query,
    supported_keys,
    tag_of,
    upper_levels,
)
from dicom_node.web.dicomweb.errors import ParameterError
from dicom_node.web.dicomweb.targets import Target
from models.sections import QueryRetrieveSettings

_LIMIT, _OFFSET, _FUZZY, _INCLUDE = "limit", "offset", "fuzzymatching", "includefield"
_ACCEPT: Final = "accept"  # PS3.18 8.3.3.1: said of the answer, not of the search
_MAX_OFFSET: Final = 1_000_000
_MAX_PARAMETERS: Final = 256
_TAG_DIGITS: Final = 8

# Attributes of a match at each level, asked for or not (PS3.18 Tables 10.6.3-3 to 10.6.3-5).
RETURNED: Final[Mapping[Level, tuple[str, ...]]] = {
    Level.STUDY: (
        *("StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy"),
        *("ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
        *("StudyInstanceUID", "StudyID"),
        *("NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"),
    ),
    Level.SERIES: (
        *("Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber"),
        *("NumberOfSeriesRelatedInstances",),
        *("PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime"),
    ),
    Level.IMAGE: (
        *("SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns"),
        *("BitsAllocated", "NumberOfFrames"),
    ),
}


@dataclass(frozen=True)
class Search:
    """One search, read: the query, which part of the matches is wanted, what is not done."""

    query: Query
    limit: int
    offset: int
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """Matches, and whether there are more behind them."""

    matches: Sequence[Dataset]
    has_more: bool


def read_search(
    level: Level, target: Mapping[str, str], parameters: Sequence[tuple[str, str]], most: int
) -> Search:
    """Read a query string; `target` are the UIDs that the path names, `most` the largest limit.

    Raises ParameterError, and IdentifierError as C-FIND.
    """
    if len(parameters) > _MAX_PARAMETERS:
        msg = f"more than {_MAX_PARAMETERS} parameters"
        raise ParameterError(msg)
    controls = (_LIMIT, _OFFSET, _FUZZY, _INCLUDE, _ACCEPT)
    given = {name: [it for key, it in parameters if key == name] for name in controls}
    keys, ignored = _identifier(level, given[_INCLUDE], target)
    wanted, others = _wanted(level, [each for each in parameters if each[0] not in controls])
    ignored += others
    for keyword, values in wanted.items():
        if keyword not in target:
            keys.add(element_of(keyword, joined(keyword, values)))
    remarks = [not_matched(ignored)] if ignored else []
    if any(each.lower() == "true" for each in given[_FUZZY]):
        remarks.append("fuzzymatching is not supported: literal matching was done")
    limit = number_of(given[_LIMIT], _LIMIT, most, most)
    offset = number_of(given[_OFFSET], _OFFSET, 0, _MAX_OFFSET)
    query = read_query(keys, most, is_relational=True)
    return Search(query, limit, offset, tuple(remarks))


def find_page(holdings: Holdings, search: Search, limits: QueryRetrieveSettings) -> Page:
    """Return the matches that are wanted.

    Raises TooManyMatchesError when more files had to be opened than one query may.
    """
    query = search.query
    found = matching(holdings.candidates(query), query, limits, lambda: False)
    wanted = list(islice(found, search.offset, search.offset + search.limit + 1))
    matches = [response_of(query, each) for each in wanted[: search.limit]]
    return Page(matches, has_more=len(wanted) > search.limit)


def addressed(level: Level, match: Dataset) -> Target:
    """Return the resource that a match is (Retrieve URL)."""
    names = [UNIQUE_KEYS[each] for each in (*upper_levels(level), level)]
    return Target(*(str(match.get(name) or "") for name in names))


def with_address(match: Dataset, url: str) -> Dataset:
    """Return a match with what QIDO-RS says of it in addition."""
    match.add_new(tag_of("RetrieveURL"), "UR", url)
    match.InstanceAvailability = "ONLINE"
    return match


def _wanted(
    level: Level, parameters: Sequence[tuple[str, str]]
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the values of each supported key, and the names of all others."""
    supported = supported_keys(level)
    wanted: dict[str, list[str]] = {}
    others = []
    for name, value in parameters:
        keyword = keyword_of(name)
        if keyword in supported:
            wanted.setdefault(keyword, []).append(value)
        else:
            others.append(keyword or name)
    return wanted, others


def joined(keyword: str, values: Sequence[str]) -> str:
    """Return one value; only of UIDs there may be a list (PS3.18 8.3.4.1)."""
    if dictionary_VR(keyword) == "UI":
        return "\\".join(values).replace(",", "\\")
    if len(values) > 1:
        msg = f"{keyword} stands in the query more than once"
        raise ParameterError(msg)
    return values[0]


def _identifier(
    level: Level, fields: Sequence[str], target: Mapping[str, str]
) -> tuple[Dataset, list[str]]:
    """Return universal keys for what is returned, and what of `includefield` cannot be."""
    keys = Dataset()
    keys.QueryRetrieveLevel = level.value
    supported = supported_keys(level)
    shown = [*_returned(level, target)]
    ignored = []
    for name in (each for field in fields for each in field.split(",")):
        if name == "all":
            shown += sorted(supported)
        elif (keyword := keyword_of(name)) in supported:
            shown.append(keyword)
        elif not keyword:
            ignored.append(name)  # no attribute; one that is not known here is left out
    for keyword in shown:
        keys.add(element_of(keyword, ""))
    for keyword, uid in target.items():
        keys.add(element_of(keyword, uid))
    return keys, ignored


def _returned(level: Level, target: Mapping[str, str]) -> Iterator[str]:
    """Yield what is always returned: of the levels above too, unless the path names one there."""
    supported = supported_keys(level)
    for each in (*upper_levels(level), level):
        is_named = UNIQUE_KEYS[each] in target and each is not level
        names = (UNIQUE_KEYS[each],) if is_named else RETURNED[each]
        yield from (name for name in names if name in supported)


def keyword_of(name: str) -> str:
    """Return the keyword that a name or a tag means; empty when there is none."""
    if tag_for_keyword(name) is not None:
        return name
    try:
        return keyword_for_tag(Tag(int(name, 16))) if len(name) == _TAG_DIGITS else ""
    except ValueError:
        return ""


def element_of(keyword: str, value: str) -> DataElement:
    """Return a key of an identifier. Raises ParameterError when the value is none of its VR."""
    vr = dictionary_VR(keyword)
    text = _whole(keyword, value) if vr in {"US", "UL", "IS"} else value
    try:
        return DataElement(tag_of(keyword), vr, text, validation_mode=pydicom.config.IGNORE)
    except (ValueError, TypeError, ArithmeticError) as error:
        msg = f"{keyword} has a value that its VR does not allow"
        raise ParameterError(msg) from error


def _whole(keyword: str, value: str) -> int | None:
    if not value:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > _TAG_DIGITS:
        msg = f"{keyword} must be a whole number"
        raise ParameterError(msg)
    return int(value)


def number_of(given: Sequence[str], name: str, default: int, most: int) -> int:
    """Return a control parameter; more than `most` is `most`."""
    if not given:
        return default
    text = given[-1]
    if not text.isascii() or not text.isdigit():
        msg = f"{name} must be a whole number, 0 or more"
        raise ParameterError(msg)
    return min(most, int(text[:_TAG_DIGITS]))


def not_matched(names: Sequence[str]) -> str:
    """Return the remark that these parameters were not used."""
    known = sorted({name for name in names if name.isalnum() and tag_for_keyword(name)})
    others = len(set(names)) - len(known)
    listed = ", ".join(known) or "none of them an attribute"
    more = f" and {others} more" if known and others else ""
    return f"not used, as no supported key: {listed}{more}"
