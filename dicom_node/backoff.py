"""How long to wait before the next attempt, and whether that time has come."""

import random
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, or_
from sqlalchemy.orm import InstrumentedAttribute

from models.base import utc_now
from models.sections import DeliverySettings

JITTER: Final = 0.5  # a pause is varied by up to this part of itself


def backoff(settings: DeliverySettings, attempts: int, cap_seconds: float | None = None) -> float:
    """Return seconds to wait after `attempts` failures: doubling, capped, with ±50 % jitter.

    Jitter is for senders that failed together: they must not come back together. The cap is
    `backoff_cap_seconds` unless another is given.
    """
    doubled = settings.backoff_seconds * 2.0 ** min(attempts - 1, 30)
    cap = settings.backoff_cap_seconds if cap_seconds is None else cap_seconds
    return min(cap, doubled) * random.uniform(1 - JITTER, 1 + JITTER)


def longest_pause(settings: DeliverySettings) -> float:
    """Return the longest pause in seconds that the settings allow."""
    longest = max(settings.backoff_cap_seconds, settings.circuit_cap_seconds)
    return (1 + JITTER) * longest


def longest_lease(settings: DeliverySettings, objects: int) -> float:
    """Return the seconds that a batch may take at worst."""
    return settings.lease_seconds + settings.timeout_seconds * objects


def has_come(moment: datetime | None, longest_seconds: float) -> bool:
    """Say whether a time that was set at most `longest_seconds` ahead has come.

    One that lies further ahead was set before the clock was put back: it counts as past, so that
    nothing waits for the difference.
    """
    if moment is None:
        return True
    ahead = (moment - utc_now()).total_seconds()
    return ahead <= 0 or ahead > longest_seconds


def is_past(
    column: InstrumentedAttribute[datetime] | InstrumentedAttribute[datetime | None],
    longest_seconds: float,
) -> ColumnElement[bool]:
    """Return the condition that `has_come` states; NULL has not come."""
    now = utc_now()
    return or_(column <= now, column > now + timedelta(seconds=longest_seconds))
