"""Which source sends nothing any more, and for how long it may."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dicom_node.drift.images import ALL
from models.monitoring_sections import MonitoringSettings

_MINUTE = 60.0


@dataclass(frozen=True)
class Silence:
    """How long ago the last image of a source came. `seconds` is None where none ever came."""

    source: str
    last_at: datetime | None
    seconds: float | None
    limit_seconds: float | None  # None: its silence is no alarm

    @property
    def is_alarm(self) -> bool:
        """Whether it is too long."""
        return self.limit_seconds is not None and (
            self.seconds is None or self.seconds > self.limit_seconds
        )

    @property
    def sentence(self) -> str:
        """The same for people."""
        if self.seconds is None:
            return f"{self.source}: no image has ever come."
        text = f"{self.source}: the last image came {_said(self.seconds)} ago"
        if self.limit_seconds is None:
            return f"{text}."
        return f"{text}; {_said(self.limit_seconds)} are allowed."

    def as_row(self) -> dict[str, Any]:
        """Return plain values for a listing, with the keys that a drift has too."""
        return {
            "source": self.source,
            "of": "silence",
            "is_known": True,
            "is_alarm": self.is_alarm,
            "last_at": self.last_at.isoformat(timespec="seconds") if self.last_at else None,
            "seconds": self.seconds,
            "limit_seconds": self.limit_seconds,
            "sentence": self.sentence,
        }


def silences(
    last: Mapping[str, datetime], settings: MonitoringSettings, now: datetime
) -> list[Silence]:
    """Return how long each source is silent, by the time of its last image; `all` comes last.

    Sources with a limit of their own are there even if nothing ever came.
    """
    known: dict[str, datetime | None] = dict.fromkeys(settings.no_study_minutes_by_calling_ae)
    known |= {source: at for source, at in last.items() if source != ALL}
    known[ALL] = max(last.values(), default=None)
    return [
        Silence(
            source,
            at,
            max(0.0, (now - at).total_seconds()) if at else None,
            _limit(source, settings),
        )
        for source, at in known.items()
    ]


def _said(seconds: float) -> str:
    """Return a time in the largest unit of which it has two or more."""
    for name, unit in (("days", 86_400.0), ("hours", 3_600.0)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / _MINUTE:.0f} minutes"


def _limit(source: str, settings: MonitoringSettings) -> float | None:
    own = settings.no_study_minutes_by_calling_ae.get(source)
    minutes = settings.no_study_minutes if own is None else own
    return minutes * _MINUTE if minutes else None
