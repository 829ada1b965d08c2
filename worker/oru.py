"""HL7 v2.5.1 ORU^R01 of one study revision: the report as an unsolicited result.

One OBR per study, one OBX per statement, OBX-4 telling images apart. What an earlier message stated
and this one does not is deleted by name, because a receiver keeps what nobody mentions.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from models.identity import MANUFACTURER, PRIVATE_SCHEME
from models.reasons import Reason
from worker import codes
from worker.equipment import algorithm_version, device_uid
from worker.hl7_syntax import (
    Segment,
    components,
    decoded,
    encoded,
    escaped,
    field,
    header,
    repetitions,
    segment,
    subcomponents,
)
from worker.message_content import NOTICE, MessageContent, Moment, digest
from worker.report_groups import ReportImage
from worker.statements import Coded, Statement, not_analysed, statements

# Of messages alone: no object says these of itself.
_STUDY_UID: Final = Code("110180", "DCM", "Study Instance UID")
_SR_UID: Final = Code(
    "SR_INSTANCE_UID", PRIVATE_SCHEME, "SOP Instance UID of the Structured Report"
)
_VERSION: Final = "2.5.1"
_CHARACTER_SET: Final = "UNICODE UTF-8"  # table 0211
_CONTROL_ID: Final = 20  # longest MSH-10
_SUB_ID: Final = 8
_NAME_FORMS: Final = ("A", "I", "P")  # table 0465, in the order of the groups of a PN (PS3.5 6.2.1)
_OID: Final = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")

# Table 0085, OBX-11, and table 0123, OBR-25: nobody has verified what software says.
_UNVERIFIED, _CORRECTED, _NO_RESULT, _DELETED, _WRONG = "R", "C", "X", "D", "W"
_GONE: Final = frozenset({_DELETED, _WRONG})


def build_oru(content: MessageContent, previous: bytes | None = None) -> bytes:
    """Return the message; the same input gives the same bytes.

    `previous` is that of the revision before. Where the patient was another one, that message is
    taken back in one of its own, which stands in front of this one in all later revisions too: so
    no receiver can miss it. Where that patient comes back, what was taken back is corrected.
    """
    earlier = decoded(previous) if previous else []
    subject = _patient(content)
    own = [each for each in earlier if _is_about(each, subject)]
    recalls = [each for each in earlier[:-1] if not _is_about(each, subject)]
    if earlier and not _is_about(earlier[-1], subject):
        recalls.append(_recall(content, earlier[-1]))
    message = _message(content, subject, own[-1] if own else None)
    return b"".join(encoded(each) for each in (*recalls, message))


def _is_about(message: Sequence[Segment], subject: Segment) -> bool:
    return field(_pid(message), 3) == field(subject, 3)


def essence(message: bytes) -> tuple[object, ...]:
    """Return what a message says, without the times and states that differ by revision."""
    last = decoded(message)[-1]
    values = {(field(each, 3), field(each, 4), field(each, 5)) for each in last if _stands(each)}
    return field(_pid(last), 3), frozenset(values)


def has_figures(message: bytes) -> bool:
    """Say whether the newest message in these bytes gives a figure that stands."""
    return any(field(each, 2) == "NM" for each in decoded(message)[-1] if _stands(each))


def _stands(each: Segment) -> bool:
    return each[0] == "OBX" and field(each, 11) not in _GONE


def _message(
    content: MessageContent, subject: Segment, last: Sequence[Segment] | None
) -> list[Segment]:
    known = [] if last is None else [each for each in last if each[0] == "OBX"]
    status = _CORRECTED if known else _UNVERIFIED
    results = list(_results(content, status))
    named = {_name(each) for each in results}
    results += [_taken_back(content, each) for each in known if _name(each) not in named]
    for number, each in enumerate(results, start=1):
        each[1] = str(number)
    is_taken_back = any(field(each, 11) in _GONE for each in results)
    if not content.images:
        status = _CORRECTED if is_taken_back else _NO_RESULT
    body = [subject, _order(content, status), _notice(), *results]
    return [_header(content, body), *body]


def _header(content: MessageContent, body: Iterable[Segment]) -> Segment:
    """Return MSH. MSH-5 and 6 are the address on the envelope: whoever sends it writes them."""
    settings, created = content.settings, f"{content.created:%Y%m%d%H%M%S%z}"
    identity = encoded(body).decode()
    return header(
        {
            3: settings.sending_application,
            4: settings.sending_facility,
            7: created,
            9: "ORU^R01^ORU_R01",
            10: digest(created, identity, length=_CONTROL_ID),
            11: settings.processing_id,
            12: _VERSION,
            18: _CHARACTER_SET,
        }
    )


def _patient(content: MessageContent) -> Segment:
    ds = content.header
    identifier = "^".join(
        (escaped(str(ds.get("PatientID") or "")), "", "", _authority(content), "PI")
    )
    return segment(
        "PID",
        {
            1: "1",
            3: identifier if ds.get("PatientID") else "",
            5: _names(ds),
            7: str(ds.get("PatientBirthDate") or ""),
            8: str(ds.get("PatientSex") or "") or "U",
        },
    )


def _authority(content: MessageContent) -> str:
    """Return CX-4: the issuer by its name, and by its OID where that is known."""
    issuer = content.issuer
    system = content.settings.identifier_systems.get(issuer, "")
    oid = issuer if _OID.fullmatch(issuer) else system.removeprefix("urn:oid:")
    if not _OID.fullmatch(oid):
        return subcomponents(issuer)
    return subcomponents("" if oid == issuer else issuer, oid, "ISO")


def _names(ds: Dataset) -> str:
    """Return PID-5: each group of the PN as an XPN; prefix and suffix change places."""
    names = []
    for form, group in zip(_NAME_FORMS, str(ds.get("PatientName") or "").split("="), strict=False):
        family, given, middle, prefix, suffix = (*group.split("^"), *("",) * 5)[:5]
        if group.strip("^ "):
            names.append(components(family, given, middle, suffix, prefix, "", "", form))
    return repetitions(names)


def _order(content: MessageContent, status: str) -> Segment:
    """Return OBR. OBR-3 names this result, not the order: it must not replace a reader's report."""
    settings, ds = content.settings, content.header
    filler = digest(
        "result",
        content.study_uid,
        str(ds.get("PatientID") or ""),
        content.issuer,
        length=_CONTROL_ID,
    )
    return segment(
        "OBR",
        {
            1: "1",
            3: components(filler, settings.sending_application.partition("^")[0]),
            4: _coded(codes.REPORT_TITLE),
            7: _moment(content.observed),
            18: escaped(str(ds.get("AccessionNumber") or "")),
            22: f"{content.created:%Y%m%d%H%M%S%z}",
            24: "RAD",
            25: status,
            44: _coded(codes.PLAIN_CHEST_XRAY),
        },
    )


