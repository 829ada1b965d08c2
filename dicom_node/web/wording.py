"""How values read on a page: numbers, times, bands and states, each with one wording everywhere."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from models.base import utc_now

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_DATE_LENGTH: Final = 8  # PS3.5 6.2, VR DA
_STEP: Final = 1024
UNKNOWN: Final = "\N{EM DASH}"


def percent(value: float | None) -> str:
    """Return a percentage with one decimal; a dash where there is none, which is not 0 %."""
    return UNKNOWN if value is None else f"{value:.1f}"


def points(value: float | None) -> str:
    """Return a change in percentage points with its sign."""
    if value is None:
        return UNKNOWN
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def moment(value: datetime | str | None) -> str:
    """Return a time in UTC to the second."""
    if value is None:
        return UNKNOWN
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def machine_moment(value: datetime | str | None) -> str:
    """Return a time for the `datetime` attribute, which the browser turns into local time."""
    if value is None:
        return ""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return at.astimezone(UTC).isoformat(timespec="seconds")


def span(seconds: float | None) -> str:
    """Return a length of time in its two largest units."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    for unit, name, smaller, smaller_name in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return (
                f"{whole // unit} {name} {rest} {smaller_name}"
                if rest
                else f"{whole // unit} {name}"
            )
    return f"{whole} s"


def age(value: datetime | None) -> str:
    """Return for how long a time is past."""
    return UNKNOWN if value is None else span((utc_now() - value).total_seconds())


def dicom_date(value: str | None) -> str:
    """Return a DICOM date with hyphens; any other text as it is."""
    if value is None:
        return UNKNOWN
    if len(value) == _DATE_LENGTH and value.isdecimal():
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


def size(value: float | None) -> str:
    """Return bytes in the largest unit that leaves a number above one."""
    if value is None:
        return UNKNOWN
    left = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(left) < _STEP:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= _STEP
    return f"{left:.1f} TiB"


def words(value: object) -> str:
    """Return a code as people read it: `not_analysed` is `not analysed`."""
    return UNKNOWN if value is None else str(value).replace("_", " ")


def or_dash(value: object) -> str:
    """Return a text, or a dash where it is missing or empty."""
    return UNKNOWN if value is None or value == "" else str(value)


def status_code(value: int | None) -> str:
    """Return a DIMSE or HTTP status as its standard writes it."""
    return UNKNOWN if value is None else f"0x{value:04X}"


FILTERS: Final[dict[str, Callable[..., Any]]] = {
    "percent": percent,
    "points": points,
    "moment": moment,
    "machine_moment": machine_moment,
    "span": span,
    "age": age,
    "dicom_date": dicom_date,
    "size": size,
    "words": words,
    "or_dash": or_dash,
    "status_code": status_code,
}
