"""What was rejected or given up is due again, when an operator says so."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node import circuit
from dicom_node.errors import OperatorError
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Delivery, Destination
from models.session import Database
from models.states import DeliveryState

_BLOCK: Final = 500
_PAUSE_SECONDS: Final = 0.02  # in which whoever waits for SQLite gets the turn


def retry(
    database: Database,
    delivery_id: int | None = None,
    destination: str | None = None,
    actor: str | None = None,
) -> int:
    """Make rejected and dead deliveries due again; return how many it were.

    All of them, unless one is named or one destination. Destinations that are paused are tried at
    once. `actor` is who asked for it. Each block is a transaction with its event: ten thousands in
    one would keep everybody else from writing. Raises OperatorError when no destination has that
    name.
    """
    wanted = _Wanted(delivery_id, destination, actor)
    with database.write() as session:
        _end_pauses(session, wanted)
    number, last = 0, 0
    while True:
        with database.write() as session:
            found = _given_up(session, wanted, last)
            ids = [each.id for each in found]
            number += _block_due(session, wanted, found)
        if len(ids) < _BLOCK:
            return number
        last = ids[-1]
        time.sleep(_PAUSE_SECONDS)


@dataclass(frozen=True)
class _Wanted:
    """What an operator named; None means any."""

    delivery_id: int | None
    destination: str | None
    actor: str | None

    def destinations(self, session: Session) -> dict[int, Destination]:
        """Return the enabled ones by their ids, locked to the end of the transaction."""
        enabled = select(Destination).where(Destination.enabled)
        if self.destination is not None:
            enabled = enabled.where(Destination.name == self.destination)
        return {row.id: row for row in session.scalars(enabled.with_for_update())}


def _end_pauses(session: Session, wanted: _Wanted) -> None:
    rows = wanted.destinations(session)
    if wanted.destination is not None and not rows:
        msg = f"no destination is named {wanted.destination!r}: `dicom-node check` lists them"
        raise OperatorError(msg)
    touched = set(rows)
    if wanted.delivery_id is not None:
        touched = {each.destination_id for each in _given_up(session, wanted, 0)}
    for key in touched:
        circuit.end_pause(rows[key])


def _given_up(session: Session, wanted: _Wanted, last: int) -> Sequence[Delivery]:
    """Return the next block behind the id `last`."""
    query = select(Delivery).where(
        Delivery.state.in_((DeliveryState.REJECTED, DeliveryState.DEAD)),
        Delivery.destination_id.in_(wanted.destinations(session)),
        Delivery.id > last,
    )
    if wanted.delivery_id is not None:
        query = query.where(Delivery.id == wanted.delivery_id)
    return session.scalars(query.order_by(Delivery.id).limit(_BLOCK)).all()


def _block_due(session: Session, wanted: _Wanted, found: Sequence[Delivery]) -> int:
    number = sum(_due_again(session, delivery) for delivery in found)
    if number:
        record(
            session,
            AuditAction.DELIVERIES_DUE_AGAIN,
            "due",
            actor=wanted.actor,
            details={
                "deliveries": number,
                "delivery": wanted.delivery_id,
                "destination": wanted.destination,
            },
        )
    return number


def _due_again(session: Session, delivery: Delivery) -> bool:
    """Make a delivery due with new attempts, and remember that the object may have arrived.

    A rejected one did not; after an attempt without an answer nobody knows (models.rejection).
    """
    tried = min(delivery.attempts, 1) if delivery.state is DeliveryState.DEAD else 0
    return advance(session, delivery, DeliveryState.DUE, attempts=tried, next_attempt_at=utc_now())