def _notice() -> Segment:
    return segment("NTE", {1: "1", 2: "L", 3: escaped(NOTICE)})


def _moment(moment: Moment) -> str:
    time = f"{moment.time}{moment.zone}" if moment.time else ""
    return f"{moment.date}{time}"


def _results(content: MessageContent, status: str) -> Iterator[Segment]:
    yield _study_result(_STUDY_UID, content.study_uid, status)
    if content.report_uid is not None:
        yield _study_result(_SR_UID, content.report_uid, status)
    for image in content.images:
        uid = str(image.header.SOPInstanceUID)
        common = {
            4: sub_id(uid),
            11: status,
            14: _moment(Moment.of(image.header)),
            18: _equipment(image, content),
        }
        for each in statements(image):
            yield _result(each, common)
    for left_out in content.rest:
        group = sub_id(left_out.sop_instance_uid)
        for each in not_analysed(left_out):
            is_reason = each.name == codes.NOT_ANALYSED
            yield _result(each, {4: group, 11: _NO_RESULT if is_reason else status})


def sub_id(sop_instance_uid: str) -> str:
    """Return OBX-4 of all that is said of an image: the same in every revision."""
    return digest(sop_instance_uid, length=_SUB_ID)


def _study_result(name: codes.AnyCode, uid: str, status: str) -> Segment:
    return segment("OBX", {2: "ST", 3: _coded(name), 5: escaped(uid), 11: status})


def _result(statement: Statement, common: dict[int, str]) -> Segment:
    kind, value = _value(statement)
    fields = {
        2: kind,
        3: _observation(statement),
        5: value,
        6: "" if statement.unit is None else _coded(statement.unit),
        17: "" if statement.method is None else _coded(statement.method),
    }
    return segment("OBX", fields | common)


def _value(statement: Statement) -> tuple[str, str]:
    """Return OBX-2 and OBX-5; several values are repetitions."""
    if statement.number is not None:
        return "NM", str(statement.number)
    if statement.coded:
        return "CWE", repetitions(map(_coded_value, statement.coded))
    return "TX", repetitions(map(escaped, statement.texts))


def _coded_value(value: Coded) -> str:
    """Return a CWE; component 9 is the text as people read it."""
    scheme = value.code.scheme_designator
    return components(
        value.code.value, value.code.meaning, scheme, "", "", "", "", "", value.sentence
    )


def _observation(statement: Statement) -> str:
    """Return OBX-3: the name of the statement, and the code of the SR as the alternate one."""
    name = statement.name
    if statement.key == name.value:
        return _coded(name)
    own = (statement.key, statement.meaning, PRIVATE_SCHEME)
    return components(*own, name.value, name.meaning, name.scheme_designator)


def _coded(code: codes.AnyCode) -> str:
    return components(code.value, code.meaning, code.scheme_designator)


def _equipment(image: ReportImage, content: MessageContent) -> str:
    """Return OBX-18: model and version, by whom, and the Device UID of the SR."""
    model = image.model
    name = f"{model.name} {algorithm_version(model)}"
    return components(name, MANUFACTURER, device_uid(model, content.context), "ISO")


def _name(result: Segment) -> tuple[str, str]:
    return field(result, 3).partition("^")[0], field(result, 4)


def _taken_back(content: MessageContent, result: Segment) -> Segment:
    """Return the OBX that takes an earlier one back, without its value.

    As wrong where its image was taken under a wrong worklist entry, which mostly is a wrong
    patient; else it is deleted.
    """
    wrong = {
        sub_id(each.sop_instance_uid)
        for each in content.rest
        if each.reason is Reason.REJECTED_WORKLIST
    }
    return _emptied(result, _WRONG if field(result, 4) in wrong else _DELETED)


def _emptied(result: Segment, status: str) -> Segment:
    kept = {number: field(result, number) for number in (1, 2, 3, 4)}
    return segment("OBX", kept | {11: status})


def _pid(message: Iterable[Segment]) -> Segment:
    return next(each for each in message if each[0] == "PID")


def _recall(content: MessageContent, message: Sequence[Segment]) -> list[Segment]:
    """Return the message that takes another one back: it was about the wrong patient."""
    body = []
    for each in message[1:]:
        changed = list(each)
        if each[0] == "OBX":
            changed = _emptied(each, _WRONG)
        elif each[0] == "OBR":
            changed[22], changed[25] = f"{content.created:%Y%m%d%H%M%S%z}", _CORRECTED
        body.append(changed)
    return [_header(content, body), *body]
