"""Matching of one key against the values of one entity (PS3.4 C.2.2.2). Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

_DATE: Final = re.compile(r"\d{8}")
_TIME: Final = re.compile(r"(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,6}))?)?)?")
_NUMBERS: Final = frozenset({"IS", "DS", "US", "UL", "SS"})
_NO_WILDCARDS: Final = _NUMBERS | {"UI", "DA", "TM", "AS"}  # PS3.4 C.2.2.2.4
_ANY: Final = "*"

Span = tuple[str, str]  # the first and the last value that match, as text that sorts


class KeyValueError(ValueError):
    """The value of a key is none that its VR allows for matching."""


@dataclass(frozen=True)
class Condition:
    """What a query asks of one attribute. No values: universal matching.

    Several values match when any of them does, as in a list of UIDs (PS3.4 C.2.2.2.2).
    """

    vr: str
    values: tuple[str, ...] = ()

    @property
    def is_universal(self) -> bool:
        """Whether every entity matches, also one without a value."""
        return not self.values or all(set(value) == {_ANY} for value in self.values)

    @property
    def literals(self) -> tuple[str, ...] | None:
        """The values when only these match, exactly; else None."""
        if self.vr in {"UI", "AS"}:
            return self.values
        is_pattern = any("*" in value or "?" in value for value in self.values)
        return None if is_pattern or self.vr in _NUMBERS | {"DA", "TM", "PN"} else self.values

    @property
    def prefix(self) -> str:
        """What a value must begin with, up to the first wildcard. Empty: anything."""
        if len(self.values) != 1 or self.vr in _NO_WILDCARDS | {"PN"}:
            return ""
        return re.split(r"[*?]", self.values[0], maxsplit=1)[0]

    @property
    def days(self) -> Span | None:
        """First and last day of a range or single date; None when it is no date."""
        return _days(self.values[0]) if self.vr == "DA" and len(self.values) == 1 else None

    def check(self) -> None:
        """Raise KeyValueError for a date, time or range that is none."""
        if not self.is_universal:
            for value in self.values:
                _span(self.vr, value)

    def holds(self, found: Sequence[str]) -> bool:
        """Say whether an entity with these values of the attribute matches."""
        if self.is_universal:
            return True
        return any(_matches(self.vr, value, each) for value in self.values for each in found)


def glob(pattern: str, text: str) -> bool:
    """Match `*` (any characters) and `?` (one character); nothing else has a meaning.

    Time grows with the product of the lengths, whatever the pattern: a regular expression of many
    `*` would not end.
    """
    at, of_text, star, mark = 0, 0, -1, 0
    while of_text < len(text):
        if at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, of_text, at + 1
        elif at < len(pattern) and pattern[at] in ("?", text[of_text]):
            at, of_text = at + 1, of_text + 1
        elif star >= 0:
            mark += 1
            at, of_text = star + 1, mark
        else:
            return False
    return set(pattern[at:]) <= {"*"}


def _matches(vr: str, wanted: str, found: str) -> bool:
    if vr in {"DA", "TM"}:
        return _is_within(vr, wanted, found)
    if vr == "PN":
        pattern = _name(wanted)
        return any(glob(pattern, each) for each in _names(found))
    if vr in _NUMBERS:
        return _number(wanted) == _number(found)
    if vr in _NO_WILDCARDS:
        return wanted == found
    return glob(wanted, found)


def _names(found: str) -> Iterable[str]:
    """Yield the whole name and each component group of it (PS3.5 6.2.1.1), comparable."""
    return map(_name, {found, *found.split("=")})


def _name(text: str) -> str:
    """Return a name without what carries no meaning: case, empty components at its end."""
    return text.strip().rstrip("^ ").casefold()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _is_within(vr: str, wanted: str, found: str) -> bool:
    span = _span(vr, wanted)
    try:
        value = _span(vr, found.replace(".", "") if vr == "DA" else found.replace(":", ""))
    except KeyValueError:
        return False  # an object may hold anything
    return span is None or (value is not None and span[0] <= value[0] <= span[1])


def _span(vr: str, value: str) -> Span | None:
    """Return the range that a date or time means. Raises KeyValueError; None for other VRs."""
    if vr == "DA":
        return _days(value)
    return _times(value) if vr == "TM" else None


def _days(value: str) -> Span:
    low, high = _ends(value)
    for day in (low, high):
        if day and not _DATE.fullmatch(day):
            msg = "is no date and no range of dates"
            raise KeyValueError(msg)
    return low or "00000000", high or "99999999"


def _times(value: str) -> Span:
    low, high = _ends(value)
    return _time(low, "00", "0") if low else "", _time(high, "59", "9") if high else "~"


def _time(text: str, unit: str, digit: str) -> str:
    """Return HHMMSS.FFFFFF; what is not given is filled with `unit` and `digit`."""
    parts = _TIME.fullmatch(text)
    if parts is None:
        msg = "is no time and no range of times"
        raise KeyValueError(msg)
    hours, minutes, seconds, fraction = parts.groups()
    return f"{hours}{minutes or unit}{seconds or unit}.{(fraction or '').ljust(6, digit)}"


def _ends(value: str) -> tuple[str, str]:
    """Split a range at its hyphen; a single value is both of its ends."""
    if value.strip() == "-":
        msg = "is a range without ends"
        raise KeyValueError(msg)
    low, hyphen, high = value.partition("-")
    return low.strip(), high.strip() if hyphen else low.strip()
