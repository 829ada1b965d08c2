"""The keys of the Study Root model that are supported, and how an identifier is read.

One table: what is matched and returned, and what the conformance statement lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from dicom_node.errors import IdentifierError, IdentifierUnreadableError
from dicom_node.query.match import Condition, KeyValueError

_MAX_VALUE: Final = 256  # characters; a PN has at most 3 x 64 and two delimiters (PS3.5 6.2)
_MAX_UID: Final = 64  # PS3.5 9.1
_MAX_KEYS: Final = 128  # of one identifier: those that are not supported return in every match
_MAX_VALUES: Final = 64  # of one key that is no list of UIDs
_UID_CHARACTERS: Final = frozenset("0123456789.")
# What an identifier says about itself, no keys (PS3.4 C.4.1.1.3.1).
_NO_KEYS: Final = frozenset(
    {
        "SpecificCharacterSet",
        "QueryRetrieveLevel",
        "QueryRetrieveView",
        "TimezoneOffsetFromUTC",
        "RetrieveAETitle",
        "InstanceAvailability",
    }
)


class Level(StrEnum):
    """Query/Retrieve Level of the Study Root model (PS3.4 C.6.2.1)."""

    STUDY = "STUDY"
    SERIES = "SERIES"
    IMAGE = "IMAGE"


class Kind(StrEnum):
    """Type of a key (PS3.4 C.2.2.1)."""

    UNIQUE = "U"
    REQUIRED = "R"
    OPTIONAL = "O"


_U, _R, _O = Kind

UNIQUE_KEYS: Final[dict[Level, str]] = {
    Level.STUDY: "StudyInstanceUID",
    Level.SERIES: "SeriesInstanceUID",
    Level.IMAGE: "SOPInstanceUID",
}

# PS3.4 Tables C.6-5, C.6-3 and C.6-4
KEYS: Final[dict[Level, dict[str, Kind]]] = {
    Level.STUDY: {
        "StudyInstanceUID": _U,
        "StudyDate": _R,
        "StudyTime": _R,
        "AccessionNumber": _R,
        "PatientName": _R,
        "PatientID": _R,
        "StudyID": _R,
        "IssuerOfPatientID": _O,
        "PatientBirthDate": _O,
        "PatientSex": _O,
        "PatientAge": _O,
        "ReferringPhysicianName": _O,
        "StudyDescription": _O,
        "ModalitiesInStudy": _O,
        "SOPClassesInStudy": _O,
        "NumberOfStudyRelatedSeries": _O,
        "NumberOfStudyRelatedInstances": _O,
    },
    Level.SERIES: {
        "SeriesInstanceUID": _U,
        "Modality": _R,
        "SeriesNumber": _R,
        "SeriesDate": _O,
        "SeriesTime": _O,
        "SeriesDescription": _O,
        "BodyPartExamined": _O,
        "ProtocolName": _O,
        "PerformedProcedureStepStartDate": _O,
        "PerformedProcedureStepStartTime": _O,
        "Manufacturer": _O,
        "ManufacturerModelName": _O,
        "StationName": _O,
        "InstitutionName": _O,
        "NumberOfSeriesRelatedInstances": _O,
    },
    Level.IMAGE: {
        "SOPInstanceUID": _U,
        "InstanceNumber": _R,
        "SOPClassUID": _O,
        "ContentDate": _O,
        "ContentTime": _O,
        "AcquisitionDate": _O,
        "AcquisitionTime": _O,
        "ImageType": _O,
        "ViewPosition": _O,
        "NumberOfFrames": _O,
        "Rows": _O,
        "Columns": _O,
        "BitsAllocated": _O,
    },
}
# Of studies and series, never of what is in them: they are counted, no object has them.
COUNTED: Final = frozenset(
    {
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
        "NumberOfSeriesRelatedInstances",
    }
)


@dataclass(frozen=True)
class Query:
    """What a query asks: a condition for each key that is supported, universal ones among them.

    Those on the unique keys of the levels above are always there: one UID each, or in a relational
    query any number. `unsupported` are the tags and VRs of keys that C-FIND returns empty.
    """

    level: Level
    conditions: Mapping[str, Condition]
    unsupported: tuple[tuple[BaseTag, str], ...] = ()


@dataclass(frozen=True)
class Selection:
    """What a C-MOVE or C-GET asks: UIDs by their keyword, one of each level above."""

    level: Level
    uids: Mapping[str, tuple[str, ...]]


def read_query(identifier: Dataset, max_uids: int, *, is_relational: bool = False) -> Query:
    """Read the identifier of a C-FIND (PS3.4 C.4.1.1.3).

    A relational query (PS3.4 C.4.1.2.2.2) need not name one entity of each level above, and may
    have their keys.

    Raises IdentifierError when level and unique keys do not fit, or a value is none of its VR,
    IdentifierUnreadableError when there are too many keys.
    """
    if len(identifier) > _MAX_KEYS:
        msg = f"the identifier has more than {_MAX_KEYS} keys"
        raise IdentifierUnreadableError(msg)
    level = _level(identifier)
    supported = supported_keys(level) if is_relational else KEYS[level].keys()
    conditions = _any_above(level) if is_relational else _above(identifier, level)
    unsupported = []
    for tag in sorted(identifier.keys()):
        keyword = keyword_for_tag(tag)
        if keyword in _NO_KEYS or Tag(tag).element == 0:
            continue
        if keyword in conditions and not is_relational:
            continue
        if keyword in supported:
            conditions[keyword] = _condition(identifier, keyword, max_uids)
        else:
            unsupported.append((Tag(tag), _vr(identifier, Tag(tag))))
    unique = UNIQUE_KEYS[level]
    conditions.setdefault(unique, Condition("UI"))
    return Query(level, conditions, tuple(unsupported))


def read_selection(identifier: Dataset, max_uids: int) -> Selection:
    """Read the identifier of a C-MOVE or C-GET (PS3.4 C.4.2.1.4.1); other keys are ignored.

    Raises IdentifierError when level and unique keys do not fit.
    """
    level = _level(identifier)
    uids = {keyword: it.values for keyword, it in _above(identifier, level).items()}
    unique = UNIQUE_KEYS[level]
    uids[unique] = _uids(identifier, unique, max_uids)
    if not uids[unique]:
        msg = f"{unique} is required at this level"
        raise IdentifierError(msg, unique)
    return Selection(level, uids)


def _level(identifier: Dataset) -> Level:
    texts = _texts(identifier, "QueryRetrieveLevel")
    try:
        return Level(*texts)
    except (ValueError, TypeError) as error:
        msg = "QueryRetrieveLevel must be STUDY, SERIES or IMAGE"
        raise IdentifierError(msg, "QueryRetrieveLevel") from error


def _above(identifier: Dataset, level: Level) -> dict[str, Condition]:
    """Return the conditions on the unique keys above `level`: one UID each (PS3.4 C.4.1.2.2.1)."""
    found = {}
    for upper in upper_levels(level):
        keyword = UNIQUE_KEYS[upper]
        uids = _uids(identifier, keyword, 1)
        if len(uids) != 1:
            msg = f"one {keyword} is required at this level"
            raise IdentifierError(msg, keyword)
        found[keyword] = Condition("UI", uids)
    return found


def _any_above(level: Level) -> dict[str, Condition]:
    """Return universal conditions on the unique keys above `level`."""
    return {UNIQUE_KEYS[upper]: Condition("UI") for upper in upper_levels(level)}


def upper_levels(level: Level) -> list[Level]:
    """Return the levels above, the highest one first."""
    levels = list(Level)
    return levels[: levels.index(level)]


def supported_keys(level: Level) -> frozenset[str]:
    """Return the keys that a relational query may have: of its level and of those above."""
    above = {keyword for upper in upper_levels(level) for keyword in KEYS[upper]}
    return frozenset(KEYS[level]) | (above - COUNTED)


def _condition(identifier: Dataset, keyword: str, max_uids: int) -> Condition:
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return Condition(vr, _uids(identifier, keyword, max_uids))
    condition = Condition(vr, _texts(identifier, keyword))
    if len(condition.values) > _MAX_VALUES:
        msg = f"{keyword} has more than {_MAX_VALUES} values"
        raise IdentifierError(msg, keyword)
    try:
        condition.check()
    except KeyValueError as error:
        msg = f"{keyword} {error}"
        raise IdentifierError(msg, keyword) from error
    return condition


def _uids(identifier: Dataset, keyword: str, at_most: int) -> tuple[str, ...]:
    texts = _texts(identifier, keyword)
    if texts == ("*",):
        return ()
    if len(texts) > at_most:
        msg = f"{keyword} has more than {at_most} values"
        raise IdentifierError(msg, keyword)
    for text in texts:
        if len(text) > _MAX_UID or not _UID_CHARACTERS.issuperset(text):
            msg = f"{keyword} is no UID"
            raise IdentifierError(msg, keyword)
    return texts


def _texts(identifier: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of an element as text, empty ones left out; none when it is absent."""
    if keyword not in identifier:
        return ()
    try:
        value = identifier[keyword].value
    except Exception as error:
        msg = f"{keyword} cannot be read"
        raise IdentifierError(msg, keyword) from error
    if isinstance(value, bytes) or identifier[keyword].VR == "SQ":
        msg = f"{keyword} has another VR than the Standard's"
        raise IdentifierError(msg, keyword)
    values = value if isinstance(value, MultiValue) else [value]
    texts = [str(each).replace("\0", "").strip() for each in values if each is not None]
    if any(len(text) > _MAX_VALUE for text in texts):
        msg = f"{keyword} has more than {_MAX_VALUE} characters"
        raise IdentifierError(msg, keyword)
    return tuple(text for text in texts if text)


def _vr(identifier: Dataset, tag: BaseTag) -> str:
    vr = identifier.get_item(tag).VR  # of a raw element too, without reading its value
    try:
        return vr or dictionary_VR(tag)
    except KeyError:
        return "UN"


def tag_of(keyword: str) -> BaseTag:
    """Return the tag of a keyword of PS3.6."""
    return Tag(tag_for_keyword(keyword) or 0)
