"""Which DIMSE status answers which outcome (PS3.4 B.2.3, PS3.7 Annex C): one table."""

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NotAuthorisedError,
    NotUnderstoodError,
    SpoolFullError,
)

SUCCESS: Final = 0x0000
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
_WARNINGS: Final = range(0xB000, 0xC000)
_OUT_OF_RESOURCES: Final = range(0xA700, 0xA800)

STORE_STATUS: Final[dict[type[Exception], tuple[int, str]]] = {
    SpoolFullError: (0xA700, "Refused: out of resources"),
    SQLAlchemyError: (0xA700, "Refused: out of resources"),
    OSError: (0xA700, "Refused: out of resources"),
    DataSetMismatchError: (0xA900, "Error: data set does not match SOP Class"),
    NotUnderstoodError: (0xC000, "Error: cannot understand"),
    ClassNotStorableError: (0x0122, "Refused: SOP Class not supported"),
    NotAuthorisedError: (0x0124, "Refused: not authorised"),
    Exception: (PROCESSING_FAILURE, "Processing failure"),
}


def store_status(error: Exception) -> int:
    """Return the status for `error`: that of its nearest listed base class."""
    return next(STORE_STATUS[kind][0] for kind in type(error).__mro__ if kind in STORE_STATUS)


def is_stored(status: int) -> bool:
    """Say whether a C-STORE response means that the receiver has the object.

    Warnings (0xB000, 0xB006, 0xB007) say so with a remark, 0x0111 that it had it before.
    """
    return status in {SUCCESS, DUPLICATE_SOP_INSTANCE} or status in _WARNINGS


def is_retryable(status: int) -> bool:
    """Say whether the receiver may take the object later (0x0110, 0xA7xx: out of resources)."""
    return status == PROCESSING_FAILURE or status in _OUT_OF_RESOURCES
