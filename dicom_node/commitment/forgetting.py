"""Old questions for Storage Commitment are forgotten: their answers say nothing any more."""

import time
from datetime import timedelta
from typing import Final

from sqlalchemy import delete, select

from models.base import utc_now
from models.commitment import CommitmentItem, CommitmentRequest
from models.sections import DeliverySettings
from models.session import Database

_BATCH: Final = 200
_PAUSE_SECONDS: Final = 3600.0


class Forgetter:
    """Deletes the rows of questions that ended `commitment_keep_days` ago; `step` does a batch.

    A delivery that still waits has been asked about again since, under another Transaction UID.
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
        query = (
            select(CommitmentRequest.id)
            .where(CommitmentRequest.expires_at < before)
            .order_by(CommitmentRequest.id)
            .limit(_BATCH)
        )
        with self._database.read() as session:
            old = session.scalars(query).all()
        if not old:
            self._next = time.monotonic() + _PAUSE_SECONDS
            return False
        with self._database.write() as session:
            session.execute(delete(CommitmentItem).where(CommitmentItem.request_id.in_(old)))
            session.execute(delete(CommitmentRequest).where(CommitmentRequest.id.in_(old)))
        return True
