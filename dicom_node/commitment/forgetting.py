"""Old questions for Storage Commitment are forgotten: their answers say nothing any more."""

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from sqlalchemy import Select, delete, func, select

from models.base import utc_now
from models.commitment import CommitmentItem, CommitmentOrder, CommitmentRequest
from models.sections import DeliverySettings
from models.session import Database
from models.states import EventReportState

_BATCH: Final = 200
_PAUSE_SECONDS: Final = 3600.0


_OVER: Final = (EventReportState.ACCEPTED, EventReportState.DEAD)


class Forgetter:
    """Deletes the rows of questions that ended `commitment_keep_days` ago; `step` does a batch.

    Ours, of which a delivery that still waits has been asked about again since, under another
    Transaction UID; and those of senders, once they were answered or given up.
    """

    def __init__(self, settings: DeliverySettings, database: Database) -> None:
        self._keep = timedelta(days=settings.commitment_keep_days)
        self._database = database
        self._next = 0.0

    def step(self) -> bool:
        """Delete one batch, once an hour as many as there are; return whether there was any."""
        if time.monotonic() < self._next:
            return False
        before = utc_now() - self._keep
        ours = _oldest(CommitmentRequest).where(CommitmentRequest.expires_at < before)
        ended_at = func.coalesce(CommitmentOrder.reported_at, CommitmentOrder.asked_at)
        of_senders = _oldest(CommitmentOrder).where(
            CommitmentOrder.state.in_(_OVER), ended_at < before
        )
        with self._database.read() as session:
            requests, orders = session.scalars(ours).all(), session.scalars(of_senders).all()
        if not (requests or orders):
            self._next = time.monotonic() + _PAUSE_SECONDS
            return False
        self._delete(requests, orders)
        return True

    def _delete(self, requests: Sequence[int], orders: Sequence[int]) -> None:
        with self._database.write() as session:
            session.execute(delete(CommitmentItem).where(CommitmentItem.request_id.in_(requests)))
            session.execute(delete(CommitmentRequest).where(CommitmentRequest.id.in_(requests)))
            # One that was asked anew in the meantime stays.
            over = CommitmentOrder.state.in_(_OVER)
            session.execute(delete(CommitmentOrder).where(CommitmentOrder.id.in_(orders), over))


def _oldest(table: type[CommitmentRequest] | type[CommitmentOrder]) -> Select[int]:
    return select(table.id).order_by(table.id).limit(_BATCH)
