"""The state machines of all rows: enums and one transition table (DESIGN: one column, one advance).

`models.base.advance` is the only code that changes a state column.
"""

from enum import StrEnum
from typing import Final


class InstanceState(StrEnum):
    """What became of a received object."""

    RECEIVED = "received"  # durable, nothing decided yet
    QUEUED = "queued"  # an analyse job exists
    ANALYSED = "analysed"
    NOT_ANALYSED = "not_analysed"  # with a reason
    FAILED = "failed"  # with a reason
    QUARANTINED = "quarantined"  # with a reason; waits for an operator


class StudyState(StrEnum):
    """How far a study is."""

    OPEN = "open"  # instances arrive, jobs run
    SETTLED = "settled"  # quiet, every analyse job ended, a report job exists
    REPORTED = "reported"  # report stored, deliveries exist
    DELIVERED = "delivered"  # every delivery ended
    CLOSED = "closed"  # nothing in it was analysed


class JobKind(StrEnum):
    """What a job does."""

    ANALYSE = "analyse"
    REPORT = "report"
    SHADOW = "shadow"  # analyse again with another model, only to compare


class JobState(StrEnum):
    """Who has a job."""

    PENDING = "pending"
    LEASED = "leased"  # by `lease_owner` until `lease_until`
    DONE = "done"
    FAILED = "failed"  # final by its own outcome
    DEAD = "dead"  # attempts used up


class DeliveryState(StrEnum):
    """How far one artifact is towards one destination."""

    DUE = "due"
    SENDING = "sending"  # leased by a sender until `lease_until`
    SENT = "sent"  # the destination answered success, a warning or duplicate
    COMMITTED = "committed"  # the destination confirmed by storage commitment
    REJECTED = "rejected"  # the destination will never take it
    DEAD = "dead"  # attempts used up


class ArtifactKind(StrEnum):
    """What a stored result is."""

    SEG = "seg"
    SR = "sr"
    DISPLAY = "display"
    OVERLAY = "overlay"
    SC = "sc"  # the overlay as a Secondary Capture, where a destination may want it


class StoreOutcome(StrEnum):
    """What one successful C-STORE meant."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    OWN_RESULT = "own_result"


State = InstanceState | StudyState | JobState | DeliveryState

_I, _S, _J, _D = InstanceState, StudyState, JobState, DeliveryState

# One table per machine: members of two StrEnums with the same text are equal, so a single table
# keyed by member would let one machine overwrite another's "failed" or "dead".
TRANSITIONS: Final[dict[type[State], dict[State, frozenset[State]]]] = {
    InstanceState: {
        _I.RECEIVED: frozenset({_I.QUEUED, _I.NOT_ANALYSED, _I.FAILED, _I.QUARANTINED}),
        _I.QUEUED: frozenset({_I.ANALYSED, _I.NOT_ANALYSED, _I.FAILED}),
        _I.ANALYSED: frozenset(),
        _I.NOT_ANALYSED: frozenset({_I.QUEUED}),
        _I.FAILED: frozenset({_I.QUEUED}),
        _I.QUARANTINED: frozenset({_I.QUEUED}),
    },
    StudyState: {
        _S.OPEN: frozenset({_S.SETTLED, _S.CLOSED}),
        _S.SETTLED: frozenset({_S.OPEN, _S.REPORTED}),
        _S.REPORTED: frozenset({_S.OPEN, _S.DELIVERED}),
        _S.DELIVERED: frozenset({_S.OPEN}),
        _S.CLOSED: frozenset({_S.OPEN}),
    },
    JobState: {
        _J.PENDING: frozenset({_J.LEASED, _J.DEAD}),
        _J.LEASED: frozenset({_J.DONE, _J.FAILED, _J.PENDING, _J.DEAD}),
        _J.DONE: frozenset(),
        _J.FAILED: frozenset({_J.PENDING}),
        _J.DEAD: frozenset({_J.PENDING}),
    },
    DeliveryState: {
        _D.DUE: frozenset({_D.SENDING, _D.DEAD}),
        _D.SENDING: frozenset({_D.SENT, _D.DUE, _D.REJECTED, _D.DEAD}),
        _D.SENT: frozenset({_D.COMMITTED, _D.DUE}),
        _D.COMMITTED: frozenset(),
        _D.REJECTED: frozenset({_D.DUE}),
        _D.DEAD: frozenset({_D.DUE}),
    },
}


class IllegalTransitionError(ValueError):
    """A state change that the table does not allow; always a programming error."""


def check_transition(old: State, new: State) -> None:
    """Raise IllegalTransitionError unless TRANSITIONS allows `old` to become `new`."""
    if type(new) is not type(old) or new not in TRANSITIONS[type(old)][old]:
        msg = f"{type(old).__name__} {old.value} may not become {new.value}"
        raise IllegalTransitionError(msg)
