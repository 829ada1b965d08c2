"""What the attempts of one deliverer say about its destination: into its row, and into the log.

The log gets one line when a destination is paused, one an hour while it stays away, and one when it
answers again: not one per object.
"""

import logging
import time
from collections.abc import Sequence
from typing import Final

from sqlalchemy import func, select

from dicom_node.circuit import Failure, Standing, note_answer, note_failure, release
from dicom_node.senders.base import Contact, Receiver, SendResult
from models.base import utc_now
from models.delivery import Delivery
from models.sections import DeliverySettings
from models.session import Database
from models.states import CircuitState, DeliveryState

log = logging.getLogger(__name__)

_SUMMARY_SECONDS: Final = 3600.0


class Watch:
    """Watches one destination for one deliverer."""

    def __init__(self, settings: DeliverySettings, database: Database, destination_id: int) -> None:
        self._settings = settings
        self._database = database
        self._destination_id = destination_id
        self._next_summary = 0.0

    def note(self, receiver: Receiver, results: Sequence[SendResult]) -> None:
        """Record what the results of one batch say about the destination."""
        with self._database.write() as session:
            if any(result.contact is Contact.ANSWERED for result in results):
                standing, failure = note_answer(session, self._destination_id), None
            elif failure := _failure(results):
                standing = note_failure(session, self._destination_id, self._settings, failure)
            else:
                release(session, self._destination_id)
                return
        if standing is None:
            return
        if failure is None:
            self._tell_answer(receiver, standing)
        else:
            self._tell_failure(receiver, standing, failure)

    def _tell_answer(self, receiver: Receiver, standing: Standing) -> None:
        if standing.changed and standing.since is not None:
            away = (utc_now() - standing.since).total_seconds()
            text = "destination %s answers again, after %.0f s and %d failures"
            log.info(text, receiver.name, away, standing.failures)

    def _tell_failure(self, receiver: Receiver, standing: Standing, failure: Failure) -> None:
        pause = (standing.retry_at - utc_now()).total_seconds() if standing.retry_at else 0.0
        if standing.changed:
            self._next_summary = time.monotonic() + _SUMMARY_SECONDS
            text = "destination %s is paused after %d failures, next try in %.0f s: %s"
            log.warning(text, receiver.name, standing.failures, pause, failure.problem)
        elif standing.state is CircuitState.CLOSED:
            text = "destination %s: %s; next try in %.0f s"
            log.info(text, receiver.name, failure.problem, pause)
        elif time.monotonic() >= self._next_summary:
            self._next_summary = time.monotonic() + _SUMMARY_SECONDS
            text = "destination %s is away since %s: %d failures, %d objects wait: %s"
            since = standing.since.isoformat(timespec="seconds") if standing.since else "?"
            problem = failure.problem
            log.warning(text, receiver.name, since, standing.failures, self._waiting(), problem)

    def _waiting(self) -> int:
        with self._database.read() as session:
            query = select(func.count()).where(
                Delivery.destination_id == self._destination_id,
                Delivery.state == DeliveryState.DUE,
            )
            return session.scalar(query) or 0


def _failure(results: Sequence[SendResult]) -> Failure | None:
    """Return the first failure that is the destination's; None when it was not spoken to."""
    for result in results:
        if result.contact in {Contact.UNREACHED, Contact.OFFERED}:
            return Failure(result.error or "no reason given", result.retry_after_seconds)
    return None
