"""Where spool and results are, how full their disks are, and when they will be full."""

import shutil
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.spool import Spool
from models.base import utc_now
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.storage import Store

_WINDOW_DAYS: Final = 7.0
_DAY: Final = 86_400.0
_IN_SIGHT_DAYS: Final = 3_650.0


@dataclass(frozen=True)
class Forecast:
    """One file system of ours. `days_left` is None where it does not fill within ten years."""

    folder: Path
    free_bytes: int
    bytes_per_day: float
    days_left: float | None


def check_disks(settings: Settings, database: Database) -> str:
    """Return when the disks will be full at the rate of the last week.

    Raises RuntimeError when that is within `retention.warn_days`, or when files being received are
    on another file system than the spool, so that they cannot be renamed into it.
    """
    _require_one_file_system(settings.image_store)
    with database.read() as session:
        found = forecasts(session, settings)
    for each in found:
        if each.days_left is not None and each.days_left < settings.retention.warn_days:
            msg = (
                f"the disk of {each.folder} will be full in {each.days_left:.1f} days at the rate "
                "of the last week: make it larger, or let retention delete what is delivered"
            )
            raise RuntimeError(msg)
    return "; ".join(_sentence(each) for each in found)


def _sentence(each: Forecast) -> str:
    when = "does not fill"
    if each.days_left is not None:
        when = f"full in {each.days_left:.0f} days"
    return f"{each.folder.name}: {each.free_bytes / 2**30:.1f} GiB free, {when}"


def _require_one_file_system(images: Store) -> None:
    incoming, spool_dir = Spool(images, 0).incoming, images.root
    if incoming.stat().st_dev != spool_dir.stat().st_dev:
        msg = (
            f"{incoming} is on another file system than {spool_dir}: nothing can be received; "
            "move both with storage.spool, not one of them"
        )
        raise RuntimeError(msg)


def forecasts(session: Session, settings: Settings) -> list[Forecast]:
    """Return one forecast per file system that holds spool or results, spool first."""
    images = _growth(session, Instance.size_bytes, Instance.received_at, Instance.purged_at)
    results = _growth(session, Artifact.size_bytes, Artifact.created_at, Artifact.purged_at)
    growth = {settings.spool_dir: images, settings.artifact_dir: results}
    if settings.storage_url is not None:
        growth = dict.fromkeys(growth, 0.0)  # caches: they grow to their size and no further
    by_device: dict[int, tuple[Path, float]] = {}
    for folder, bytes_per_day in growth.items():
        folder.mkdir(parents=True, exist_ok=True)
        first, before = by_device.get(folder.stat().st_dev, (folder, 0.0))
        by_device[folder.stat().st_dev] = (first, before + bytes_per_day)
    return [_forecast(settings, *each) for each in by_device.values()]


def _forecast(settings: Settings, folder: Path, bytes_per_day: float) -> Forecast:
    free = shutil.disk_usage(folder).free
    floor = settings.dicom.min_free_bytes if folder == settings.spool_dir else 0
    days = max(free - floor, 0) / bytes_per_day if bytes_per_day > 0 else None
    in_sight = days if days is not None and days < _IN_SIGHT_DAYS else None
    return Forecast(folder, free, bytes_per_day, in_sight)


def _growth(
    session: Session,
    size: InstrumentedAttribute[int],
    came_at: InstrumentedAttribute[datetime],
    purged_at: InstrumentedAttribute[datetime | None],
) -> float:
    """Return the bytes per day that came in the last week, less those that were purged."""
    now = utc_now()
    since = now - timedelta(days=_WINDOW_DAYS)
    total = func.coalesce(func.sum(size), 0)
    came = session.scalar(select(total).where(came_at >= since)) or 0
    went = session.scalar(select(total).where(purged_at >= since)) or 0
    first = session.scalar(select(func.min(came_at)))
    age = (now - first).total_seconds() / _DAY if first else _WINDOW_DAYS
    return float(came - went) / min(max(age, 1.0), _WINDOW_DAYS)
