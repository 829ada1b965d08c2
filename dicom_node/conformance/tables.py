"""The tables of the statement about the network, each from what the node works by."""

from collections.abc import Callable, Iterable
from typing import Final

from pydicom.charset import python_encoding
from pydicom.uid import UID, ExplicitVRLittleEndian
from pynetdicom import DEFAULT_TRANSFER_SYNTAXES
from pynetdicom.pdu_primitives import A_ASSOCIATE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at import
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.contexts import (
    ACCEPTED,
    CAPTURES,
    IMAGE_CLASSES,
    KEY_OBJECTS,
    STORAGE_SYNTAXES,
    STORE_ONLY,
)
from dicom_node.errors import (
    ClassNotStorableError,
    DataSetMismatchError,
    NotAuthorisedError,
    NotUnderstoodError,
    SpoolFullError,
)
from dicom_node.handlers import CONGESTED
from dicom_node.status import STORE_STATUS, SUCCESS, is_retryable, is_stored
from models.identity import MADE_CLASSES
from models.reasons import SENTENCES

# The one transfer syntax in which the worker writes SEG and SR.
MADE_SYNTAX: Final = ExplicitVRLittleEndian

# What pydicom's dictionary does not name yet (PS3.6 Table A-1).
_NAMES: Final = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}

# PS3.8 9.3.4: (result, source, reason) and when; the first that applies is sent.
REJECTIONS: Final[dict[tuple[int, int, int], str]] = {
    (1, 2, 2): "the protocol version is not 1",
    CONGESTED: "the spool has less free space than `dicom.min_free_bytes`",
    (2, 3, 2): "more than `dicom.max_associations` associations at once",
    (1, 1, 7): "`dicom.require_called_aet` is on and the called title is not `dicom.ae_title`",
    (1, 1, 3): "`dicom.allowed_calling_aets` has titles, and not the calling one; or, before "
    "all others, `dicom.peers` binds the calling title to other addresses",
}

