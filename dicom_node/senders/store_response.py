"""What the answer to a STOW-RS request means for the one object in it (PS3.18 10.5.3, Annex I)."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final

from dicom_node.senders.base import Contact, SendResult, Verdict
from dicom_node.senders.stored import judge
from dicom_node.status import PROCESSING_FAILURE, SUCCESS

_REFERENCED, _FAILED = "00081199", "00081198"  # Referenced and Failed SOP Sequence
_INSTANCE, _WARNING, _FAILURE = "00081155", "00081196", "00081197"
_SYNTAX_NOT_SUPPORTED: Final = 0xC122  # PS3.18 Table I.2-2
_STATUS_MAX: Final = 0xFFFF


@dataclass(frozen=True)
class HttpAnswer:
    """Status code, body (the beginning of it) and Retry-After of an answer."""

    code: int
    body: bytes = b""
    retry_after: str | None = None


@dataclass(frozen=True)
class Meaning:
    """What a status code means where the body says nothing about the object."""

    verdict: Verdict
    contact: Contact
    sentence: str


_TAKEN = Meaning(Verdict.SENT, Contact.ANSWERED, "stored")
_UNCLEAR = Meaning(Verdict.RETRY, Contact.ANSWERED, "it does not say whether it stored the object")
_REFUSED = Meaning(Verdict.REJECTED, Contact.ANSWERED, "the object was refused")
_FAULT = Meaning(Verdict.RETRY, Contact.ANSWERED, "the server failed")
_BUSY = Meaning(Verdict.RETRY, Contact.OFFERED, "the server is away or busy")
_CREDENTIALS = Meaning(Verdict.RETRY, Contact.UNREACHED, "correct the credentials (headers_file)")
_PATH = Meaning(Verdict.RETRY, Contact.UNREACHED, "correct the path of its url")
_ELSEWHERE = Meaning(Verdict.RETRY, Contact.UNREACHED, "no STOW-RS is there: correct its url")

# What is wrong with the set-up is cured there or here by a person, so the object waits (UNREACHED);
# what is refused is not sent again.
MEANINGS: Final[dict[int, Meaning]] = {
    HTTPStatus.OK: _TAKEN,
    HTTPStatus.ACCEPTED: _UNCLEAR,
    HTTPStatus.BAD_REQUEST: _REFUSED,
    HTTPStatus.UNAUTHORIZED: _CREDENTIALS,
    HTTPStatus.FORBIDDEN: _CREDENTIALS,
    HTTPStatus.NOT_FOUND: _PATH,
    HTTPStatus.METHOD_NOT_ALLOWED: _PATH,
    HTTPStatus.REQUEST_TIMEOUT: _BUSY,
    HTTPStatus.CONFLICT: _REFUSED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: _REFUSED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: _REFUSED,
    HTTPStatus.UNPROCESSABLE_ENTITY: _REFUSED,
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
    HTTPStatus.NOT_IMPLEMENTED: _ELSEWHERE,
    HTTPStatus.BAD_GATEWAY: _BUSY,
    HTTPStatus.SERVICE_UNAVAILABLE: _BUSY,
    HTTPStatus.GATEWAY_TIMEOUT: _BUSY,
}


def meaning_of(code: int) -> Meaning:
    """Return what a status code means; of one that is not listed, by its class."""
    if code in MEANINGS:
        return MEANINGS[code]
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _FAULT
    return _UNCLEAR if code < HTTPStatus.MULTIPLE_CHOICES else _ELSEWHERE


def judge_answer(delivery_id: int, sop_instance_uid: str, answer: HttpAnswer) -> SendResult:
    """Return the outcome of one object: by the response module where it names it, else the code.

    Statuses in the module mean what they mean in C-STORE (PS3.18 Table I.2-2).
    """
    told = _status_in(answer.body, sop_instance_uid)
    if told is not None:
        result = judge(delivery_id, told, f"STOW-RS was answered {answer.code} with")
        if told == _SYNTAX_NOT_SUPPORTED:
            result = replace(result, class_refused=True)
        return result
    meaning = meaning_of(answer.code)
    if meaning.verdict is Verdict.SENT:
        return SendResult(delivery_id, Verdict.SENT, SUCCESS)
    return SendResult(
        delivery_id,
        meaning.verdict,
        error=f"STOW-RS was answered {answer.code}: {meaning.sentence}",
        contact=meaning.contact,
        retry_after_seconds=seconds_of(answer.retry_after),
    )


def seconds_of(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After, which is a number or a date (RFC 9110 10.2.3)."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _status_in(body: bytes, sop_instance_uid: str) -> int | None:
    """Return the status that a response module has for an instance; None when it names it not.

    The body is a peer's: whatever has another shape says nothing.
    """
    try:
        module = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if isinstance(module, list) and len(module) == 1:
        module = module[0]  # PS3.18 F.2: a data set may come in an array
    for item in _items(module, _FAILED):
        if _value(item, _INSTANCE) == sop_instance_uid:
            return _number(item, _FAILURE, PROCESSING_FAILURE)
    for item in _items(module, _REFERENCED):
        if _value(item, _INSTANCE) == sop_instance_uid:
            status = _number(item, _WARNING, SUCCESS)
            return status if status in _WARNINGS else SUCCESS
    return None


_WARNINGS: Final = range(0xB000, 0xC000)


def _items(module: Any, tag: str) -> list[Any]:  # noqa: ANN401  JSON of a peer
    element = module.get(tag) if isinstance(module, dict) else None
    items = element.get("Value") if isinstance(element, dict) else None
    return items if isinstance(items, list) else []


def _value(item: Any, tag: str) -> Any:  # noqa: ANN401  JSON of a peer
    values = _items(item, tag)
    return values[0] if values else None


def _number(item: Any, tag: str, default: int) -> int:  # noqa: ANN401  JSON of a peer
    value = _value(item, tag)
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:9])
    is_status = isinstance(value, int) and 0 <= value <= _STATUS_MAX
    return value if is_status else default
