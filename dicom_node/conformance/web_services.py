"""The table of the statement about STOW-RS (PS3.18 10.5)."""

from typing import Final

from dicom_node.conformance.tables import table
from dicom_node.senders.base import Contact, Verdict
from dicom_node.senders.store_response import MEANINGS, Meaning, meaning_of

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
