"""The patient's age at the time of the image, from a header that may lie."""

import re
from datetime import date, datetime
from typing import Final

from pydicom.dataset import Dataset

from worker.header import get_text

ADULT: Final = 18
_OLDEST: Final = 130
_PER_YEAR: Final = {"D": 365.25, "W": 365.25 / 7, "M": 12.0, "Y": 1.0}
_DATES: Final = ("StudyDate", "AcquisitionDate", "ContentDate")


def age_years(ds: Dataset) -> float | None:
    """Return the age in years, None when nothing plausible is stated.

    Patient's Age first (PS3.5 6.2, VR AS; digits without a unit are years, as some archives write
    them), else the first date of the image that lies 0 to 130 years after the birth date. An age
    of zero is what many anonymisers write: dates decide then, and without them it is believed.
    """
    stated = _stated(get_text(ds, "PatientAge"))
    if stated:
        return stated
    reckoned = _reckoned(ds)
    return stated if reckoned is None else reckoned


def _stated(text: str) -> float | None:
    match = re.fullmatch(r"([0-9]{1,3})([DWMY]?)", text.upper())
    if match is None:
        return None
    age = int(match[1]) / _PER_YEAR[match[2] or "Y"]
    return age if age <= _OLDEST else None


def _reckoned(ds: Dataset) -> float | None:
    born = _date(get_text(ds, "PatientBirthDate"))
    if born is None:
        return None
    taken = (_date(get_text(ds, keyword)) for keyword in _DATES)
    ages = (_whole_years(born, day) for day in taken if day is not None)
    return next((float(age) for age in ages if 0 <= age <= _OLDEST), None)


def _whole_years(born: date, day: date) -> int:
    return day.year - born.year - ((day.month, day.day) < (born.month, born.day))


def _date(text: str) -> date | None:
    """Read a DA, also with the separators of ACR-NEMA."""
    try:
        return datetime.strptime(re.sub(r"[.\-/]", "", text), "%Y%m%d").date()  # noqa: DTZ007  a DA has no time zone
    except ValueError:
        return None
