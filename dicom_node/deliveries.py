"""The listing behind `dicom-node deliveries`: every object on its way, and where each stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, false, func, select
from sqlalchemy.orm import Session, aliased

from dicom_node.paging import Page
from dicom_node.sorting import AnyQuery, AnyRow, Segment, Sort
from models.delivery import Delivery, Destination
from models.imaging import Instance, Series, Study
from models.result import Analysis, Artifact
from models.states import DeliveryState

COLUMNS: Final = [
    ("id", "id"),
    ("object", "kind"),
    ("instance", "sop_instance_uid"),
    ("study", "study_instance_uid"),
    ("destination", "destination"),
    ("state", "state"),
    ("attempts", "attempts"),
    ("next attempt", "next_attempt_at"),
    ("status", "status"),
    ("reason", "reason"),
]
_BLOCK: Final = 500
_MOST_OBJECTS: Final = 5000  # of a study, that are looked up one by one
DeliveryCounts = dict[tuple[int, DeliveryState], int]


@dataclass(frozen=True)
class DeliveryFilter:
    """What to list; None means any. `since` and `until` are about when a delivery was planned."""

    state: DeliveryState | None = None
    destination: str | None = None
    study_instance_uid: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def clauses(self, session: Session) -> list[ColumnElement[bool]]:
        """Return the conditions over Delivery; names and UIDs are looked up first."""
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.state, lambda: Delivery.state == self.state),
            (self.destination, lambda: _is_to(session, self.destination or "")),
            (self.study_instance_uid, lambda: _is_of(session, self.study_instance_uid or "")),
            (self.since, lambda: Delivery.created_at >= self.since),
            (self.until, lambda: Delivery.created_at < self.until),
        )
        return [clause() for value, clause in wanted if value is not None]


def deliveries(
    session: Session, wanted: DeliveryFilter, *, descends: bool = False
) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per delivery in the order in which they were planned, in blocks."""
    query = _query(session, wanted).execution_options(yield_per=_BLOCK)
    for part in _sort(wanted, descends=descends).whole(query):
        with session.execute(part) as found:
            for block in found.partitions():
                yield from map(_row, block)


def delivery_page(
    session: Session, wanted: DeliveryFilter, *, descends: bool, cursor: str | None, limit: int
) -> Page[dict[str, Any]]:
    """Return one page of such rows. Raises CursorError unless the cursor is of this order."""
    page = _sort(wanted, descends=descends).page(session, _query(session, wanted), cursor, limit)
    return Page([_row(row) for row in page.rows], page.next)


def _is_to(session: Session, destination: str) -> ColumnElement[bool]:
    key = session.scalar(select(Destination.id).where(Destination.name == destination))
    return false() if key is None else Delivery.destination_id == key


def _is_of(session: Session, study_instance_uid: str) -> ColumnElement[bool]:
    """Return the condition that an object is of the study's report, or of an image of it."""
    study = session.scalar(select(Study.id).where(Study.study_instance_uid == study_instance_uid))
    if study is None:
        return false()
    of_reports = select(Artifact.id).where(Artifact.study_id == study)
    of_images = (
        select(Artifact.id)
        .join(Analysis, Artifact.analysis_id == Analysis.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .where(Series.study_id == study)
    )
    both = of_reports.union_all(of_images)
    # PostgreSQL takes a hundred thousand times as many rows from a query that it cannot look into.
    few = session.scalars(both.limit(_MOST_OBJECTS + 1)).all()
    return Delivery.artifact_id.in_(few if len(few) <= _MOST_OBJECTS else both)


def _sort(wanted: DeliveryFilter, *, descends: bool) -> Sort:
    """Return the order: that of ids, or where a range of time is read, that of its index."""
    name = "planned-desc" if descends else "planned-asc"
    by_id = (Delivery.id, descends)
    if wanted.since is None and wanted.until is None:
        return Sort(name, (Segment((by_id,)),))
    return Sort(f"{name}-at", (Segment(((Delivery.created_at, descends), by_id)),))


def _query(session: Session, wanted: DeliveryFilter) -> AnyQuery:
    """Return the deliveries, each with the study of its report or of the image it was made of."""
    of_image = aliased(Study)
    study_uid = func.coalesce(Study.study_instance_uid, of_image.study_instance_uid)
    return (
        select(Delivery, Destination, Artifact, study_uid)
        .join(Destination, Delivery.destination_id == Destination.id)
        .join(Artifact, Delivery.artifact_id == Artifact.id)
        .outerjoin(Study, Artifact.study_id == Study.id)
        .outerjoin(Analysis, Artifact.analysis_id == Analysis.id)
        .outerjoin(Instance, Analysis.instance_id == Instance.id)
        .outerjoin(Series, Instance.series_id == Series.id)
        .outerjoin(of_image, Series.study_id == of_image.id)
        .where(*wanted.clauses(session))
    )


def _row(row: AnyRow) -> dict[str, Any]:
    delivery, destination, artifact, study_instance_uid, *_ = row
    return {
        "id": delivery.id,
        "kind": artifact.kind.value,
        "sop_instance_uid": artifact.sop_instance_uid,
        "study_instance_uid": study_instance_uid,
        "destination": destination.name,
        "destination_circuit": destination.state.value,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "next_attempt_at": _text(_next_attempt(delivery, destination)),
        "status": delivery.status,
        "reason": delivery.error,
        "created_at": _text(delivery.created_at),
        "sent_at": _text(delivery.sent_at),
    }


def delivery_counts(session: Session) -> DeliveryCounts:
    """Return how many deliveries each destination has in each state; reads the whole table."""
    query = select(Delivery.destination_id, Delivery.state, func.count()).group_by(
        Delivery.destination_id, Delivery.state
    )
    return {(key, state): number for key, state, number in session.execute(query)}


def destinations(session: Session, counts: DeliveryCounts | None = None) -> list[dict[str, Any]]:
    """Return one JSON-ready row per enabled destination, with its circuit and what waits for it.

    `counts` are those of `delivery_counts`, where they are known already.
    """
    known = delivery_counts(session) if counts is None else counts
    rows = session.scalars(select(Destination).where(Destination.enabled).order_by(Destination.id))
    return [
        {
            "name": row.name,
            "ae_title": row.ae_title,
            "host": row.host,
            "port": row.port,
            "circuit": row.state.value,
            "failures": row.failures,
            "away_since": _text(row.opened_at),
            "retry_at": _text(row.retry_at),
            "reason": row.problem,
            "deliveries": {
                state.value: known[row.id, state]
                for state in DeliveryState
                if (row.id, state) in known
            },
        }
        for row in rows
    ]


def _next_attempt(delivery: Delivery, destination: Destination) -> datetime | None:
    """Return the earliest time of the next attempt; None where none is due."""
    if delivery.state is not DeliveryState.DUE:
        return None
    return max(delivery.next_attempt_at, destination.retry_at or delivery.next_attempt_at)


def _text(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="milliseconds") if moment else None
