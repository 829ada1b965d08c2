"""Errors of DICOMweb; the type is the status of the answer (PS3.18 8.5, Table 8.5-1).

DicomwebError
├── ParameterError       a parameter of the query is none that is supported           400
├── BodyError            the body is no multipart body, or breaks off                 400
├── NotHereError         nothing of this address is held, or has this form            404
├── NotAcceptableError   it is held, in none of the forms that are accepted           406
├── GoneError            retention removed it                                         410
├── MediaTypeError       the body is none that can be stored                          415
└── NoRoomError          disk, or the number of senders at once: try again later      503
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from dicom_node.errors import NodeError, QueryError, TooManyMatchesError


class DicomwebError(NodeError):
    """Base of what ends a request; the message is free of patient data."""


class ParameterError(DicomwebError):
    """The query cannot be understood."""


class BodyError(DicomwebError):
    """The body cannot be read to its end."""


class NotHereError(DicomwebError):
    """There is no such thing."""


class NotAcceptableError(DicomwebError):
    """There is no representation that the client takes."""


class GoneError(DicomwebError):
    """It was here."""


class MediaTypeError(DicomwebError):
    """Such a body is not taken."""


class NoRoomError(DicomwebError):
    """Not now."""


RETRY_SECONDS: Final = 60  # Retry-After

STATUS: Final[Mapping[type[Exception], HTTPStatus]] = {
    ParameterError: HTTPStatus.BAD_REQUEST,
    BodyError: HTTPStatus.BAD_REQUEST,
    NotHereError: HTTPStatus.NOT_FOUND,
    NotAcceptableError: HTTPStatus.NOT_ACCEPTABLE,
    GoneError: HTTPStatus.GONE,
    MediaTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    NoRoomError: HTTPStatus.SERVICE_UNAVAILABLE,
    TooManyMatchesError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    QueryError: HTTPStatus.BAD_REQUEST,  # the keys of a query, read as those of a C-FIND
}


def status_of(error: Exception) -> HTTPStatus:
    """Return the status for `error`: that of its nearest listed base class."""
    found = (STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)
