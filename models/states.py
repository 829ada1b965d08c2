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
    WITHDRAWN = "withdrawn"  # a rejection note names it; with the reason, counts no more
    SUPERSEDED = "superseded"  # another row of its SOP Instance UID counts, by its reason


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
    COMPARE = "compare"  # pixels and header with those of the same SOP Instance UID


class JobState(StrEnum):
    """Who has a job."""

    PENDING = "pending"
    LEASED = "leased"  # by `lease_owner` until `lease_until`
    DONE = "done"
    FAILED = "failed"  # final by its own outcome
    DEAD = "dead"  # attempts used up
    CANCELLED = "cancelled"  # its image was withdrawn


class DeliveryState(StrEnum):
    """How far one artifact is towards one destination."""

    DUE = "due"
    SENDING = "sending"  # leased by a sender until `lease_until`
    SENT = "sent"  # the destination answered success, a warning or duplicate
    COMMITTED = "committed"  # the destination confirmed by storage commitment
    REJECTED = "rejected"  # the destination will never take it
    DEAD = "dead"  # attempts used up
    WITHDRAWN = "withdrawn"  # not sent any more: rejected, corrected, or replaced


class CircuitState(StrEnum):
    """Whether a destination is tried, after failures to reach it."""

    CLOSED = "closed"  # it is; after a failure not before `retry_at`
    OPEN = "open"  # nothing is, before `retry_at`
    HALF_OPEN = "half_open"  # one object is on its way; `retry_at` ends that if its sender dies


class CommitmentState(StrEnum):
    """What became of a question for Storage Commitment that we asked."""

    REQUESTED = "requested"  # written before it is asked; the answer is out
    ANSWERED = "answered"
    EXPIRED = "expired"  # no answer in time, asked again under another Transaction UID
    REFUSED = "refused"  # the N-ACTION failed


class EventReportState(StrEnum):
    """How far the answer to somebody's question for Storage Commitment is."""

    DUE = "due"
    ACCEPTED = "accepted"  # the peer answered the N-EVENT-REPORT with success
    DEAD = "dead"  # attempts used up


class ArtifactKind(StrEnum):
    """What a stored result is."""

    SEG = "seg"
    SR = "sr"
    DISPLAY = "display"
    OVERLAY = "overlay"
    LAYER = "layer"  # what the overlay adds to the display picture, transparent elsewhere
    SC = "sc"  # the overlay as a Secondary Capture, where a destination may want it
    PR = "pr"  # outlines as a presentation state, where a destination wants it
    PDF = "pdf"  # the report as an Encapsulated PDF, where a destination wants it
    HL7 = "hl7"  # the report as an HL7 v2 message, where a destination wants it
    FHIR = "fhir"  # the report as FHIR resources, the same
    KO = "ko"  # our rejection note: takes back objects made from a rejected image


MESSAGES: Final = (ArtifactKind.HL7, ArtifactKind.FHIR)


class ReadingState(StrEnum):
    """How far the reading of a study is, for its newest report."""

    UNREAD = "unread"
    CLAIMED = "claimed"  # by one reader, who may give it back
    READ = "read"


class WorkitemState(StrEnum):
    """Procedure Step State (0074,1000) of a Unified Procedure Step (PS3.4 Table CC.1.1-1)."""

    SCHEDULED = "SCHEDULED"
    IN_PROGRESS = "IN PROGRESS"  # claimed, under a Locking UID
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"


class Verdict(StrEnum):
    """What a reader says of the figure of an image."""

    ACCEPT = "accept"
    REJECT = "reject"
    CORRECT = "correct"  # with the percentage that the reader sees


