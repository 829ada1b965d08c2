"""A query string as the identifier of a C-FIND (PS3.18 11.9, 8.3.4).

What matches is decided by `worklist.ups.search`, for both services.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from dicom_node.web.dicomweb.errors import ParameterError
from dicom_node.web.dicomweb.search import element_of, joined, keyword_of, not_matched, number_of
from dicom_node.worklist.ups.described import KEYWORDS
from dicom_node.worklist.ups.search import Request

_LIMIT, _OFFSET, _FUZZY, _INCLUDE = "limit", "offset", "fuzzymatching", "includefield"
_ACCEPT, _REQUESTER = "accept", "requester"  # PS3.18 8.3.3.1, 11.1.2: no keys
_MAX_OFFSET: Final = 10_000  # what lies in front of it is found and left out
_MAX_PARAMETERS: Final = 256
_MAX_DEPTH: Final = 3


@dataclass(frozen=True)
class Search:
    """One search, read: the keys, which part of the matches is wanted, what is not done."""

    request: Request
    limit: int
    offset: int
    remarks: tuple[str, ...] = ()


def read_search(parameters: Sequence[tuple[str, str]], most: int) -> Search:
    """Read a query string; `most` is the largest limit, and the one that is meant without any.

    Attributes of a sequence are named behind it: `ReferencedRequestSequence.AccessionNumber`.
    Raises ParameterError, and QueryError as C-FIND.
    """
    if len(parameters) > _MAX_PARAMETERS:
        msg = f"more than {_MAX_PARAMETERS} parameters"
        raise ParameterError(msg)
    controls = (_LIMIT, _OFFSET, _FUZZY, _INCLUDE, _ACCEPT, _REQUESTER)
    given = {name: [it for key, it in parameters if key == name] for name in controls}
    identifier, ignored = _identifier([each for each in parameters if each[0] not in controls])
    remarks = [not_matched(ignored)] if ignored else []
    if any(each.lower() == "true" for each in given[_FUZZY]):
        remarks.append("fuzzymatching is not supported: literal matching was done")
    return Search(
        Request(identifier),
        number_of(given[_LIMIT], _LIMIT, most, most),
        number_of(given[_OFFSET], _OFFSET, 0, _MAX_OFFSET),
        tuple(remarks),
    )


def _identifier(parameters: Sequence[tuple[str, str]]) -> tuple[Dataset, list[str]]:
    """Return universal keys for every attribute that a workitem has, and those that must match."""
    keys = Dataset()
    for keyword in KEYWORDS:
        keys.add_new(keyword, dictionary_VR(keyword), None)
    values: dict[tuple[str, ...], list[str]] = {}
    ignored = []
    for name, value in parameters:
        path = tuple(keyword_of(each) for each in name.split("."))
        if _is_known(path):
            values.setdefault(path, []).append(value)
        else:
            ignored.append(name)
    for path, several in values.items():
        _item(keys, path[:-1]).add(element_of(path[-1], joined(path[-1], several)))
    return keys, ignored


def _is_known(path: tuple[str, ...]) -> bool:
    """Say whether a path leads through sequences to an attribute that is none."""
    if len(path) > _MAX_DEPTH or path[0] not in KEYWORDS or not all(path):
        return False
    *sequences, last = (dictionary_VR(each) for each in path)
    return last != "SQ" and all(vr == "SQ" for vr in sequences)


def _item(keys: Dataset, path: tuple[str, ...]) -> Dataset:
    """Return the item of the sequences that a path names; it is made where it is not there."""
    for keyword in path:
        if not keys.get(keyword):
            setattr(keys, keyword, [Dataset()])
        keys = keys[keyword].value[0]
    return keys
