"""What is read at each scrape: ages and queues by index, the rows of the last minutes, disks."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import Metric
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.audit.gauges import audit_gauges
from dicom_node.drift.images import ALL, OPACITY_EDGES
from dicom_node.drift.silence import silences
from dicom_node.spool import Spool
from dicom_node.web.metrics.counting import Counts
from dicom_node.web.metrics.table import Key, counter, gauge, histogram
from dicom_node.web.metrics.tallies import SECONDS_EDGES, STAGES
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.job import Job
from models.monitoring_sections import MonitoringSettings
from models.result import ModelVersion
from models.settings import Settings
from models.states import CircuitState, DeliveryState, JobKind, JobState

OTHER: Final = "other"
_OPEN: Final = (DeliveryState.DUE, DeliveryState.SENDING)


def of_disks(settings: Settings) -> Iterator[Metric]:
    """Yield what the disks have; of one that cannot be read: nothing, and `spool_up` says so."""
    folders = {
        "spool": settings.spool_dir,
        "artifacts": settings.artifact_dir,
        "data": settings.data_dir,
    }
    usages = {name: usage for name, path in folders.items() if (usage := _usage(path))}
    for metric, place in (("disk_free_bytes", 1), ("disk_size_bytes", 0)):
        values = [((name,), usage[place]) for name, usage in usages.items()]
        yield gauge(metric, values, ("folder",))
    try:
        spool = Spool(settings.image_store, settings.dicom.min_free_bytes)
        free = spool.free_bytes()
    except OSError:
        yield gauge("spool_up", [((), 0)])
        return
    yield gauge("spool_up", [((), 1)])
    yield gauge("spool_free_bytes", [((), free)])
    yield gauge("spool_floor_bytes", [((), spool.min_free_bytes)])


def _usage(folder: Path) -> tuple[int, int] | None:
    """Return size and free bytes of the disk of a folder."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.total, usage.free


def of_rows(session: Session) -> Iterator[Metric]:
    """Yield what few rows say, found by index. Raises sqlalchemy.exc.SQLAlchemyError."""
    pending = Job.state == JobState.PENDING
    due = _age(session, select(func.min(Job.not_before)).where(pending))
    published = _age(session, select(func.min(Job.published_at)).where(pending))
    is_expired = (Job.state == JobState.LEASED) & (Job.lease_until < utc_now())
    expired = session.scalar(select(func.count()).select_from(Job).where(is_expired)) or 0
    by_kind = select(Job.kind, func.count()).where(pending).group_by(Job.kind)
    waiting = dict.fromkeys(JobKind, 0) | dict(session.execute(by_kind).all())
    receivers = session.scalars(select(Destination).order_by(Destination.id)).all()
    deliveries = list(_oldest_deliveries(session, [(it.id, it.name) for it in receivers]))
    audit = audit_gauges(session)
    yield gauge("oldest_pending_job_seconds", [((), due)])
    yield gauge("oldest_published_job_seconds", [((), published)])
    yield gauge("expired_leases", [((), expired)])
    yield gauge(
        "queue_length", [((it.value,), number) for it, number in waiting.items()], ("kind",)
    )
    yield gauge("oldest_due_delivery_seconds", deliveries, ("destination",))
    up = [((it.name,), it.state is CircuitState.CLOSED) for it in receivers if it.enabled]
    yield gauge("destination_up", up, ("destination",))
    for name, value in vars(audit).items():
        yield gauge(f"audit_{name}", [] if value is None else [((), value)])


def _oldest_deliveries(
    session: Session, receivers: list[tuple[int, str]]
) -> Iterator[tuple[Key, float]]:
    for key, name in receivers:
        # OFFSET keeps PostgreSQL from looking for the oldest first, through all that were sent.
        is_open = (Delivery.destination_id == key) & Delivery.state.in_(_OPEN)
        waiting = select(Delivery.created_at).where(is_open).offset(0).subquery()
        yield (name,), _age(session, select(func.min(waiting.c.created_at)))


def _age(session: Session, oldest: Any) -> float:  # noqa: ANN401  a query of one time
    """Return for how long the time that the query gives is past; 0 without one."""
    at: datetime | None = session.scalar(oldest)
    return max(0.0, (utc_now() - at).total_seconds()) if at else 0.0


