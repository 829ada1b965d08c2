"""When a study was made, by what its objects say of their date, time and time zone."""

import re
from datetime import UTC, datetime, timedelta, timezone
from typing import Final

_DATE: Final = re.compile(r"(\d{4})\.?(\d\d)\.?(\d\d)")  # PS3.5 6.2, with the dots of ACR-NEMA
_TIME: Final = re.compile(r"(\d\d):?(?:(\d\d):?(?:(\d\d)(?:\.\d{1,6})?)?)?")
_OFFSET: Final = re.compile(r"([+-])(\d\d)([0-5]\d)")  # Timezone Offset From UTC (0008,0201)


def exam_time(date: str | None, time: str | None, offset: str | None) -> datetime | None:
    """Return the moment, or None where date or time are missing or none.

    Without an offset the clock on the wall of this host is meant.
    """
    day, clock = _DATE.fullmatch(date or ""), _TIME.fullmatch(time or "")
    if day is None or clock is None:
        return None
    year, month, number = map(int, day.groups())
    hour, minute, second = (int(each or 0) for each in clock.groups())
    zone = _OFFSET.fullmatch(offset or "")
    try:
        moment = datetime(year, month, number, hour, minute, second)  # noqa: DTZ001  its zone follows
        if zone is None:
            return moment.astimezone(UTC)
        away = timedelta(hours=int(zone[2]), minutes=int(zone[3]))
        return moment.replace(tzinfo=timezone(-away if zone[1] == "-" else away)).astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # the 31st of February; a year that no clock has
        return None
