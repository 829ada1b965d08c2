"""Errors of the node; the type is the outcome.

NodeError
├── StoreError             a C-STORE is answered with a failure status (status.py)
│   ├── SpoolFullError         no room: the sender may try again
│   ├── DataSetMismatchError   context, command and data set name different objects
│   ├── ClassNotStorableError  the context is none of the Storage Service Class
│   ├── NotUnderstoodError     no data set, or one that cannot be read or has no usable identity
│   └── NotAuthorisedError     this AE may not store
├── CommitmentError        a message of Storage Commitment is refused (commitment/statuses.py)
│   ├── MalformedCommitmentError      no Transaction UID, no instance, or values that are no UIDs
│   ├── UnknownTransactionError       an answer to a question that was never asked
│   ├── UnknownEventError, UnknownActionError, WrongSopInstanceError   not of the Push Model
│   ├── CommitmentNotAuthorisedError  this AE may not ask, or has no address to answer to
│   └── TooManyReferencesError        more instances in one question than the node takes
├── CommitmentPeerError    no association for Storage Commitment; the message says why
├── KeyObjectError         a stored key object cannot be read; it changes nothing
├── QueryError             a C-FIND, C-MOVE or C-GET is answered with a failure (query/status.py)
│   ├── IdentifierError           level, keys or values are none that the model has
│   ├── IdentifierUnreadableError  the identifier cannot be parsed, or is too long to be
│   ├── QueryNotAuthorisedError   this AE may not query
│   ├── QueryOperationError       another operation or SOP Class than its presentation context's
│   ├── SmallPduError             C-GET to a peer whose PDUs are too small for whole objects
│   ├── UnknownDestinationError   the Move Destination is not configured
│   ├── TooManyMatchesError       more than a limit of the settings allows
│   └── QueryCancelledError       the peer said so, or is gone
├── ProxyHeaderError       what a balancer says of a connection is missing, cut, late or wrong
│   └── NothingSaidError      the connection ended before its first byte
├── BrokerError            the queue cannot be reached; jobs stay in the database
├── OperatorError          a command of an operator cannot be carried out; the message says why
│   ├── AuditKeyError          the key of the audit's seals is not there, or is none
│   └── AccountError           an account, token or invitation cannot be made or changed like that
│       ├── BusyError              more logins at once than this process can check
│       └── SignOnError            the identity provider, or what it says, lets nobody in
├── ReadingError           a study cannot be claimed, given back or read; the message says why
│   └── UnknownStudyError      there is no such study
├── WorkitemError          a Unified Procedure Step is not changed (worklist/ups/statuses.py)
│   ├── UnknownWorkitemError      no workitem has this SOP Instance UID
│   │   └── FilteredSubscriptionError   it is that of filtered global subscriptions
│   ├── WrongTransactionError     the Locking UID is missing or another one
│   ├── AlreadyInProgressError, NotInProgressError   the state is not the one that it takes
│   ├── NotSchedulableError       nothing becomes SCHEDULED again
│   ├── AlreadyEndedError, AlreadyCompletedError     it is COMPLETED or CANCELED for good
│   ├── UnknownReceiverError      nobody knows where the Receiving AE is
│   ├── PerformerAwayError        the performer does not listen, so it cannot be asked to cancel
│   ├── WrongActionError, NoSuchActionError   the action is not for this SOP Instance, or is none
│   ├── AttributeValueError       a value is missing, or none that the attribute has
│   ├── WorkitemNotAuthorisedError   this AE may not
│   └── WorkitemOperationError    another operation or SOP Class than its presentation context's
├── WorkitemPeerError      no association for workitems; the message says why
├── FeedbackError          feedback that says nothing, or speaks of nothing; the message says why
├── CursorError            a page of a listing was asked for with a cursor that is none of ours
├── LostRaceError          another process moved the same row first; look again
└── StartError             the node cannot start; the message says what to do
"""


class NodeError(Exception):
    """Base of everything the node raises on purpose."""


class CursorError(NodeError):
    """The cursor of a page is none that this listing gave."""

    def __init__(self) -> None:
        super().__init__("the cursor is none of this listing: begin again without it")


class ReadingError(NodeError):
    """The reading of the study is not where the wish needs it to be."""


class UnknownStudyError(ReadingError):
    """No study has this Study Instance UID."""

    def __init__(self) -> None:
        super().__init__("there is no study with this Study Instance UID: see the worklist")


class WorkitemError(NodeError):
    """Base of the reasons to refuse a message about a Unified Procedure Step."""


class UnknownWorkitemError(WorkitemError):
    """There is no such workitem here."""


class FilteredSubscriptionError(UnknownWorkitemError):
    """The well-known instance of filtered global subscriptions: they are not supported."""


class WrongTransactionError(WorkitemError):
    """Who asks does not have the Locking UID."""


