"""The listing behind `dicom-node deliveries`: every object on its way, and where each stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

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


@dataclass(frozen=True)
class DeliveryFilter:
    """What to list; None means any. `since` and `until` are about when a delivery was planned."""

    state: DeliveryState | None = None
    destination: str | None = None
    study_instance_uid: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: int | None = None  # ids above this one, for the next page
    limit: int | None = None

    def clauses(self, study_instance_uid: ColumnElement[str]) -> list[ColumnElement[bool]]:
        """Return the conditions over Delivery and Destination, and the UID of the study."""
        wanted: tuple[tuple[object, Callable[[], ColumnElement[bool]]], ...] = (
            (self.state, lambda: Delivery.state == self.state),
            (self.destination, lambda: Destination.name == self.destination),
            (self.study_instance_uid, lambda: study_instance_uid == self.study_instance_uid),
            (self.since, lambda: Delivery.created_at >= self.since),
            (self.until, lambda: Delivery.created_at < self.until),
            (self.after, lambda: Delivery.id > self.after),
        )
        return [clause() for value, clause in wanted if value is not None]


def deliveries(session: Session, wanted: DeliveryFilter) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per delivery in the order of their ids, in blocks.

    An object belongs to the study of its report, or of the image that it was made of.
    """
    of_image = aliased(Study)
    study_uid = func.coalesce(Study.study_instance_uid, of_image.study_instance_uid)
    query = (
        select(Delivery, Destination, Artifact, study_uid)
        .join(Destination, Delivery.destination_id == Destination.id)
        .join(Artifact, Delivery.artifact_id == Artifact.id)
        .outerjoin(Study, Artifact.study_id == Study.id)
        .outerjoin(Analysis, Artifact.analysis_id == Analysis.id)
        .outerjoin(Instance, Analysis.instance_id == Instance.id)
        .outerjoin(Series, Instance.series_id == Series.id)
        .outerjoin(of_image, Series.study_id == of_image.id)
        .where(*wanted.clauses(study_uid))
        .order_by(Delivery.id)
        .limit(wanted.limit)
        .execution_options(yield_per=_BLOCK)
    )
    for delivery, destination, artifact, study_instance_uid in session.execute(query):
        yield {
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


def destinations(session: Session) -> list[dict[str, Any]]:
    """Return one JSON-ready row per enabled destination, with its circuit and what waits for it."""
    counts: dict[tuple[int, DeliveryState], int] = {
        (key, state): number
        for key, state, number in session.execute(
            select(Delivery.destination_id, Delivery.state, func.count()).group_by(
                Delivery.destination_id, Delivery.state
            )
        )
    }
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
                state.value: counts[row.id, state]
                for state in DeliveryState
                if (row.id, state) in counts
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
