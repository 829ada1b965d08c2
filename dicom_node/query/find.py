"""C-FIND: the entities that match, as response identifiers (PS3.4 C.4.1)."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from dicom_node.errors import QueryCancelledError, TooManyMatchesError
from dicom_node.query.held import Candidate
from dicom_node.query.keys import UNIQUE_KEYS, Query, tag_of
from dicom_node.query.stored import read_stored, texts_of
from models.sections import QueryRetrieveSettings

_INTEGERS: Final = frozenset({"US", "UL", "SS"})
_UTF_8: Final = "ISO_IR 192"  # PS3.3 C.12.1.1.2


class _Files:
    """Reads files of candidates, so many for one query and no more."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._opened = 0

    def read(self, path: Path, last_tag: int) -> Dataset:
        """Return the elements up to `last_tag`; none when the file is gone or damaged.

        Raises TooManyMatchesError when the query has opened its share of files.
        """
        self._opened += 1
        if self._opened > self._limit:
            msg = f"more than {self._limit} files to open: narrow the query"
            raise TooManyMatchesError(msg)
        return read_stored(path, last_tag)


class Entity:
    """The attributes of one candidate, those of its file read when the first is asked for."""

    def __init__(self, candidate: Candidate, files: _Files, keywords: Iterable[str]) -> None:
        self._candidate = candidate
        self._files = files
        self._last_tag = max(map(tag_of, keywords))
        self._head: Dataset | None = None

    def values(self, keyword: str) -> Sequence[str]:
        """Return the values of an attribute as text; none when it is absent or empty."""
        if keyword in self._candidate.columns:
            return self._candidate.columns[keyword]
        if self._candidate.path is None:
            return ()
        if self._head is None:
            self._head = self._files.read(self._candidate.path, self._last_tag)
        return texts_of(self._head, keyword)

    def is_known(self, keyword: str) -> bool:
        """Say whether rows have the attribute."""
        return keyword in self._candidate.columns


def find(
    candidates: Iterable[Candidate],
    query: Query,
    limits: QueryRetrieveSettings,
    is_cancelled: Callable[[], bool],
) -> Iterator[Dataset]:
    """Yield a response identifier for each candidate that matches, as it is found.

    Raises QueryCancelledError when `is_cancelled` says so, TooManyMatchesError at a limit.
    """
    for number, entity in enumerate(matching(candidates, query, limits, is_cancelled), start=1):
        if number > limits.max_results:
            msg = f"more than {limits.max_results} matches: narrow the query"
            raise TooManyMatchesError(msg)
        ds = response_of(query, entity)
        for tag, vr in query.unsupported:
            ds.add_new(tag, vr, [] if vr == "SQ" else None)
        ds.QueryRetrieveLevel = query.level.value
        yield ds


def matching(
    candidates: Iterable[Candidate],
    query: Query,
    limits: QueryRetrieveSettings,
    is_cancelled: Callable[[], bool],
) -> Iterator[Entity]:
    """Yield each candidate that matches, as it is found.

    Raises QueryCancelledError when `is_cancelled` says so, TooManyMatchesError when more files had
    to be opened than one query may.
    """
    files = _Files(limits.max_files)
    for candidate in candidates:
        if is_cancelled():
            raise QueryCancelledError
        entity = Entity(candidate, files, query.conditions)
        if _holds(query, entity):
            yield entity


def _holds(query: Query, entity: Entity) -> bool:
    """Say whether every condition holds; those on rows first, since a file costs more."""
    asked = (keyword for keyword, it in query.conditions.items() if not it.is_universal)
    ordered = sorted(asked, key=lambda keyword: not entity.is_known(keyword))
    if not all(query.conditions[each].holds(entity.values(each)) for each in ordered):
        return False
    # The file of a result may be gone: then nothing says which series it is.
    return bool(entity.values(UNIQUE_KEYS[query.level]))


def response_of(query: Query, entity: Entity) -> Dataset:
    """Return the attributes of a match that the query names, in Unicode where ASCII is too small.

    Raises TooManyMatchesError as `matching`: they may stand in its file.
    """
    ds = Dataset()
    is_ascii = True
    for keyword in query.conditions:
        vr = dictionary_VR(keyword)
        texts = entity.values(keyword)
        is_ascii = is_ascii and all(text.isascii() for text in texts)
        values = list(map(int, texts)) if vr in _INTEGERS else list(texts)
        try:
            ds.add_new(tag_of(keyword), vr, values if len(values) > 1 else (values or [None])[0])
        except ValueError:  # the file has something that is no value of its VR
            ds.add_new(tag_of(keyword), vr, None)
    if not is_ascii:
        ds.SpecificCharacterSet = _UTF_8
    return ds
