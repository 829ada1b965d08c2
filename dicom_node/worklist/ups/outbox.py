"""What one AE is to hear, in the order in which it happened, whichever way it is sent.

What could not be sent holds back what came after it, until it was tried so often that it is given
up. A message is leased while it is sent, so that of two processes one sends it.
"""

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.backoff import backoff, has_come, longest_pause
from models.base import advance, utc_now
from models.sections import DeliverySettings
from models.session import Database
from models.states import EventReportState
from models.workitem import CREATE, WorkitemMessage

log = logging.getLogger(__name__)

_BATCH: Final = 50
_ERROR_LENGTH: Final = 400
# Called in the transaction that ends an attempt, with what went wrong.
OnOutcome = Callable[[Session, WorkitemMessage, str | None], None]


class Outbox:
    """The messages of one receiver: new workitems for a manager, events for anybody else."""

    def __init__(
        self,
        delivery: DeliverySettings,
        database: Database,
        receiver: str,
        *,
        is_manager: bool = False,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self._delivery = delivery
        self._database = database
        self._receiver = receiver
        self._is_manager = is_manager
        self._on_outcome = on_outcome

    def due(self) -> list[int]:
        """Return the oldest messages that are not ended, none before the first one's time."""
        is_create = WorkitemMessage.event_type == CREATE
        query = (
            select(WorkitemMessage)
            .where(
                WorkitemMessage.receiver == self._receiver,
                WorkitemMessage.state == EventReportState.DUE,
                is_create if self._is_manager else ~is_create,
            )
            .order_by(WorkitemMessage.id)
            .limit(_BATCH)
        )
        with self._database.read() as session:
            rows = session.scalars(query).all()
        longest = longest_pause(self._delivery) + self._lease_seconds
        if not rows or not has_come(rows[0].next_attempt_at, longest):
            return []
        return [row.id for row in rows]

    @property
    def _lease_seconds(self) -> float:
        return self._delivery.lease_seconds + self._delivery.timeout_seconds

    def claim(self, message_id: int) -> WorkitemMessage | None:
        """Count an attempt; None where another process has the message."""
        with self._database.write() as session:
            message = session.get_one(WorkitemMessage, message_id)
            lease = timedelta(seconds=self._lease_seconds)
            claimed = session.execute(
                update(WorkitemMessage)
                .where(
                    WorkitemMessage.id == message_id,
                    WorkitemMessage.state == EventReportState.DUE,
                    WorkitemMessage.attempts == message.attempts,
                    WorkitemMessage.next_attempt_at == message.next_attempt_at,
                )
                .values(attempts=message.attempts + 1, next_attempt_at=utc_now() + lease)
                .returning(WorkitemMessage.id)
                .execution_options(synchronize_session=False)
            ).scalar()
            session.refresh(message)
            return message if claimed is not None else None

    def record(self, message_id: int, problem: str | None, *, is_final: bool = False) -> None:
        """End an attempt: told, tried again after a pause, or given up."""
        with self._database.write() as session:
            message = session.get_one(WorkitemMessage, message_id, with_for_update=True)
            if message.state is not EventReportState.DUE:
                return  # another process was as far
            error = problem[:_ERROR_LENGTH] if problem else None
            if problem is None:
                advance(session, message, EventReportState.ACCEPTED, ended_at=utc_now(), error=None)
            elif is_final or message.attempts >= self._delivery.max_attempts:
                advance(session, message, EventReportState.DEAD, ended_at=utc_now(), error=error)
            else:
                pause = timedelta(seconds=backoff(self._delivery, message.attempts))
                message.next_attempt_at, message.error = utc_now() + pause, error
            if self._on_outcome is not None:
                self._on_outcome(session, message, problem)
        if problem:
            log.warning("UPS message %d: %s", message_id, problem)
