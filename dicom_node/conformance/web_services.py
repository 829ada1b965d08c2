"""The tables of the statement about DICOM Web Services (PS3.18 chapter 10)."""

from typing import Final

from pydicom.datadict import dictionary_description
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.conformance.tables import name_of, table
from dicom_node.contexts import STORAGE_SYNTAXES
from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NotUnderstoodError,
    QueryError,
    SpoolFullError,
    TooManyMatchesError,
)
from dicom_node.query.keys import Level
from dicom_node.senders.base import Contact, Verdict
from dicom_node.senders.store_response import MEANINGS, Meaning, meaning_of
from dicom_node.status import STORE_STATUS
from dicom_node.web.dicomweb.errors import (
    STATUS,
    BodyError,
    GoneError,
    MediaTypeError,
    NoRoomError,
    NotAcceptableError,
    NotHereError,
    ParameterError,
)
from dicom_node.web.dicomweb.media_types import (
    DICOM,
    DICOM_JSON,
    FRAME_TYPES,
    MULTIPART,
    OCTETS,
    PNG,
)
from dicom_node.web.dicomweb.search import RETURNED
from dicom_node.web.dicomweb.store_response import SYNTAX_NOT_SUPPORTED

_BEHAVIOUR: Final[dict[tuple[Verdict, Contact], str]] = {
    (Verdict.SENT, Contact.ANSWERED): "stored: the delivery is done",
    (Verdict.REJECTED, Contact.ANSWERED): "rejected: not sent again until an operator says "
    "`dicom-node retry`",
    (Verdict.RETRY, Contact.ANSWERED): "sent again later, an attempt",
    (Verdict.RETRY, Contact.OFFERED): "no answer about the object: sent again later, an attempt; "
    "the server is paused",
    (Verdict.RETRY, Contact.UNREACHED): "set up otherwise: sent again later, no attempt; the "
    "server is paused",
}
_OTHERS: Final = {"other 2xx": 299, "3xx, other 4xx": 499, "other 5xx": 599}


def statuses() -> str:
    """HTTP status codes, where the response module says nothing about the object."""
    rows = [(str(int(code)), _behaviour(meaning)) for code, meaning in sorted(MEANINGS.items())]
    rows += [(name, _behaviour(meaning_of(code))) for name, code in _OTHERS.items()]
    return table(("Status code", "Behaviour"), rows)


def _behaviour(meaning: Meaning) -> str:
    return _BEHAVIOUR[meaning.verdict, meaning.contact]


_SERIES: Final = "/studies/{study}/series/{series}"
_INSTANCE: Final = f"{_SERIES}/instances/{{instance}}"
_OBJECTS: Final = f'`{MULTIPART}; type="{DICOM}"`'
_ANY_KIND: Final = f"of the next tables, single or in `{MULTIPART}`"

# Transaction, method, resource, what comes back.
RESOURCES: Final[tuple[tuple[str, str, str, str], ...]] = (
    ("QIDO-RS", "GET", "/studies", f"`{DICOM_JSON}`"),
    ("QIDO-RS", "GET", "/series", f"`{DICOM_JSON}`"),
    ("QIDO-RS", "GET", "/instances", f"`{DICOM_JSON}`"),
    ("QIDO-RS", "GET", "/studies/{study}/series", f"`{DICOM_JSON}`"),
    ("QIDO-RS", "GET", "/studies/{study}/instances", f"`{DICOM_JSON}`"),
    ("QIDO-RS", "GET", f"{_SERIES}/instances", f"`{DICOM_JSON}`"),
    ("WADO-RS", "GET", "/studies/{study}", _OBJECTS),
    ("WADO-RS", "GET", _SERIES, _OBJECTS),
    ("WADO-RS", "GET", _INSTANCE, f"{_OBJECTS}, `{DICOM}`"),
    ("WADO-RS", "GET", "/studies/{study}/metadata", f"`{DICOM_JSON}`"),
    ("WADO-RS", "GET", f"{_SERIES}/metadata", f"`{DICOM_JSON}`"),
    ("WADO-RS", "GET", f"{_INSTANCE}/metadata", f"`{DICOM_JSON}`"),
    ("WADO-RS", "GET", f"{_INSTANCE}/frames/{{numbers}}", _ANY_KIND),
    ("WADO-RS", "GET", f"{_INSTANCE}/bulkdata/{{place}}", f"`{OCTETS}`; a PDF as such"),
    ("WADO-RS", "GET", f"{_INSTANCE}/rendered", f"`{PNG}`; a PDF as such"),
    ("WADO-RS", "GET", f"{_INSTANCE}/frames/{{numbers}}/rendered", f"`{PNG}`"),
    ("WADO-RS", "GET", "/studies/{study}/thumbnail", f"`{PNG}`"),
    ("WADO-RS", "GET", f"{_SERIES}/thumbnail", f"`{PNG}`"),
    ("WADO-RS", "GET", f"{_INSTANCE}/thumbnail", f"`{PNG}`"),
    ("STOW-RS", "POST", "/studies", f"`{DICOM_JSON}`"),
    ("STOW-RS", "POST", "/studies/{study}", f"`{DICOM_JSON}`"),
)

