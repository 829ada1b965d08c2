"""Which status code answers which outcome (PS3.18 Tables 11.5.3-1 to 11.11.3-1)."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from fastapi import Request
from fastapi.responses import Response

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
from dicom_node.web import problems
from dicom_node.worklist.ups.statuses import (
    ALREADY_CANCELED,
    ALREADY_COMPLETED,
    ATTRIBUTES_NOT_SUPPORTED,
)

STATUS: Final[Mapping[type[WorkitemError], HTTPStatus]] = {
    UnknownWorkitemError: HTTPStatus.NOT_FOUND,
    FilteredSubscriptionError: HTTPStatus.FORBIDDEN,
    UnknownReceiverError: HTTPStatus.FORBIDDEN,
    WrongTransactionError: HTTPStatus.BAD_REQUEST,
    NotSchedulableError: HTTPStatus.BAD_REQUEST,
    AttributeValueError: HTTPStatus.BAD_REQUEST,
    WrongActionError: HTTPStatus.BAD_REQUEST,
    WorkitemError: HTTPStatus.CONFLICT,  # all else is about the state
}

# The words of PS3.18 11.6.3.2, 11.7.3.2, 11.8.3.2.
REMARKS: Final[Mapping[int, str]] = {
    ATTRIBUTES_NOT_SUPPORTED: "Requested optional Attributes are not supported.",
    ALREADY_CANCELED: "The UPS is already in the requested state of CANCELED.",
    ALREADY_COMPLETED: "The UPS is already in the requested state of COMPLETED.",
}


def status_of(error: WorkitemError) -> HTTPStatus:
    """Return the status code for `error`: that of its nearest listed base class."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


async def refused(_request: Request, error: Exception) -> Response:
    """Answer a request about a workitem that cannot be served with a problem document."""
    assert isinstance(error, WorkitemError)  # noqa: S101  as it was registered
    return problems.problem(status_of(error), str(error))
