"""What was rejected or given up is due again, when an operator says so."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import circuit
from dicom_node.errors import OperatorError
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Delivery, Destination
from models.session import Database
from models.states import DeliveryState


def retry(
    database: Database,
    delivery_id: int | None = None,
    destination: str | None = None,
    actor: str | None = None,
) -> int:
    """Make rejected and dead deliveries due again; return how many it were.

    All of them, unless one is named or one destination. Destinations that are paused are tried at
    once. `actor` is who asked for it. Raises OperatorError when no destination has that name.
    """
    enabled = select(Destination).where(Destination.enabled)
    if destination is not None:
        enabled = enabled.where(Destination.name == destination)
    with database.write() as session:
        rows = {row.id: row for row in session.scalars(enabled.with_for_update())}
        if destination is not None and not rows:
            msg = f"no destination is named {destination!r}: `dicom-node check` lists them"
            raise OperatorError(msg)
        query = select(Delivery).where(
            Delivery.state.in_((DeliveryState.REJECTED, DeliveryState.DEAD)),
            Delivery.destination_id.in_(rows),
        )
        if delivery_id is not None:
            query = query.where(Delivery.id == delivery_id)
        found = session.scalars(query.order_by(Delivery.id)).all()
        touched = {each.destination_id for each in found} if delivery_id is not None else set(rows)
        for key in touched:
            circuit.end_pause(rows[key])
        number = sum(_due_again(session, delivery) for delivery in found)
        if number:
            details = {"deliveries": number, "delivery": delivery_id, "destination": destination}
            record(session, AuditAction.DELIVERIES_DUE_AGAIN, "due", actor=actor, details=details)
        return number


def _due_again(session: Session, delivery: Delivery) -> bool:
    """Make a delivery due with new attempts, and remember that the object may have arrived.

    A rejected one did not; after an attempt without an answer nobody knows (models.rejection).
    """
    tried = min(delivery.attempts, 1) if delivery.state is DeliveryState.DEAD else 0
    return advance(session, delivery, DeliveryState.DUE, attempts=tried, next_attempt_at=utc_now())
