"""The tables of the statement about Query/Retrieve (PS3.4 Annex C)."""

from typing import Final

from pydicom.datadict import dictionary_description, dictionary_VR
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.conformance.tables import name_of, table
from dicom_node.contexts import QUERY_RETRIEVE
from dicom_node.errors import (
    IdentifierError,
    IdentifierUnreadableError,
    QueryCancelledError,
    QueryNotAuthorisedError,
    QueryOperationError,
    SmallPduError,
    TooManyMatchesError,
    UnknownDestinationError,
)
from dicom_node.query.keys import KEYS, Kind, tag_of
from dicom_node.query.retrieve import MIN_PDU
from dicom_node.query.status import (
    ALL_FAILED,
    PENDING,
    PENDING_WITH_WARNING,
    QUERY_STATUS,
    SOME_FAILED,
    query_status,
)
from dicom_node.status import SUCCESS

# When each row of QUERY_STATUS is answered.
CONDITIONS: Final[dict[type[Exception], str]] = {
    TooManyMatchesError: "more than `query_retrieve.max_results` matches, or a query would open "
    "more than `query_retrieve.max_files` files",
    SQLAlchemyError: "the database cannot be read, or the audit event not written",
    OSError: "a file or the network cannot be used",
    UnknownDestinationError: "the Move Destination is neither in "
    "`query_retrieve.move_destinations` nor a receiver",
    SmallPduError: f"the requestor receives PDUs of less than {MIN_PDU} bytes",
    IdentifierError: "another level than STUDY, SERIES or IMAGE; a unique key above the level that "
    "is missing or has several values; a value that is none of its VR, or has more than 256 "
    "characters; more UIDs in a list than `query_retrieve.max_results`, or more than 64 values of "
    "another key; a retrieve without the unique key of its level",
    IdentifierUnreadableError: "the identifier is missing, cannot be parsed, or has more than "
    "1 MiB, or a query more than 128 keys",
    QueryOperationError: "the operation, or its SOP Class, is not that of the presentation context",
    QueryNotAuthorisedError: "the calling AE title is not in `query_retrieve.calling_aets`",
    QueryCancelledError: "C-CANCEL came",
    Exception: "any other failure",
}

_OF_ONE: Final[dict[type[Exception], str]] = {
    UnknownDestinationError: "C-MOVE",
    SmallPduError: "C-GET",
}
_KINDS: Final = {Kind.UNIQUE: "unique", Kind.REQUIRED: "required", Kind.OPTIONAL: "optional"}


def contexts() -> str:
    """Presentation contexts of the service."""
    rows = []
    for uid, syntaxes in QUERY_RETRIEVE.items():
        listed = ", ".join(map(name_of, syntaxes))
        rows.append((name_of(uid), f"`{uid}`", listed, "SCP", "none"))
    heads = ("Abstract syntax", "UID", "Transfer syntaxes", "Role", "Extended negotiation")
    return table(heads, rows)


def keys() -> str:
    """Keys that are matched and returned, by level."""
    return table(
        ("Level", "Attribute", "Tag", "VR", "Type of key"),
        (
            (
                level.value,
                dictionary_description(keyword),
                str(tag_of(keyword)),
                dictionary_VR(keyword),
                _KINDS[kind],
            )
            for level, keywords in KEYS.items()
            for keyword, kind in keywords.items()
        ),
    )


def statuses() -> str:
    """Statuses of the three operations."""
    rows = [
        (_shown(PENDING), "Pending", "all", "a match; a C-STORE sub-operation has ended"),
        (
            _shown(PENDING_WITH_WARNING),
            "Pending, optional keys not supported",
            "C-FIND",
            "a match of a query with keys that are not in the table",
        ),
        (_shown(SUCCESS), "Success", "all", "all matches were sent, no sub-operation failed"),
        (
            _shown(SOME_FAILED),
            "Warning: one or more failures",
            "C-MOVE, C-GET",
            "some sub-operations failed or were answered with a warning",
        ),
        (
            _shown(ALL_FAILED),
            "Refused: unable to perform sub-operations",
            "C-MOVE, C-GET",
            "all sub-operations failed; the Move Destination cannot be reached",
        ),
    ]
    for kind, (_, meaning) in QUERY_STATUS.items():
        rows += [
            (_shown(status), meaning, operations, CONDITIONS[kind])
            for status, operations in _of(kind)
        ]
    return table(("Status", "Meaning", "Operations", "When"), rows)


def _of(kind: type[Exception]) -> list[tuple[int, str]]:
    """Return the statuses of one outcome with the operations that they answer."""
    error = kind.__new__(kind)
    found = query_status(error, retrieves=False)
    retrieved = query_status(error, retrieves=True)
    if kind in _OF_ONE:
        return [(retrieved, _OF_ONE[kind])]
    if found == retrieved:
        return [(found, "all")]
    return [(found, "C-FIND"), (retrieved, "C-MOVE, C-GET")]


def _shown(status: int) -> str:
    return f"`0x{status:04X}`"