def of_received(counts: Counts, settings: MonitoringSettings) -> Iterator[Metric]:
    """Yield intake by source, and how long each is silent.

    So many sources as the settings say have a label of their own: those that came first keep it
    for good, or the ones that the settings name.
    """
    own = _labels(counts, settings)
    objects: dict[Key, float] = {}
    sizes: dict[Key, float] = {}
    last: dict[str, datetime] = {}
    for (calling_aet,), (number, size, _, received_at) in counts.items():
        key = (calling_aet if calling_aet in own else OTHER,)
        objects[key] = objects.get(key, 0) + number
        sizes[key] = sizes.get(key, 0) + size
        last[key[0]] = max(last.get(key[0], received_at), received_at)
    yield counter("received_total", sorted(objects.items()), ("source",))
    yield counter("received_bytes_total", sorted(sizes.items()), ("source",))
    found = silences(last, settings, utc_now())
    ages = [((it.source,), it.seconds) for it in found if it.seconds is not None]
    limits = [((it.source,), it.limit_seconds) for it in found if it.limit_seconds is not None]
    yield gauge("no_study_seconds", ages, ("source",))
    yield gauge("no_study_limit_seconds", limits, ("source",))


def _labels(counts: Counts, settings: MonitoringSettings) -> set[str]:
    """Return the sources that have a label of their own. No AE title may be one that we use."""
    if settings.sources:
        found = {*settings.sources, *settings.no_study_minutes_by_calling_ae}
    else:
        in_order = sorted(counts, key=lambda key: counts[key][2])
        found = {key[0] for key in in_order[: settings.max_sources]}
        found |= settings.no_study_minutes_by_calling_ae.keys()
    return found - {ALL, OTHER}


def of_events(counts: Counts) -> Iterator[Metric]:
    """Yield the events of the audit. Outcomes are codes of ours, of which there are few."""
    values = [((action.value, outcome), number) for (action, outcome), (number,) in counts.items()]
    yield counter("events_total", sorted(values), ("action", "outcome"))


def of_sends(counts: Counts, names: Mapping[int, str]) -> Iterator[Metric]:
    """Yield what destinations answered."""
    values = [
        ((names.get(key, OTHER), outcome, "none" if status is None else f"0x{status:04X}"), number)
        for (key, outcome, status), (number,) in counts.items()
    ]
    yield counter("sends_total", sorted(values), ("destination", "outcome", "status"))


def of_analyses(counts: Counts, models: Mapping[int, Key]) -> Iterator[Metric]:
    """Yield the histograms of figures and seconds."""
    bins: dict[str, dict[Key, dict[int, float]]] = {}
    totals: dict[tuple[str, Key], float] = {}
    for (measure, model, place), (number, total) in counts.items():
        key = (measure,) if measure in STAGES else models.get(model, (OTHER, OTHER))
        of_key = bins.setdefault(measure, {}).setdefault(key, {})
        of_key[place] = of_key.get(place, 0) + number
        totals[measure, key] = totals.get((measure, key), 0.0) + float(total)

    def values(measure: str) -> list[tuple[Key, Mapping[int, float], float]]:
        found = sorted(bins.get(measure, {}).items())
        return [(key, of_key, totals[measure, key]) for key, of_key in found]

    of_model = ("model", "version")
    yield histogram("opacity_percent", values("opacity"), OPACITY_EDGES, of_model)
    yield histogram("analysis_seconds", values("seconds"), SECONDS_EDGES, of_model)
    stages = [each for stage in STAGES for each in values(stage)]
    yield histogram("analysis_stage_seconds", stages, SECONDS_EDGES, ("stage",))


def names_of(session: Session) -> tuple[dict[int, str], dict[int, Key]]:
    """Return the names of destinations, and of models with their versions, by id."""
    destinations = {it.id: it.name for it in session.scalars(select(Destination))}
    models: dict[int, Key] = {
        it.id: (it.name, it.version) for it in session.scalars(select(ModelVersion))
    }
    return destinations, models
