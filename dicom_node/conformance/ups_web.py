"""The tables of the statement about UPS-RS (PS3.18 chapter 11)."""

from typing import Final

from dicom_node.conformance.tables import table
from dicom_node.errors import (
    AttributeValueError,
    FilteredSubscriptionError,
    NotSchedulableError,
    UnknownReceiverError,
    UnknownWorkitemError,
    WorkitemError,
    WrongActionError,
    WrongTransactionError,
)
from dicom_node.web.workitems.answers import STATUS
from dicom_node.worklist.ups.names import GLOBAL_SUBSCRIPTION

_SUBSCRIBER: Final = "/workitems/{uid}/subscribers/{aetitle}"
_OF_ALL: Final = f"of one workitem, or of all: `{GLOBAL_SUBSCRIPTION}`"

# Transaction, method, resource, remark.
RESOURCES: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("Search", "GET", "/workitems", "the most urgent first"),
    ("Retrieve", "GET", "/workitems/{uid}", ""),
    ("Update", "POST", "/workitems/{uid}", "the attributes of 4.2.6.2 that N-SET takes"),
    ("Change State", "PUT", "/workitems/{uid}/state", ""),
    ("Request Cancellation", "POST", "/workitems/{uid}/cancelrequest", "a body is optional"),
    ("Subscribe", "POST", _SUBSCRIBER, f"{_OF_ALL}; `deletionlock`"),
    ("Unsubscribe", "DELETE", _SUBSCRIBER, _OF_ALL),
    ("Suspend", "POST", f"{_SUBSCRIBER}/suspend", "of all"),
    ("Open Notification Connection", "GET", "/subscribers/{aetitle}", "a WebSocket (RFC 6455)"),
    ("Create", "", "", "not supported (405)"),
)

# When each row of STATUS is answered.
CONDITIONS: Final[dict[type[WorkitemError], str]] = {
    UnknownWorkitemError: "there is no such workitem",
    FilteredSubscriptionError: "a filtered global subscription is asked for",
    UnknownReceiverError: "the AE title is in neither setting",
    WrongTransactionError: "the Transaction UID is missing or another one; an Update of what is "
    "COMPLETED or CANCELED",
    NotSchedulableError: "SCHEDULED is asked for",
    AttributeValueError: "the data set cannot be read, has more than 256 KiB, or no Procedure Step "
    "State that there is",
    WrongActionError: "the subscription to one workitem is to be suspended",
    WorkitemError: "the state of the workitem is not the one that it takes, or another account has "
    "claimed the study; a cancellation is asked for of which nobody would hear",
}
_OTHERS: Final = {
    200: "done",
    201: "Subscribe: done; Content-Location is the WebSocket",
    202: "Request Cancellation: done, or the performer is asked",
    204: "Search: no match",
    401: "no login, no token, or one that does not work",
    406: "only other media types are accepted",
    413: "a search would open more than 10 000 files; a body of more than 1 MiB",
    415: "the body is of another media type",
    422: "a UID or an AE title in the path is none",
}
_OF_KEYS: Final = "a key has a value that its VR does not allow, or stands there more than once"


def resources() -> str:
    """Every resource of the origin server."""
    rows = (
        (transaction, f"{method} `{path}`" if method else "", remark)
        for transaction, method, path, remark in RESOURCES
    )
    return table(("Transaction", "Resource", "Remark"), rows)


def status_codes() -> str:
    """Status codes of the origin server."""
    found: dict[int, list[str]] = {code: [text] for code, text in _OTHERS.items()}
    found[400] = [_OF_KEYS]
    found[403] = ["the role or the scope is missing"]
    for kind, text in CONDITIONS.items():
        found.setdefault(int(STATUS[kind]), []).append(text)
    return table(("Status code", "When"), ((str(it), "; ".join(found[it])) for it in sorted(found)))