class StoreOutcome(StrEnum):
    """What one successful C-STORE meant."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    UPDATE = "update"  # the same pixels under a corrected identity, or encoded otherwise
    OWN_RESULT = "own_result"


State = (
    InstanceState
    | StudyState
    | JobState
    | DeliveryState
    | CircuitState
    | CommitmentState
    | EventReportState
    | ReadingState
    | WorkitemState
)

_I, _S, _J, _D = InstanceState, StudyState, JobState, DeliveryState
_C, _E, _K = CommitmentState, EventReportState, CircuitState
_R, _W = ReadingState, WorkitemState

# One table per machine: members of two StrEnums with the same text are equal, so a single table
# keyed by member would let one machine overwrite another's "failed" or "dead".
TRANSITIONS: Final[dict[type[State], dict[State, frozenset[State]]]] = {
    InstanceState: {
        _I.RECEIVED: frozenset(
            {
                *(_I.QUEUED, _I.NOT_ANALYSED, _I.FAILED, _I.QUARANTINED),
                *(_I.WITHDRAWN, _I.SUPERSEDED),
            }
        ),
        _I.QUEUED: frozenset({_I.ANALYSED, _I.NOT_ANALYSED, _I.FAILED, _I.WITHDRAWN}),
        # Queued: its results are made again, under a corrected identity.
        _I.ANALYSED: frozenset({_I.QUEUED, _I.WITHDRAWN, _I.SUPERSEDED}),
        _I.NOT_ANALYSED: frozenset({_I.QUEUED, _I.WITHDRAWN, _I.SUPERSEDED}),
        _I.FAILED: frozenset({_I.QUEUED, _I.WITHDRAWN, _I.SUPERSEDED}),
        _I.QUARANTINED: frozenset(
            {_I.QUEUED, _I.RECEIVED, _I.NOT_ANALYSED, _I.WITHDRAWN, _I.SUPERSEDED}
        ),
        # Only where its expired retention withdrew it: its sender may have it back.
        _I.WITHDRAWN: frozenset({_I.QUEUED, _I.RECEIVED, _I.SUPERSEDED}),
        _I.SUPERSEDED: frozenset(),
    },
    StudyState: {
        _S.OPEN: frozenset({_S.SETTLED, _S.CLOSED}),
        _S.SETTLED: frozenset({_S.OPEN, _S.REPORTED, _S.CLOSED}),
        _S.REPORTED: frozenset({_S.OPEN, _S.DELIVERED}),
        _S.DELIVERED: frozenset({_S.OPEN}),
        _S.CLOSED: frozenset({_S.OPEN}),
    },
    JobState: {
        _J.PENDING: frozenset({_J.LEASED, _J.DEAD, _J.CANCELLED}),
        _J.LEASED: frozenset({_J.DONE, _J.FAILED, _J.PENDING, _J.DEAD, _J.CANCELLED}),
        _J.DONE: frozenset({_J.PENDING}),  # its study is replayed
        _J.FAILED: frozenset({_J.PENDING}),
        _J.DEAD: frozenset({_J.PENDING}),
        _J.CANCELLED: frozenset({_J.PENDING}),  # its image came back
    },
    DeliveryState: {
        _D.DUE: frozenset({_D.SENDING, _D.DEAD, _D.WITHDRAWN}),
        _D.SENDING: frozenset({_D.SENT, _D.DUE, _D.REJECTED, _D.DEAD}),
        _D.SENT: frozenset({_D.COMMITTED, _D.DUE}),
        _D.COMMITTED: frozenset(),
        _D.REJECTED: frozenset({_D.DUE}),
        _D.DEAD: frozenset({_D.DUE}),
        _D.WITHDRAWN: frozenset(),
    },
    CircuitState: {
        _K.CLOSED: frozenset({_K.OPEN}),
        _K.OPEN: frozenset({_K.HALF_OPEN, _K.CLOSED}),  # closed: an older attempt was answered
        _K.HALF_OPEN: frozenset({_K.CLOSED, _K.OPEN}),
    },
    CommitmentState: {
        _C.REQUESTED: frozenset({_C.ANSWERED, _C.EXPIRED, _C.REFUSED}),
        _C.ANSWERED: frozenset(),
        _C.EXPIRED: frozenset({_C.ANSWERED}),
        _C.REFUSED: frozenset({_C.ANSWERED}),
    },
    EventReportState: {
        _E.DUE: frozenset({_E.ACCEPTED, _E.DEAD}),
        _E.ACCEPTED: frozenset({_E.DUE}),
        _E.DEAD: frozenset({_E.DUE}),
    },
    ReadingState: {
        _R.UNREAD: frozenset({_R.CLAIMED, _R.READ}),
        _R.CLAIMED: frozenset({_R.UNREAD, _R.READ}),
        _R.READ: frozenset({_R.UNREAD}),  # a newer report says something else
    },
    WorkitemState: {
        _W.SCHEDULED: frozenset({_W.IN_PROGRESS}),
        _W.IN_PROGRESS: frozenset({_W.COMPLETED, _W.CANCELED}),
        _W.COMPLETED: frozenset(),
        _W.CANCELED: frozenset(),
    },
}


class IllegalTransitionError(ValueError):
    """A state change that the table does not allow; always a programming error."""


def check_transition(old: State, new: State) -> None:
    """Raise IllegalTransitionError unless TRANSITIONS allows `old` to become `new`."""
    if type(new) is not type(old) or new not in TRANSITIONS[type(old)][old]:
        msg = f"{type(old).__name__} {old.value} may not become {new.value}"
        raise IllegalTransitionError(msg)