class AlreadyInProgressError(WorkitemError):
    """It was claimed before."""


class NotInProgressError(WorkitemError):
    """It must be claimed first."""


class NotSchedulableError(WorkitemError):
    """A workitem is SCHEDULED when it is made, and never again."""


class AlreadyEndedError(WorkitemError):
    """What is COMPLETED or CANCELED stays so."""


class AlreadyCompletedError(WorkitemError):
    """What is COMPLETED cannot be canceled."""


class UnknownReceiverError(WorkitemError):
    """No setting gives an address to the Receiving AE."""


class PerformerAwayError(WorkitemError):
    """Nobody is subscribed who could hear of the request."""


class WrongActionError(WorkitemError):
    """The Action Type ID does not go with the SOP Instance."""


class NoSuchActionError(WorkitemError):
    """The SOP Class that was negotiated has no such action."""


class AttributeValueError(WorkitemError):
    """The data set lacks a value or has one that cannot be."""


class WorkitemNotAuthorisedError(WorkitemError):
    """The calling AE may associate but not use the service."""


class WorkitemOperationError(WorkitemError):
    """The operation is none of the presentation context."""


class WorkitemPeerError(NodeError):
    """A peer cannot be reached, or takes neither events nor workitems."""


class FeedbackError(NodeError):
    """The feedback does not fit the study, the image or itself."""


class StoreError(NodeError):
    """Base of the reasons to refuse a data set."""


class SpoolFullError(StoreError):
    """The spool has no room below its free-space floor, or the disk filled while receiving."""


class DataSetMismatchError(StoreError):
    """The command differs from its presentation context, or the data set from the command."""


class ClassNotStorableError(StoreError):
    """The SOP Class was accepted for another service than storage."""


class NotUnderstoodError(StoreError):
    """There is no data set, it cannot be parsed, or it lacks a UID of the four levels."""


class NotAuthorisedError(StoreError):
    """The calling AE may associate but not store."""


class CommitmentError(NodeError):
    """Base of the reasons to refuse a message of Storage Commitment."""


class MalformedCommitmentError(CommitmentError):
    """The message lacks what it must have."""


class UnknownTransactionError(CommitmentError):
    """No question has this Transaction UID."""


class UnknownEventError(CommitmentError):
    """The Event Type ID is neither 1 nor 2."""


class UnknownActionError(CommitmentError):
    """The Action Type ID is not 1."""


class WrongSopInstanceError(CommitmentError):
    """The SOP Instance is not the well-known one of the service."""


class CommitmentNotAuthorisedError(CommitmentError):
    """The calling AE may not ask."""


class TooManyReferencesError(CommitmentError):
    """One question names too many instances."""


class CommitmentPeerError(NodeError):
    """A peer cannot be reached, or does not offer Storage Commitment in the wanted role."""


class KeyObjectError(NodeError):
    """A Key Object Selection Document is too large, too deep, broken, or names nothing."""


class QueryError(NodeError):
    """Base of the reasons to end a query or retrieve without success; free of patient data."""


class IdentifierError(QueryError):
    """The identifier does not match the SOP Class; `keyword` names the attribute at fault."""

    def __init__(self, message: str, keyword: str) -> None:
        super().__init__(message)
        self.keyword = keyword


class IdentifierUnreadableError(QueryError):
    """The identifier is missing, cannot be parsed or is too long."""


class QueryNotAuthorisedError(QueryError):
    """The calling AE may associate but not query."""


class QueryOperationError(QueryError):
    """The operation or its SOP Class is not that of the presentation context."""


class SmallPduError(QueryError):
    """The peer receives PDUs that are too small for objects (PS3.8 D.1)."""


class UnknownDestinationError(QueryError):
    """No setting gives an address to this AE title."""


class TooManyMatchesError(QueryError):
    """More matches, or files to open, than one request may have."""


class QueryCancelledError(QueryError):
    """C-CANCEL came, or the association ended."""


class ProxyHeaderError(NodeError):
    """A balancer's PROXY header cannot be read. The message quotes nothing of it."""


class NothingSaidError(ProxyHeaderError):
    """The connection ended before its first byte: how a balancer sees whether a port is open."""


class BrokerError(NodeError):
    """The broker does not answer."""


class OperatorError(NodeError):
    """What an operator asked for does not fit what the rows say."""


class AuditKeyError(OperatorError):
    """Without its key nothing can be sealed, proved or redacted."""


class AccountError(OperatorError):
    """What is asked for an account, token or invitation cannot be; the message is for its user."""


class BusyError(AccountError):
    """More passwords are to be checked at once than this process can."""


class SignOnError(AccountError):
    """A login by the identity provider cannot be; the message is for who wants to log in."""


class LostRaceError(NodeError):
    """Another process moved the row between our look and our change."""


class StartError(NodeError):
    """A part of the node cannot start."""
