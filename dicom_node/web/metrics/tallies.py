"""What is counted from rows that never change: intake, events, sendings, figures and seconds."""

from collections.abc import Iterator
from operator import add
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    case,
    func,
    literal,
    literal_column,
    select,
    union_all,
)
from sqlalchemy.orm import InstrumentedAttribute

from dicom_node.drift.images import OPACITY_EDGES
from dicom_node.sorting import AnyQuery
from dicom_node.web.metrics.counting import Tally
from models.audit import AuditAction, AuditEvent
from models.delivery import Delivery
from models.imaging import Instance
from models.result import Analysis

SECONDS_EDGES: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 240.0)

# What is measured of an analysis: the column, and the bins of its histogram.
_MEASURED: Final[dict[str, tuple[InstrumentedAttribute[Any], tuple[float, ...]]]] = {
    "opacity": (Analysis.opacity_percent_total, OPACITY_EDGES),
    "seconds": (Analysis.seconds, SECONDS_EDGES),
    "decode": (Analysis.decode_seconds, SECONDS_EDGES),
    "gate": (Analysis.gate_seconds, SECONDS_EDGES),
    "inference": (Analysis.inference_seconds, SECONDS_EDGES),
    "measure": (Analysis.measure_seconds, SECONDS_EDGES),
    "objects": (Analysis.objects_seconds, SECONDS_EDGES),
}
STAGES: Final = ("decode", "gate", "inference", "measure", "objects")


def _received(where: ColumnElement[bool]) -> AnyQuery:
    numbers = (
        func.count(),
        func.sum(Instance.size_bytes),
        func.min(Instance.id),
        func.max(Instance.received_at),
    )
    return select(Instance.calling_aet, *numbers).where(where).group_by(Instance.calling_aet)


def _events(where: ColumnElement[bool]) -> AnyQuery:
    keys = (AuditEvent.action, AuditEvent.outcome)
    return select(*keys, func.count()).where(where).group_by(*keys)


def _sends(where: ColumnElement[bool]) -> AnyQuery:
    keys = (Delivery.destination_id, AuditEvent.outcome, AuditEvent.status)
    return (
        select(*keys, func.count())
        .join(Delivery, AuditEvent.details["delivery"].as_integer() == Delivery.id)
        .where(where, AuditEvent.action == AuditAction.ARTIFACT_SENT)
        .group_by(*keys)
    )


def _analyses(where: ColumnElement[bool]) -> AnyQuery:
    parts = list(_measured(where))
    rows = union_all(*parts).subquery()
    return select(rows)


def _measured(where: ColumnElement[bool]) -> Iterator[AnyQuery]:
    for name, (column, edges) in _MEASURED.items():
        place = bin_of(column, edges).label("bin")
        numbers = (func.count().label("number"), func.sum(column).label("total"))
        yield (
            select(literal(name).label("measure"), Analysis.model_version_id, place, *numbers)
            .where(where, column.is_not(None))
            .group_by(Analysis.model_version_id, literal_column("bin"))
        )


def bin_of(column: InstrumentedAttribute[Any], edges: tuple[float, ...]) -> ColumnElement[int]:
    """Return the place of a value among the edges: the first edge that it does not exceed."""
    ordered = [(column <= edge, place) for place, edge in enumerate(edges)]
    return case(*ordered, else_=len(edges))


RECEIVED: Final = Tally(Instance, _received, 1, (add, add, min, max))
EVENTS: Final = Tally(AuditEvent, _events, 2)
SENDS: Final = Tally(AuditEvent, _sends, 3)
ANALYSES: Final = Tally(Analysis, _analyses, 3, (add, add))