# When each row of STATUS is answered.
CONDITIONS: Final[dict[type[Exception], str]] = {
    ParameterError: "a parameter is none that is supported, or no number",
    QueryError: "a key has a value that its VR does not allow",
    BodyError: "the body has no part, is no multipart body, or breaks off",
    NotHereError: "nothing of this address is held, or the object has no such frame, value or "
    "picture",
    NotAcceptableError: "it is held, in no form that is accepted",
    GoneError: "retention removed it; the problem says when",
    TooManyMatchesError: "more than `query_retrieve.max_results` objects, or a search would open "
    "more than `query_retrieve.max_files` files",
    MediaTypeError: "the body is none that is stored",
    NoRoomError: "the disk is below its floor, or as many requests as can be are being stored",
}
_OTHERS_OF_WEB: Final = {
    202: "STOW-RS: some parts were stored",
    204: "QIDO-RS: no match",
    206: "WADO-RS: some of the objects, not all",
    401: "no login, no token, or one that does not work",
    403: "the role or the scope is missing",
    409: "STOW-RS: no part was stored",
    422: "a UID or a list in the path is none",
}

# When each Failure Reason is given; those of C-STORE that a request of STOW-RS can meet.
FAILURES: Final[dict[type[Exception], str]] = {
    SpoolFullError: "the disk is below its floor or full",
    SQLAlchemyError: "the database cannot be written",
    DataSetMismatchError: "the UIDs of the data set differ from those of its file meta "
    "information, or its Study Instance UID from the one in the path",
    NotUnderstoodError: "the part is no Part 10 file, cannot be parsed, lacks a UID, or is longer "
    "than `web.stow_max_bytes`; then the rest of the body is not read",
    ClassNotStorableError: "the SOP Class is none of 4.2.1.4.1",
    Exception: "any other failure",
}


def resources() -> str:
    """Every resource of the origin server."""
    rows = ((service, f"{method} `{path}`", kind) for service, method, path, kind in RESOURCES)
    return table(("Transaction", "Resource", "Answer"), rows)


def web_statuses() -> str:
    """Status codes of the origin server."""
    found: dict[int, list[str]] = {code: [text] for code, text in _OTHERS_OF_WEB.items()}
    for kind, text in CONDITIONS.items():
        found.setdefault(int(STATUS[kind]), []).append(text)
    return table(("Status code", "When"), ((str(it), "; ".join(found[it])) for it in sorted(found)))


def returned() -> str:
    """Attributes of a match, by level."""
    rows = (
        (level.value, ", ".join(map(dictionary_description, RETURNED[level]))) for level in Level
    )
    return table(("Level", "Attributes"), rows)


def frame_types() -> str:
    """Media types of frames, by transfer syntax."""
    rows = ((name_of(uid), f"`{uid}`", f"`{FRAME_TYPES[uid]}`") for uid in STORAGE_SYNTAXES)
    return table(("Stored in", "UID", "Media type"), rows)


def failures() -> str:
    """Failure Reasons of STOW-RS."""
    rows = [(f"`0x{STORE_STATUS[kind][0]:04X}`", when) for kind, when in FAILURES.items()]
    rows.append((f"`0x{SYNTAX_NOT_SUPPORTED:04X}`", "the transfer syntax is none of 4.2.1.4.1"))
    return table(("Failure Reason", "When"), rows)