# When each row of STORE_STATUS is answered.
CONDITIONS: Final[dict[type[Exception], str]] = {
    SpoolFullError: "the spool has less free space than `dicom.min_free_bytes`, or its disk "
    "refused bytes while receiving",
    SQLAlchemyError: "the database cannot be written",
    OSError: "a file cannot be written or read",
    DataSetMismatchError: "the SOP Class UID of the command is not the abstract syntax of its "
    "presentation context, or SOP Class UID or SOP Instance UID of the data set differ from the "
    "command",
    ClassNotStorableError: "the presentation context is that of another service than storage",
    NotUnderstoodError: "the command has no data set, the data set cannot be parsed, or a UID of "
    "SOP Class, SOP Instance, Study or Series is missing, longer than 64 characters or has other "
    "characters than digits and dots",
    NotAuthorisedError: "`dicom.store_calling_aets` has titles, and not the calling one",
    Exception: "any other failure",
}


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table, bars in cells escaped."""
    lines = [[*heads], *([*row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", r"\|")


def name_of(uid: UID) -> str:
    """Return the name of a UID by PS3.6."""
    return _NAMES.get(uid, uid.name)


def _status(status: int) -> str:
    return f"`0x{status:04X}`"


def sop_classes() -> str:
    """SOP Classes with their roles, and what becomes of a received object."""
    rows = []
    for uid in ACCEPTED:
        sends = uid in MADE_CLASSES or uid == Verification
        rows.append((name_of(uid), f"`{uid}`", "yes" if sends else "no", "yes", _use(uid)))
    return table(("SOP Class", "UID", "SCU", "SCP", "Use of what is received"), rows)


def _use(uid: UID) -> str:
    if uid == Verification:
        return "answered"
    if uid in IMAGE_CLASSES:
        return "stored, analysed"
    if uid in CAPTURES:
        return "stored; analysed only with `analysis.secondary_capture`"
    if uid in KEY_OBJECTS:
        return "stored; a rejection note withdraws images (4.2.1.4.5)"
    return "stored only"


def accepted_contexts() -> str:
    """Presentation contexts as acceptor (PS3.2 A.4.2.1.4)."""
    rows = []
    for uid, syntaxes in ACCEPTED.items():
        listed = ", ".join(map(name_of, syntaxes))
        shown = "all of the next table" if syntaxes == STORAGE_SYNTAXES else listed
        rows.append((name_of(uid), f"`{uid}`", shown, "SCP", "none"))
    return table(
        ("Abstract syntax", "UID", "Transfer syntaxes", "Role", "Extended negotiation"), rows
    )


def storage_syntaxes() -> str:
    """Transfer syntaxes of the storage contexts, in the order of preference."""
    rows = []
    for number, uid in enumerate(STORAGE_SYNTAXES, start=1):
        use = "stored only (`no_decoder`)" if uid in STORE_ONLY else "stored, decoded"
        rows.append((str(number), name_of(uid), f"`{uid}`", use))
    return table(("", "Transfer syntax", "UID", "Use"), rows)


def proposed_contexts() -> str:
    """Presentation contexts as requestor (PS3.2 A.4.2.1.3)."""
    syntaxes = ", ".join(name_of(UID(it)) for it in DEFAULT_TRANSFER_SYNTAXES)
    rows = [("verification", name_of(Verification), f"`{Verification}`", syntaxes)]
    rows += [
        ("storage", name_of(UID(uid)), f"`{uid}`", name_of(MADE_SYNTAX))
        for uid in sorted(MADE_CLASSES)
    ]
    return table(
        ("Activity", "Abstract syntax", "UID", "Transfer syntaxes", "Role", "Extended negotiation"),
        [(*row, "SCU", "none") for row in rows],
    )


def rejections() -> str:
    """Reasons to reject an association, in their order."""
    rows = []
    for triple, condition in REJECTIONS.items():
        primitive = A_ASSOCIATE()
        primitive.result, primitive.result_source, primitive.diagnostic = triple
        named = (primitive.result_str, primitive.source_str, primitive.reason_str)
        coded = (f"{number}: {text}" for number, text in zip(triple, named, strict=True))
        rows.append((*coded, condition))
    return table(("Result", "Source", "Reason", "When"), rows)


def given_statuses() -> str:
    """Statuses that the storage SCP answers (PS3.4 B.2.3)."""
    rows = [(_status(SUCCESS), "Success", "the bytes are on disk and the rows committed")]
    rows += [
        (_status(status), meaning, CONDITIONS[kind])
        for kind, (status, meaning) in STORE_STATUS.items()
    ]
    return table(("Status", "Meaning", "When"), rows)


def _ranges(holds: Callable[[int], bool]) -> str:
    """Return the statuses for which something holds, runs of them as ranges."""
    runs: list[tuple[int, int]] = []
    for status in filter(holds, range(0x10000)):
        if runs and runs[-1][1] == status - 1:
            runs[-1] = (runs[-1][0], status)
        else:
            runs.append((status, status))
    return ", ".join(
        _status(first) if first == last else f"{_status(first)} to {_status(last)}"
        for first, last in runs
    )


def received_statuses() -> str:
    """Statuses that the storage SCU receives, and what it does then (PS3.4 B.2.3)."""
    rows = [
        (_ranges(is_stored), "stored: the delivery is done"),
        (_ranges(is_retryable), "sent again later, see below"),
        ("any other", "rejected: not sent again until an operator says `dicom-node retry`"),
    ]
    return table(("Status", "Behaviour"), rows)


def reasons() -> str:
    """Why an object is not analysed or set aside; none of it is a failure of the C-STORE."""
    return table(
        ("Reason", "Meaning"), ((f"`{reason}`", text) for reason, text in SENTENCES.items())
    )


def character_sets() -> str:
    """Terms of Specific Character Set that are decoded (PS3.3 C.12.1.1.2)."""
    return ", ".join(f"`{term}`" for term in python_encoding if term)
