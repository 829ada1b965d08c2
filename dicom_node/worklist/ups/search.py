"""C-FIND: which workitems match a request, in the order of the worklist (PS3.4 CC.2.8)."""

import re
from collections.abc import Callable, Collection, Iterator
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag
from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session, contains_eager

from dicom_node.errors import (
    IdentifierError,
    IdentifierUnreadableError,
    QueryCancelledError,
    TooManyMatchesError,
)
from dicom_node.paging import after
from dicom_node.query.match import Condition, KeyValueError
from dicom_node.worklist.ups.described import KEYWORDS, PARTS, Describer
from models.imaging import WITHOUT_FIGURE, Study
from models.settings import Settings
from models.states import WorkitemState
from models.workitem import Workitem

_BLOCK: Final = 200
_MAX_KEYS: Final = 128
_MAX_VALUES: Final = 64
_MAX_LENGTH: Final = 256
_MAX_FILES: Final = 10_000
_MAX_DEPTH: Final = 3
_NO_KEYS: Final = frozenset({"SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_FROM_FILES: Final = frozenset((*PARTS["patient"], *PARTS["input"]))
_ORDER: Final = ((Study.reading_order, False), (Study.id, False), (Workitem.id, False))
_MOMENT: Final = re.compile(r"(\d{4,14})(?:\.\d{1,6})?([+-]\d{4})?")  # PS3.5 6.2, DT


class Request:
    """The keys of a C-FIND: what must match, and what is returned."""

    def __init__(self, identifier: Dataset) -> None:
        """Read them. Raises IdentifierError, IdentifierUnreadableError."""
        if len(identifier) > _MAX_KEYS:
            msg = f"the identifier has more than {_MAX_KEYS} keys"
            raise IdentifierUnreadableError(msg)
        self._identifier = identifier
        names = {Tag(tag): keyword_for_tag(tag) for tag in list(identifier.keys())}
        self.supported = [name for name in names.values() if name in KEYWORDS]
        self.unsupported: list[tuple[BaseTag, str]] = [
            (tag, _vr_of(identifier, tag))
            for tag, name in names.items()
            if name not in KEYWORDS and name not in _NO_KEYS and tag.element
        ]
        self._asked: dict[str, DataElement] = {
            name: element
            for name in self.supported
            if not _is_universal(element := _element(identifier, name), name)
        }

        zone = str(identifier.get("TimezoneOffsetFromUTC") or "+0000").strip()
        if zone != "+0000" and any(dictionary_VR(name) == "DT" for name in self._asked):
            msg = "dates and times are asked for in UTC (Timezone Offset From UTC +0000)"
            raise IdentifierError(msg, "TimezoneOffsetFromUTC")

    @property
    def needs_files(self) -> bool:
        """Whether files must be opened to tell if a workitem matches."""
        return not _FROM_FILES.isdisjoint(self._asked)

    def of_rows(self) -> Collection[str]:
        """Return the attributes that must match and cost no file."""
        return [name for name in self._asked if name not in _FROM_FILES]

    def of_files(self) -> Collection[str]:
        """Return those that must match and cost one."""
        return [name for name in self._asked if name in _FROM_FILES]

    def holds(self, ds: Dataset, names: Collection[str]) -> bool:
        """Say whether these attributes match."""
        return all(_matches(self._asked[name], ds, name) for name in names)

    def literals(self, *path: str) -> tuple[str, ...] | None:
        """Return the values of a key when only these match; `path` leads through sequences."""
        ds = self._identifier
        for keyword in path[:-1]:
            items = _items(_element(ds, keyword), keyword) if keyword in ds else []
            if not items:
                return None
            ds = items[0]
        if path[-1] not in ds:
            return None
        condition = _condition(_element(ds, path[-1]), path[-1])
        return None if condition.is_universal else condition.literals


def find(
    session: Session,
    settings: Settings,
    request: Request,
    is_cancelled: Callable[[], bool] = lambda: False,
    skipped: int = 0,
) -> Iterator[Dataset]:
    """Yield the response of each workitem that matches, the most urgent first.

    None is made of the first `skipped` of them.

    Raises TooManyMatchesError where files must be opened, QueryCancelledError.
    """
    describer = Describer(settings, session)
    opened = 0
    for workitem in _candidates(session, settings, request):
        if is_cancelled():
            raise QueryCancelledError
        if not request.holds(describer.describe(workitem, request.of_rows()), request.of_rows()):
            continue
        if request.needs_files:
            opened += 1
            if opened > _MAX_FILES:
                msg = f"more than {_MAX_FILES} files to open: narrow the query"
                raise TooManyMatchesError(msg)
            names = request.of_files()
            if not request.holds(describer.describe(workitem, names), names):
                continue
        if skipped:
            skipped -= 1
            continue
        yield _response(describer, workitem, request)


def at_most(most: int, matches: Iterator[Dataset]) -> Iterator[Dataset]:
    """Yield so many matches. Raises TooManyMatchesError when there are more."""
    for number, match in enumerate(matches):
        if number == most:
            msg = f"more than {most} matches: narrow the query"
            raise TooManyMatchesError(msg)
        yield match


def _response(describer: Describer, workitem: Workitem, request: Request) -> Dataset:
    ds = describer.describe(workitem, request.supported)
    for tag, vr in request.unsupported:
        ds.add_new(tag, vr, [] if vr == "SQ" else None)
    return ds


def _candidates(session: Session, settings: Settings, request: Request) -> Iterator[Workitem]:
    """Yield what the rows do not rule out, in blocks, the highest percentage first."""
    query = (
        select(Workitem)
        .join(Study, Workitem.study_id == Study.id)
        .where(*_clauses(settings, request))
        .order_by(*(column for column, _ in _ORDER))
        .options(contains_eager(Workitem.study))
        .limit(_BLOCK)
    )
    block = session.scalars(query).all()
    while block:
        yield from block
        last = block[-1]
        key = (last.study.reading_order, last.study_id, last.id)
        block = session.scalars(query.where(after(_ORDER, key))).all()


def _clauses(settings: Settings, request: Request) -> list[ColumnElement[bool]]:
    of_request = "ReferencedRequestSequence"
    columns = (
        (Workitem.workitem_uid, ("SOPInstanceUID",)),
        (Study.patient_id, ("PatientID",)),
        (Study.accession_number, (of_request, "AccessionNumber")),
        (Study.study_instance_uid, (of_request, "StudyInstanceUID")),
    )
    clauses: list[ColumnElement[bool]] = []
    for column, path in columns:
        if (values := request.literals(*path)) is not None:
            clauses.append(column.in_(values))
    if (states := request.literals("ProcedureStepState")) is not None:
        clauses.append(Workitem.state.in_([it for it in WorkitemState if it.value in states]))
    if (wanted := request.literals("ScheduledProcedureStepPriority")) is not None:
        clauses.append(_has_priority(settings, wanted))
    return clauses


def _has_priority(settings: Settings, wanted: Collection[str]) -> ColumnElement[bool]:
    priorities = settings.worklist.priorities
    bands = {
        band
        for priority in ("HIGH", "MEDIUM", "LOW")
        if priority in wanted
        for band in priorities.bands(priority)
    }
    named = Study.severity.in_([band for band in bands if band is not None])
    return or_(named, Study.reading_order == WITHOUT_FIGURE) if None in bands else named


def _element(ds: Dataset, keyword: str) -> DataElement:
    try:
        return ds[keyword]
    except Exception as error:
        msg = f"{keyword} cannot be read"
        raise IdentifierError(msg, keyword) from error


def _vr_of(ds: Dataset, tag: BaseTag) -> str:
    vr = ds.get_item(tag).VR  # of a raw element too, without reading its value
    try:
        return vr or dictionary_VR(tag)
    except KeyError:
        return "UN"


def _items(element: DataElement, keyword: str) -> list[Dataset]:
    if element.VR != "SQ" or len(element.value or ()) > 1:  # PS3.4 C.2.2.2.6: one item
        msg = f"{keyword} must be a sequence of at most one item"
        raise IdentifierError(msg, keyword)
    return list(element.value or ())


def _is_universal(element: DataElement, keyword: str, depth: int = 0) -> bool:
    if dictionary_VR(keyword) != "SQ":
        return _condition(element, keyword).is_universal
    if depth > _MAX_DEPTH:
        msg = f"{keyword} is nested too deep"
        raise IdentifierError(msg, keyword)
    return all(
        _is_universal(_element(item, name), name, depth + 1)
        for item in _items(element, keyword)
        for name in _names(item)
    )


def _names(item: Dataset) -> list[str]:
    return [name for tag in list(item.keys()) if (name := keyword_for_tag(tag))]


def _condition(element: DataElement, keyword: str) -> Condition:
    vr = dictionary_VR(keyword)
    if element.VR == "SQ" or isinstance(element.value, bytes):
        msg = f"{keyword} has another VR than the Standard's"
        raise IdentifierError(msg, keyword)
    value = element.value
    values = list(value) if isinstance(value, MultiValue) else [value]
    texts = [str(each).replace("\0", "").strip() for each in values if each is not None]
    texts = [text for text in texts if text]
    if len(texts) > _MAX_VALUES or any(len(text) > _MAX_LENGTH for text in texts):
        msg = f"{keyword} has too many or too long values"
        raise IdentifierError(msg, keyword)
    condition = Condition(vr, tuple(texts))
    try:
        condition.check()
        if vr == "DT":
            [_span(text) for text in texts]
    except KeyValueError as error:
        msg = f"{keyword} {error}"
        raise IdentifierError(msg, keyword) from error
    return condition


def _matches(element: DataElement, ds: Dataset, keyword: str) -> bool:
    if keyword not in ds:
        return False
    found = ds[keyword].value
    if element.VR == "SQ":
        items = _items(element, keyword)
        return not items or any(_item_matches(items[0], each) for each in found or ())
    condition = _condition(element, keyword)
    values = found if isinstance(found, MultiValue) else [found]
    texts = [str(each) for each in values if each is not None]
    if condition.vr == "DT" and not condition.is_universal:
        return any(_is_within(wanted, text) for wanted in condition.values for text in texts)
    return condition.holds(texts)


def _item_matches(wanted: Dataset, item: Dataset) -> bool:
    return all(
        _is_universal(_element(wanted, name), name) or _matches(_element(wanted, name), item, name)
        for name in _names(wanted)
    )


def _is_within(wanted: str, found: str) -> bool:
    low, high = _span(wanted)
    moment = found[:14]
    return low <= moment <= high


def _span(value: str) -> tuple[str, str]:
    """Return first and last second of a DT or a range of them; ours are in UTC.

    Raises KeyValueError. An offset is refused unless it is +0000: nobody is to get other workitems
    than asked for.
    """
    low, hyphen, high = _parted(value)
    ends = []
    for text, filler in ((low, "0"), (high if hyphen else low, "9")):
        if not text:
            ends.append(filler * 14)
            continue
        parts = _MOMENT.fullmatch(text)
        if parts is None or parts[2] not in {None, "+0000"}:
            msg = "is no date and time in UTC (offset +0000) and no range of them"
            raise KeyValueError(msg)
        ends.append(parts[1].ljust(14, filler))
    return ends[0], ends[1]


def _parted(value: str) -> tuple[str, str, str]:
    """Split a range at its hyphen, which is none in front of the four digits of an offset."""
    for at, character in enumerate(value):
        if character == "-" and not re.fullmatch(r"-\d{4}(-.*)?", value[at:]):
            return value[:at].strip(), "-", value[at + 1 :].strip()
    return value.strip(), "", ""
