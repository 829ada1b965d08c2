"""The tables of the statement about Unified Procedure Steps (PS3.4 Annex CC)."""

from typing import Final

from pydicom.datadict import dictionary_description, dictionary_VR
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.conformance.tables import name_of, table
from dicom_node.errors import (
    AlreadyCompletedError,
    AlreadyEndedError,
    AlreadyInProgressError,
    AttributeValueError,
    FilteredSubscriptionError,
    IdentifierError,
    IdentifierUnreadableError,
    NoSuchActionError,
    NotInProgressError,
    NotSchedulableError,
    PerformerAwayError,
    QueryCancelledError,
    TooManyMatchesError,
    UnknownReceiverError,
    UnknownWorkitemError,
    WorkitemNotAuthorisedError,
    WorkitemOperationError,
    WrongActionError,
    WrongTransactionError,
)
from dicom_node.query.keys import tag_of
from dicom_node.worklist.ups.described import PARTS
from dicom_node.worklist.ups.names import EVENT, PULL, PUSH, QUERY, SETTABLE, SYNTAXES, WATCH
from dicom_node.worklist.ups.statuses import (
    PENDING,
    PENDING_WITH_WARNING,
    SUCCESS,
    UPS_STATUS,
    WARNINGS,
    ups_status,
)

# When each row of UPS_STATUS is answered.
CONDITIONS: Final[dict[type[Exception], str]] = {
    AlreadyEndedError: "N-ACTION Change UPS State, N-SET: it is COMPLETED or CANCELED",
    WrongTransactionError: "N-ACTION Change UPS State, N-SET: the Transaction UID is missing, no "
    "UID, or not that of the claim; also where a person has claimed the study",
    AlreadyInProgressError: "N-ACTION Change UPS State: it was claimed under this Transaction UID; "
    "N-ACTION, N-SET under the Transaction UID of an account: it is its own alone",
    NotSchedulableError: "N-ACTION Change UPS State to SCHEDULED",
    UnknownWorkitemError: "no workitem has the SOP Instance UID",
    FilteredSubscriptionError: "a filtered global subscription",
    UnknownReceiverError: "Receiving AE is neither in `worklist.ups.receivers` nor in "
    "`worklist.ups.web_subscribers`",
    NotInProgressError: "N-ACTION Change UPS State, N-SET: it is SCHEDULED",
    AlreadyCompletedError: "N-ACTION Request UPS Cancel: it is COMPLETED",
    PerformerAwayError: "N-ACTION Request UPS Cancel: it is IN PROGRESS and nobody is subscribed",
    WrongActionError: "N-ACTION Suspend Global Subscription of one workitem",
    NoSuchActionError: "the action is none of the negotiated SOP Class",
    AttributeValueError: "another Procedure Step State or Deletion Lock than the Standard has; a "
    "data set that cannot be read or has more than 256 KiB",
    WorkitemNotAuthorisedError: "the calling AE title is not in `worklist.ups.calling_aets`",
    WorkitemOperationError: "the operation is none of the negotiated SOP Class",
    TooManyMatchesError: "C-FIND: more than `worklist.ups.max_results` matches, or 10 000 files to "
    "open",
    IdentifierError: "C-FIND: a key that cannot be read, a sequence with several items, a date and "
    "time that is none or not in UTC",
    IdentifierUnreadableError: "C-FIND: no identifier, one that cannot be parsed, has more than "
    "1 MiB or more than 128 keys",
    QueryCancelledError: "C-CANCEL came",
    SQLAlchemyError: "the database cannot be used",
    OSError: "a file cannot be used",
    Exception: "any other failure",
}
_ROLES: Final = (
    (PULL, "acceptor", "SCP", "none"),
    (WATCH, "acceptor", "SCP", "none"),
    (QUERY, "acceptor", "SCP", "none"),
    (EVENT, "requestor, to `receivers`", "SCP", "role selection: the requestor is SCP"),
    (PUSH, "requestor, to `managers`", "SCU", "none"),
)
_MADE_FROM: Final = {
    "identity": "the workitem",
    "schedule": "the study's figure, the settings",
    "relationship": "the study",
    "patient": "the newest image of the study",
    "input": "images of the study, newest SR",
    "progress": "the workitem; N-SET",
    "performed": "N-SET; what is missing, from the workitem",
}


def contexts() -> str:
    """Presentation contexts of the service."""
    listed = ", ".join(map(name_of, SYNTAXES))
    return table(
        ("Abstract syntax", "UID", "As", "Transfer syntaxes", "Role", "Extended negotiation"),
        ((name_of(uid), f"`{uid}`", way, listed, role, more) for uid, way, role, more in _ROLES),
    )


def attributes() -> str:
    """Attributes that a workitem has."""
    return table(
        ("Attribute", "Tag", "VR", "From", "N-SET"),
        (
            (
                dictionary_description(keyword),
                str(tag_of(keyword)),
                dictionary_VR(keyword),
                _MADE_FROM[part],
                "yes" if keyword in SETTABLE else "no",
            )
            for part, keywords in PARTS.items()
            for keyword in keywords
        ),
    )


def statuses() -> str:
    """Statuses of all operations."""
    rows = [
        (_shown(SUCCESS), "Success", "done; C-FIND: all matches were sent"),
        (_shown(PENDING), "Pending", "C-FIND: a match"),
        (
            _shown(PENDING_WITH_WARNING),
            "Pending, optional keys not supported",
            "C-FIND: a match of a query with keys that are not in the table",
        ),
    ]
    rows += [(_shown(status), meaning, "") for status, meaning in WARNINGS.items()]
    for kind, (_, meaning) in UPS_STATUS.items():
        error = kind.__new__(kind)
        answers = dict.fromkeys(ups_status(error, is_query=each) for each in (False, True))
        shown = " or, to C-FIND, ".join(map(_shown, answers))
        rows.append((shown, meaning, CONDITIONS[kind]))
    return table(("Status", "Meaning", "When"), rows)


def _shown(status: int) -> str:
    return f"`0x{status:04X}`"
