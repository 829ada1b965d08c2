"""Which DIMSE status answers an N-ACTION or N-EVENT-REPORT (PS3.7 10.1.1.1.8, 10.1.4.1.10)."""

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import (
    CommitmentNotAuthorisedError,
    MalformedCommitmentError,
    TooManyReferencesError,
    UnknownActionError,
    UnknownEventError,
    UnknownTransactionError,
    WrongSopInstanceError,
)

SUCCESS: Final = 0x0000

COMMITMENT_STATUS: Final[dict[type[Exception], tuple[int, str]]] = {
    WrongSopInstanceError: (0x0112, "No such SOP Instance"),
    UnknownEventError: (0x0113, "No such event type"),
    MalformedCommitmentError: (0x0115, "Invalid argument value"),
    UnknownTransactionError: (0x0115, "Invalid argument value"),
    UnknownActionError: (0x0123, "No such action"),
    CommitmentNotAuthorisedError: (0x0124, "Refused: not authorised"),
    TooManyReferencesError: (0x0213, "Resource limitation"),
    SQLAlchemyError: (0x0213, "Resource limitation"),
    Exception: (0x0110, "Processing failure"),
}


def commitment_status(error: Exception) -> int:
    """Return the status for `error`: that of its nearest listed base class."""
    table = COMMITMENT_STATUS
    return next(table[kind][0] for kind in type(error).__mro__ if kind in table)
