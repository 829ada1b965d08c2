"""What an acknowledgement means for a message (HL7 2.5.1, 2.9.2 and 2.9.3, tables 0008 and 0357).

AE and CE say that processing failed, which for many receivers is a data base that is away: they are
tried again, unless the error code says that the message itself is wrong. AR and CR refuse it, and
are final, unless the code says that something is locked or broken there.
"""

import re
from dataclasses import dataclass
from typing import Final

from dicom_node.senders.base import SendResult, Verdict

_ACCEPTED: Final = frozenset({"AA", "CA"})
_ERRORS: Final = frozenset({"AE", "CE"})
_REJECTS: Final = frozenset({"AR", "CR"})
_NUMBER: Final = re.compile(r"[0-9]{3}")
# Table 0357: what of it says that the same message will never be taken, or may be later.
_WRONG: Final[dict[int, str]] = {
    100: "segment sequence error",
    101: "required field missing",
    102: "data type error",
    103: "table value not found",
    200: "unsupported message type",
    201: "unsupported event code",
    202: "unsupported processing id",
    203: "unsupported version id",
    205: "duplicate key identifier",
}
_LATER: Final[dict[int, str]] = {
    204: "unknown key identifier",
    206: "application record locked",
    207: "application internal error",
}


@dataclass(frozen=True)
class Acknowledgement:
    """MSA-1, MSA-2, and the error code where there is one."""

    code: str
    control_id: str
    error: int | None = None


def read_acknowledgement(data: bytes) -> Acknowledgement | None:
    """Return what a message acknowledges; None where it is no acknowledgement.

    It is a peer's: only the few fields that are needed are looked at.
    """
    text = data.decode("latin-1")
    if not text.startswith("MSH") or len(text) < len("MSH|^~\\&"):
        return None
    separator, component, subcomponent = text[3], text[4], text[7]
    lines = re.split(r"[\r\n]+", text)
    segments = {line[:3]: line.split(separator) for line in reversed(lines)}
    msa = segments.get("MSA", [])
    code, control_id = _field(msa, 1).strip().upper(), _field(msa, 2).strip()
    if code not in _ACCEPTED | _ERRORS | _REJECTS:
        return None
    err = segments.get("ERR", [])
    several = (_field(err, 3), _field(err, 1), _field(msa, 6))
    pieces = re.compile(f"[{re.escape(component + subcomponent)}]")
    numbers = [
        int(piece)
        for each in several
        for piece in pieces.split(each)
        if _NUMBER.fullmatch(piece) and int(piece) in _WRONG | _LATER
    ]
    return Acknowledgement(code, control_id, numbers[0] if numbers else None)


def judge(delivery_id: int, said: Acknowledgement) -> SendResult:
    """Return the outcome of one message."""
    if said.code in _ACCEPTED:
        return SendResult(delivery_id, Verdict.SENT)
    why = (_WRONG | _LATER).get(said.error or 0)
    error = f"HL7 was answered {said.code}" + (f": {why} ({said.error})" if why else "")
    is_final = said.error in _WRONG or (said.code in _REJECTS and said.error not in _LATER)
    verdict = Verdict.REJECTED if is_final else Verdict.RETRY
    return SendResult(delivery_id, verdict, error=error)


def _field(segment: list[str], number: int) -> str:
    return segment[number] if number < len(segment) else ""
