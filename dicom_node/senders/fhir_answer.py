"""What the answer to a FHIR transaction means (FHIR R4B, 3.1.0.11 and 3.1.0.15, OperationOutcome).

The status decides; the codes of an OperationOutcome may say that a refusal is over soon. Its texts
are not quoted: they may name a patient.
"""

import json
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final

from dicom_node.senders.base import Contact, SendResult, Verdict
from dicom_node.senders.store_response import HttpAnswer, Meaning, seconds_of

_DONE: Final = Meaning(Verdict.SENT, Contact.ANSWERED, "stored")
_UNCLEAR: Final = Meaning(
    Verdict.RETRY, Contact.ANSWERED, "it does not say whether it stored the resources"
)
_REFUSED: Final = Meaning(Verdict.REJECTED, Contact.ANSWERED, "the resources were refused")
_SEVERAL: Final = Meaning(
    Verdict.REJECTED, Contact.ANSWERED, "several resources there have an identifier of ours"
)
_CONFLICT: Final = Meaning(Verdict.RETRY, Contact.ANSWERED, "the resources are in use there")
_FAULT: Final = Meaning(Verdict.RETRY, Contact.ANSWERED, "the server failed")
_BUSY: Final = Meaning(Verdict.RETRY, Contact.OFFERED, "the server is away or busy")
_CREDENTIALS: Final = Meaning(
    Verdict.RETRY, Contact.UNREACHED, "correct the credentials (headers_file)"
)
_ELSEWHERE: Final = Meaning(
    Verdict.RETRY, Contact.UNREACHED, "no FHIR server that takes transactions is there"
)

MEANINGS: Final[dict[int, Meaning]] = {
    HTTPStatus.OK: _DONE,
    HTTPStatus.UNAUTHORIZED: _CREDENTIALS,
    HTTPStatus.FORBIDDEN: _CREDENTIALS,
    HTTPStatus.NOT_FOUND: _ELSEWHERE,
    HTTPStatus.METHOD_NOT_ALLOWED: _ELSEWHERE,
    HTTPStatus.REQUEST_TIMEOUT: _BUSY,
    HTTPStatus.CONFLICT: _CONFLICT,
    HTTPStatus.PRECONDITION_FAILED: _SEVERAL,
    HTTPStatus.TOO_MANY_REQUESTS: _BUSY,
    HTTPStatus.NOT_IMPLEMENTED: _ELSEWHERE,
    HTTPStatus.BAD_GATEWAY: _BUSY,
    HTTPStatus.SERVICE_UNAVAILABLE: _BUSY,
    HTTPStatus.GATEWAY_TIMEOUT: _BUSY,
}

# Value set issue-type: all of its codes that say what is wrong, and those that pass by themselves.
_PASSING: Final = frozenset(
    {"transient", "lock-error", "no-store", "exception", "timeout", "incomplete", "throttled"}
)
_CODES: Final = _PASSING | {
    *("invalid", "structure", "required", "value", "invariant", "security", "login", "unknown"),
    *("expired", "forbidden", "suppressed", "processing", "not-supported", "duplicate"),
    *("multiple-matches", "not-found", "deleted", "too-long", "code-invalid", "extension"),
    *("too-costly", "business-rule", "conflict"),
}


def meaning_of(code: int) -> Meaning:
    """Return what a status code means; of one that is not listed, by its class."""
    if code in MEANINGS:
        return MEANINGS[code]
    if code >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _FAULT
    if code >= HTTPStatus.BAD_REQUEST:
        return _REFUSED
    return _UNCLEAR if code < HTTPStatus.MULTIPLE_CHOICES else _ELSEWHERE


def judge_answer(delivery_id: int, answer: HttpAnswer, entries: int) -> SendResult:
    """Return the outcome of a transaction of so many entries."""
    body = _parsed(answer.body)
    meaning, issues = meaning_of(answer.code), _issues(body)
    if meaning.verdict is Verdict.SENT and not _is_done(body, entries):
        meaning = _UNCLEAR
    if meaning.verdict is Verdict.SENT:
        return SendResult(delivery_id, Verdict.SENT)
    if meaning.verdict is Verdict.REJECTED and issues and _PASSING.issuperset(issues):
        meaning = replace(_FAULT, sentence="the server says that it passes")
    said = f" ({', '.join(issues)})" if issues else ""
    return SendResult(
        delivery_id,
        meaning.verdict,
        error=f"FHIR was answered {answer.code}{said}: {meaning.sentence}",
        contact=meaning.contact,
        retry_after_seconds=seconds_of(answer.retry_after),
    )


def is_capable(answer: HttpAnswer) -> bool:
    """Say whether an answer is the CapabilityStatement of a FHIR server."""
    body = _parsed(answer.body)
    return answer.code == HTTPStatus.OK and body.get("resourceType") == "CapabilityStatement"


def _parsed(body: bytes) -> dict[str, Any]:
    """Return the resource in a body, which is a peer's; empty where it is none."""
    try:
        resource = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return resource if isinstance(resource, dict) else {}


def _is_done(body: dict[str, Any], entries: int) -> bool:
    """Say whether a transaction-response tells of every entry that it was done."""
    if (body.get("resourceType"), body.get("type")) != ("Bundle", "transaction-response"):
        return False
    told = [_status(each) for each in _list(body.get("entry"))]
    return len(told) == entries and all(each.startswith("2") for each in told)


def _status(entry: Any) -> str:  # noqa: ANN401  JSON of a peer
    response = entry.get("response") if isinstance(entry, dict) else None
    return str(response.get("status")) if isinstance(response, dict) else ""


def _issues(body: dict[str, Any]) -> list[str]:
    """Return the codes of the errors of an OperationOutcome, as far as the standard has them."""
    if body.get("resourceType") != "OperationOutcome":
        return []
    errors = (
        str(each.get("code"))
        for each in _list(body.get("issue"))
        if isinstance(each, dict) and each.get("severity") in {"error", "fatal"}
    )
    return sorted({code for code in errors if code in _CODES})


def _list(value: Any) -> list[Any]:  # noqa: ANN401  JSON of a peer
    return value if isinstance(value, list) else []
