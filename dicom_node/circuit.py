"""The circuit breaker of a destination: what cannot be reached is left alone for a growing pause.

It lives in the destination's row, so it holds for every process and survives a restart. A failure
is an attempt in which nothing was answered about any object: no association, or silence. A refusal
of an object is an answer. After a failure nothing is tried before `retry_at`; after
`circuit_failures` in a row the circuit is open, and then one object is the probe that closes it.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from dicom_node.backoff import backoff, has_come, longest_lease, longest_pause
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Destination
from models.sections import DeliverySettings
from models.states import CircuitState


@dataclass(frozen=True)
class Failure:
    """An attempt in which the destination answered nothing.

    `retry_after_seconds` is what it asks for itself (RFC 9110 10.2.3); it counts up to the cap.
    """

    problem: str
    retry_after_seconds: float | None = None


@dataclass(frozen=True)
class Standing:
    """How a destination stands after an attempt; `changed` when its circuit opened or closed."""

    state: CircuitState
    failures: int
    since: datetime | None
    retry_at: datetime | None
    changed: bool = False


def allowance(destination: Destination, settings: DeliverySettings) -> int:
    """Return how many objects may be claimed now: none in a pause, one as a probe after it."""
    longest = longest_pause(settings) + longest_lease(settings, 1)
    if not has_come(destination.retry_at, longest):
        return 0
    return settings.batch if destination.state is CircuitState.CLOSED else 1


def enter(session: Session, destination_id: int, settings: DeliverySettings) -> int:
    """Return the allowance, by the row itself; where it is a probe, nobody else gets one.

    A probe whose sender dies is over when its lease would be.
    """
    destination = session.get_one(Destination, destination_id)
    if destination.state is CircuitState.CLOSED:
        return allowance(destination, settings)
    destination = _locked(session, destination_id)
    allowed = allowance(destination, settings)
    if allowed and destination.state is not CircuitState.CLOSED:
        until = utc_now() + timedelta(seconds=longest_lease(settings, 1))
        if destination.state is CircuitState.OPEN:
            advance(session, destination, CircuitState.HALF_OPEN, retry_at=until)
        else:
            destination.retry_at = until
    return allowed


def release(session: Session, destination_id: int) -> None:
    """Give a probe back that was not made, or told nothing about the destination."""
    destination = _locked(session, destination_id)
    if destination.state is CircuitState.HALF_OPEN:
        advance(session, destination, CircuitState.OPEN, retry_at=utc_now())


def note_failure(
    session: Session, destination_id: int, settings: DeliverySettings, failure: Failure
) -> Standing:
    """Count a failure and set the pause that follows it; open the circuit where it is time."""
    destination = _locked(session, destination_id)
    was = destination.state
    if was is CircuitState.OPEN and not has_come(destination.retry_at, longest_pause(settings)):
        return _standing(destination)  # another attempt has said so since
    failures = destination.failures + 1
    pause = backoff(settings, failures, settings.circuit_cap_seconds)
    asked_for = min(failure.retry_after_seconds or 0.0, settings.circuit_cap_seconds)
    destination.failures = failures
    destination.problem = failure.problem[:400]
    destination.retry_at = utc_now() + timedelta(seconds=max(pause, asked_for))
    opens = was is CircuitState.CLOSED and failures >= settings.circuit_failures
    if opens:
        advance(session, destination, CircuitState.OPEN, opened_at=utc_now())
        _audit(session, destination, "open")
    elif was is CircuitState.HALF_OPEN:
        advance(session, destination, CircuitState.OPEN)
    return _standing(destination, changed=opens)


def note_answer(session: Session, destination_id: int) -> Standing | None:
    """Forget the failures and close the circuit; None when there was nothing to forget."""
    destination = session.get_one(Destination, destination_id)
    if _is_clean(destination):
        return None
    destination = _locked(session, destination_id)
    if _is_clean(destination):
        return None
    standing = _standing(destination, changed=destination.state is not CircuitState.CLOSED)
    destination.failures, destination.retry_at = 0, None
    destination.opened_at, destination.problem = None, None
    if standing.changed:
        advance(session, destination, CircuitState.CLOSED)
        _audit(session, destination, "closed")
    return standing


def end_pause(destination: Destination) -> None:
    """Let a destination be tried at once: an operator says that it is there again."""
    if destination.retry_at is not None:
        destination.retry_at = utc_now()


def _locked(session: Session, destination_id: int) -> Destination:
    return session.get_one(
        Destination, destination_id, with_for_update=True, populate_existing=True
    )


def _is_clean(destination: Destination) -> bool:
    return destination.state is CircuitState.CLOSED and not destination.failures


def _standing(destination: Destination, *, changed: bool = False) -> Standing:
    return Standing(
        destination.state,
        destination.failures,
        destination.opened_at,
        destination.retry_at,
        changed,
    )


def _audit(session: Session, destination: Destination, outcome: str) -> None:
    record(
        session,
        AuditAction.DESTINATION_CIRCUIT,
        outcome,
        called_aet=destination.ae_title,
        peer=f"{destination.host}:{destination.port}",
        details={"destination": destination.name, "failures": destination.failures},
    )
