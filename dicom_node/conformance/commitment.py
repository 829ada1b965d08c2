"""The tables of the statement about Storage Commitment (PS3.4 Annex J)."""

from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from dicom_node.commitment.associations import SYNTAXES
from dicom_node.commitment.messages import (
    CLASS_CONFLICT,
    DUPLICATE_TRANSACTION,
    FAILURE_REASONS,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    PUSH_MODEL,
)
from dicom_node.commitment.orders import MAX_REFERENCES
from dicom_node.commitment.statuses import COMMITMENT_STATUS, SUCCESS
from dicom_node.conformance.tables import name_of, table
from dicom_node.errors import (
    CommitmentNotAuthorisedError,
    MalformedCommitmentError,
    TooManyReferencesError,
    UnknownActionError,
    UnknownEventError,
    UnknownTransactionError,
    WrongSopInstanceError,
)

# When each row of COMMITMENT_STATUS is answered, and to which request.
CONDITIONS: Final[dict[type[Exception], tuple[str, str]]] = {
    WrongSopInstanceError: ("both", "the SOP Instance is not the well-known one"),
    UnknownEventError: ("N-EVENT-REPORT", "the Event Type ID is neither 1 nor 2"),
    MalformedCommitmentError: (
        "both",
        "a UID is missing or is none, or an N-ACTION names no instance",
    ),
    UnknownTransactionError: ("N-EVENT-REPORT", "no question of ours has this Transaction UID"),
    UnknownActionError: ("N-ACTION", "the Action Type ID is not 1"),
    CommitmentNotAuthorisedError: (
        "N-ACTION",
        "`commitment_provider` is off, has no address of the calling AE title, or does not list it",
    ),
    TooManyReferencesError: ("N-ACTION", f"more than {MAX_REFERENCES} instances in one question"),
    SQLAlchemyError: ("both", "the database cannot be written"),
    Exception: ("both", "any other failure"),
}

# When we give each reason for an instance that is not committed.
FAILURES: Final[dict[int, str]] = {
    NO_SUCH_INSTANCE: "it was never stored, or its file is missing or has another size by now",
    CLASS_CONFLICT: "it is stored under another SOP Class UID",
    PROCESSING_FAILURE: "it is set aside, or another object under its SOP Instance UID is, as a "
    "conflict: the question does not say which is meant",
    DUPLICATE_TRANSACTION: "the same AE title asked something else under this Transaction UID",
}


def contexts() -> str:
    """Presentation contexts of both roles."""
    listed = ", ".join(map(name_of, SYNTAXES))
    name = name_of(PUSH_MODEL)
    rows = [
        ("requestor, to ask", "SCU", "none"),
        ("acceptor, of answers", "SCU", "role selection: the requestor is SCP"),
        ("acceptor, of questions", "SCP", "none"),
        ("requestor, to answer", "SCP", "role selection: the requestor is SCP"),
    ]
    return table(
        ("As", "Abstract syntax", "UID", "Transfer syntaxes", "Role", "Extended negotiation"),
        ((way, name, f"`{PUSH_MODEL}`", listed, role, more) for way, role, more in rows),
    )


def statuses() -> str:
    """Statuses of the responses to N-ACTION and N-EVENT-REPORT (PS3.7 10.1)."""
    rows = [(f"`0x{SUCCESS:04X}`", "Success", "both", "the rows are committed")]
    rows += [
        (f"`0x{status:04X}`", meaning, *CONDITIONS[kind])
        for kind, (status, meaning) in COMMITMENT_STATUS.items()
    ]
    return table(("Status", "Meaning", "To", "When"), rows)


def failures() -> str:
    """Failure Reasons that we give (PS3.3 C.14.1.1)."""
    return table(
        ("Failure Reason", "Meaning", "When"),
        ((f"`0x{code:04X}`", FAILURE_REASONS[code], when) for code, when in FAILURES.items()),
    )
