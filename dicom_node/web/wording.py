"""How values read on a page: numbers, times, bands and states, each with one wording everywhere."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode

from pydantic import BaseModel

from models.base import utc_now
from models.reasons import SENTENCES, Reason

_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_DATE_LENGTH: Final = 8  # PS3.5 6.2, VR DA
_STEP: Final = 1024
UNKNOWN: Final = "\N{EM DASH}"
Moment = datetime | str | None  # a listing has times as text


def percent(value: float | None) -> str:
    """Return a percentage with one decimal; a dash where there is none, which is not 0 %."""
    return UNKNOWN if value is None else f"{value:.1f}"


def points(value: float | None) -> str:
    """Return a change in percentage points with its sign."""
    if value is None:
        return UNKNOWN
    return f"{value:+.1f}".replace("-", "\N{MINUS SIGN}")


def moment(value: Moment) -> str:
    """Return a time in UTC to the second."""
    at = _parsed(value)
    return UNKNOWN if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def machine_moment(value: Moment) -> str:
    """Return a time for the `datetime` attribute, which the browser turns into local time."""
    at = _parsed(value)
    return "" if at is None else at.isoformat(timespec="seconds")


def _parsed(value: Moment) -> datetime | None:
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    return None if at is None else at.astimezone(UTC)


def span(seconds: float | None) -> str:
    """Return a length of time: seconds, minutes, or two units where it is longer than an hour."""
    if seconds is None:
        return UNKNOWN
    whole = max(0, int(seconds))
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min"
    unit, name, smaller, smaller_name = (
        (_DAY, "d", _HOUR, "h") if whole >= _DAY else (_HOUR, "h", _MINUTE, "min")
    )
    rest = whole % unit // smaller
    return f"{whole // unit} {name} {rest} {smaller_name}" if rest else f"{whole // unit} {name}"


def age(value: Moment) -> str:
    """Return for how long a time is past."""
    at = _parsed(value)
    return UNKNOWN if at is None else span((utc_now() - at).total_seconds())


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


# The sentences of worker.types.CAVEAT_SENTENCES and worker.codes, which the node cannot import.
CAVEATS: Final = {
    "uncertain": "Much of the lungs' outline is in doubt, and the percentage with it.",
    "inverted": "The grey scale of the image was inverted and was corrected before analysis.",
    "mirrored": "The heart lies on the other side: left and right may be swapped, "
    "or the patient has dextrocardia.",
    "one_lung": "One lung field is missing or small: the total leaves most of that side out.",
}
SPACINGS: Final = {
    "calibrated": "Pixel spacing calibrated to patient",
    "detector_plane": "Pixel spacing at detector, not corrected for magnification",
    "magnification_corrected": "Detector pixel spacing divided by estimated magnification",
    "film_scan": "Pixel spacing on scanned film, not corrected for magnification",
}
NO_SPACING: Final = "No pixel spacing: areas withheld"


def caveat_sentence(code: str) -> str:
    """Return why a figure deserves a second look."""
    return CAVEATS.get(code, words(code))


def spacing_sentence(basis: str | None) -> str:
    """Return what the areas are based on."""
    return NO_SPACING if basis is None else SPACINGS.get(basis, words(basis))


def reason_sentence(code: str | None) -> str:
    """Return why an image has no figure; a code of another release as it is."""
    if code is None:
        return UNKNOWN
    return SENTENCES[Reason(code)] if code in set(Reason) else words(code)


def square_centimetres(square_millimetres: float | None) -> str:
    """Return an area that people can imagine."""
    return UNKNOWN if square_millimetres is None else f"{square_millimetres / 100:.0f} cm²"


def as_query(wanted: BaseModel, **changes: object) -> str:
    """Return what an address says of a page, without what is not filtered by."""
    said = wanted.model_dump(mode="json") | changes
    return urlencode({name: value for name, value in said.items() if value not in {None, ""}})


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
    "caveat_sentence": caveat_sentence,
    "spacing_sentence": spacing_sentence,
    "reason_sentence": reason_sentence,
    "square_centimetres": square_centimetres,
    "as_query": as_query,
}
