"""Which DIMSE status answers which outcome (PS3.4 Tables CC.2.1-2 to CC.2.8-2, PS3.7 Annex C)."""

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

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

SUCCESS: Final = 0x0000
ATTRIBUTES_NOT_SUPPORTED: Final = 0x0001
PENDING: Final = 0xFF00
PENDING_WITH_WARNING: Final = 0xFF01
ALREADY_CANCELED: Final = 0xB304
ALREADY_COMPLETED: Final = 0xB306
_OUT_OF_RESOURCES: Final = 0xA700
_RESOURCE_LIMITATION: Final = 0x0213

WARNINGS: Final[dict[int, str]] = {
    ATTRIBUTES_NOT_SUPPORTED: "Warning: requested optional attributes are not supported",
    ALREADY_CANCELED: "Warning: the UPS is already in the requested state of CANCELED",
    ALREADY_COMPLETED: "Warning: the UPS is already in the requested state of COMPLETED",
}

UPS_STATUS: Final[dict[type[Exception], tuple[int, str]]] = {
    AlreadyEndedError: (0xC300, "Failed: the UPS may no longer be updated"),
    WrongTransactionError: (0xC301, "Failed: the correct Transaction UID was not provided"),
    AlreadyInProgressError: (0xC302, "Failed: the UPS is already IN PROGRESS"),
    NotSchedulableError: (0xC303, "Failed: the UPS may only become SCHEDULED via N-CREATE"),
    UnknownWorkitemError: (0xC307, "Failed: no such UPS instance is managed by this SCP"),
    FilteredSubscriptionError: (0xC307, "Failed: no such UPS instance is managed by this SCP"),
    UnknownReceiverError: (0xC308, "Failed: Receiving AE-TITLE is unknown to this SCP"),
    NotInProgressError: (0xC310, "Failed: the UPS is not in the IN PROGRESS state"),
    AlreadyCompletedError: (0xC311, "Failed: the UPS is already COMPLETED"),
    PerformerAwayError: (0xC312, "Failed: the performer cannot be contacted"),
    WrongActionError: (0xC314, "Failed: specified action not appropriate for the instance"),
    NoSuchActionError: (0x0123, "No such action type"),
    AttributeValueError: (0x0106, "Invalid attribute value"),
    WorkitemNotAuthorisedError: (0x0124, "Refused: not authorised"),
    WorkitemOperationError: (0x0211, "Refused: unrecognised operation"),
    TooManyMatchesError: (_OUT_OF_RESOURCES, "Refused: out of resources"),
    IdentifierError: (0xA900, "Error: data set does not match SOP Class"),
    IdentifierUnreadableError: (0xC000, "Failed: unable to process"),
    QueryCancelledError: (0xFE00, "Cancel"),
    SQLAlchemyError: (_OUT_OF_RESOURCES, "Refused: out of resources"),
    OSError: (_OUT_OF_RESOURCES, "Refused: out of resources"),
    Exception: (0x0110, "Processing failure"),
}


def ups_status(error: Exception, *, is_query: bool) -> int:
    """Return the status for `error`: that of its nearest listed base class.

    What is out of resources says so in the words of its operation.
    """
    status = next(UPS_STATUS[kind][0] for kind in type(error).__mro__ if kind in UPS_STATUS)
    if status == _OUT_OF_RESOURCES and not is_query:
        return _RESOURCE_LIMITATION
    return 0xC000 if is_query and status == UPS_STATUS[Exception][0] else status
