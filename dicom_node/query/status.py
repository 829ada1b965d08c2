"""Which DIMSE status answers which outcome of a query or retrieve (PS3.4 Tables C.4-1 to C.4-3)."""

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

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

PENDING: Final = 0xFF00
PENDING_WITH_WARNING: Final = 0xFF01  # an optional key is not supported
CANCELLED: Final = 0xFE00
SOME_FAILED: Final = 0xB000
ALL_FAILED: Final = 0xA702
OUT_OF_RESOURCES: Final = 0xA700  # of a query
NO_MATCHES_CALCULATED: Final = 0xA701  # the same of a retrieve

QUERY_STATUS: Final[dict[type[Exception], tuple[int, str]]] = {
    TooManyMatchesError: (OUT_OF_RESOURCES, "Refused: out of resources"),
    SQLAlchemyError: (OUT_OF_RESOURCES, "Refused: out of resources"),
    OSError: (OUT_OF_RESOURCES, "Refused: out of resources"),
    UnknownDestinationError: (0xA801, "Refused: Move Destination unknown"),
    SmallPduError: (ALL_FAILED, "Refused: unable to perform sub-operations"),
    IdentifierError: (0xA900, "Error: identifier does not match SOP Class"),
    IdentifierUnreadableError: (0xC000, "Failed: unable to process"),
    QueryOperationError: (0x0211, "Refused: unrecognised operation"),
    QueryNotAuthorisedError: (0x0124, "Refused: not authorised"),
    QueryCancelledError: (CANCELLED, "Cancel"),
    Exception: (0xC000, "Failed: unable to process"),
}


def query_status(error: Exception, *, retrieves: bool) -> int:
    """Return the status for `error`: that of its nearest listed base class.

    Where a query is out of resources, a retrieve says that it could not calculate its matches.
    """
    status = next(QUERY_STATUS[kind][0] for kind in type(error).__mro__ if kind in QUERY_STATUS)
    return NO_MATCHES_CALCULATED if retrieves and status == OUT_OF_RESOURCES else status
