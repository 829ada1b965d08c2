"""FHIR R4B of one study revision: a transaction with DiagnosticReport, Observations and Devices.

Each resource has an identifier that derives from the study and is the same in every revision, and
is put by it (conditional update): sent twice, it is there once. What an earlier bundle stated of an
image and this one does not is put as entered in error.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from pydicom.dataset import Dataset

from models.identity import MANUFACTURER, PRIVATE_SCHEME, make_uid
from models.reasons import SENTENCES
from worker import codes
from worker.equipment import algorithm_version, device_uid
from worker.message_content import NOTICE, MessageContent, Moment
from worker.report_groups import PERCENT_DIGITS, ReportImage
from worker.statements import TOTAL, Statement, not_analysed, statements
from worker.types import CAVEAT_SENTENCES, Measurements, ModelIdentity, UnanalysedImage

Resource = dict[str, Any]

_URI: Final = "urn:ietf:rfc:3986"
_TERMINOLOGY: Final = "http://terminology.hl7.org/CodeSystem"
_PRIVATE_SYSTEM: Final = f"urn:oid:{make_uid('', 'coding-scheme', PRIVATE_SCHEME)}"
_SYSTEMS: Final[Mapping[str, str]] = {
    "SCT": "http://snomed.info/sct",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
    "UCUM": "http://unitsofmeasure.org",
    PRIVATE_SCHEME: _PRIVATE_SYSTEM,
}
# Nobody has verified what software says; an Observation of it is complete all the same.
_UNVERIFIED, _COMPLETE, _CORRECTED = "preliminary", "final", "corrected"
_WRONG, _CANCELLED = "entered-in-error", "cancelled"


def build_bundle(content: MessageContent, previous: bytes | None = None) -> bytes:
    """Return the bundle as JSON; the same input gives the same bytes.

    `previous` is that of the revision before: what it stated is corrected, or taken back.
    """
    known = _resources(previous)
    observations = [_observation(image, content, known) for image in content.images]
    observations += [_left_out(image, content, known) for image in content.rest]
    named = {_identity(each) for each in observations}
    taken_back = [_taken_back(each) for key, each in known.items() if _is_gone(each, key, named)]
    report = _report(content, observations, known)
    models = dict.fromkeys(image.model for image in content.images)
    devices = [_device(model, content) for model in models]
    bundle = {
        "resourceType": "Bundle",
        "identifier": _oid(content.uid("bundle", f"{content.created.isoformat()}")),
        "type": "transaction",
        "timestamp": content.created.isoformat(),
        "entry": [
            *(_created(each) for each in devices),
            *(_put(each) for each in (*observations, *taken_back, report)),
        ],
    }
    return json.dumps(bundle, ensure_ascii=False, separators=(",", ":")).encode()


def essence(bundle: bytes) -> list[object]:
    """Return what a bundle says, without the times that differ by revision."""
    return [
        {key: value for key, value in each.items() if key != "issued"}
        for each in _resources(bundle).values()
    ]


def has_figures(bundle: bytes) -> bool:
    """Say whether a bundle gives a figure that stands."""
    return any(map(_is_figure, _resources(bundle).values()))


def _is_figure(resource: Resource) -> bool:
    return "valueQuantity" in resource


def _had_figure(known: Resource | None) -> bool:
    """Say whether an earlier resource gave a figure, or took one back."""
    return known is not None and (_is_figure(known) or known["status"] == _WRONG)


def _resources(bundle: bytes | None) -> dict[str, Resource]:
    """Return the report and the observations of a bundle by their identifiers."""
    entries = json.loads(bundle)["entry"] if bundle else []
    found = [entry["resource"] for entry in entries]
    return {_identity(each): each for each in found if each["resourceType"] != "Device"}


def _is_gone(known: Resource, identity: str, named: set[str]) -> bool:
    return known["resourceType"] == "Observation" and identity not in named


def _identity(resource: Resource) -> str:
    return str(resource["identifier"][0]["value"])


def _oid(uid: str) -> Resource:
    return {"system": _URI, "value": f"urn:oid:{uid}"}


def _full_url(resource: Resource) -> str:
    """Return the name of a resource within its bundle."""
    name = f"{resource['resourceType']} {_identity(resource)}"
    return uuid.uuid5(uuid.NAMESPACE_OID, name).urn


def _query(resource: Resource) -> str:
    return f"identifier={quote(_URI, safe=':')}%7C{quote(_identity(resource), safe=':')}"


def _put(resource: Resource) -> Resource:
    url = f"{resource['resourceType']}?{_query(resource)}"
    return {
        "fullUrl": _full_url(resource),
        "resource": resource,
        "request": {"method": "PUT", "url": url},
    }


def _created(resource: Resource) -> Resource:
    request = {"method": "POST", "url": "Device", "ifNoneExist": _query(resource)}
    return {"fullUrl": _full_url(resource), "resource": resource, "request": request}


def _coding(code: codes.AnyCode) -> Resource:
    return {
        "system": _SYSTEMS[code.scheme_designator],
        "code": code.value,
        "display": code.meaning,
    }


def _concept(*several: codes.AnyCode, text: str = "") -> Resource:
    concept: Resource = {"coding": [_coding(each) for each in several]}
    return concept | ({"text": text} if text else {})


def _head(kind: str, identifier: Resource) -> Resource:
    return {
        "resourceType": kind,
        "meta": {"tag": [_coding(codes.RESEARCH_ONLY)]},
        "identifier": [identifier],
    }


def _device(model: ModelIdentity, content: MessageContent) -> Resource:
    """Return the model as a Device. It has no UDI: it is no medical device."""
    return {
        **_head("Device", _oid(device_uid(model, content.context))),
        "status": "active",
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": model.name, "type": "model-name"}],
        "type": _concept(codes.ARTIFICIAL_INTELLIGENCE),
        "version": [{"value": algorithm_version(model)}],
        "property": [{"type": {"text": "weights_sha256"}, "valueCode": [{"text": model.sha256}]}],
        "note": [{"text": codes.RESEARCH_ONLY.meaning}],
    }


def _text(value: object) -> str:
    """Return a text as FHIR takes it: no control character, no lone surrogate."""
    legal = str(value or "").encode("utf-8", "replace").decode()
    return "".join(sign if sign.isprintable() else " " for sign in legal).strip()


def _subject(content: MessageContent) -> Resource:
    """Return the patient by identifier and name: no Patient is made or changed by us."""
    ds = content.header
    subject: Resource = {"type": "Patient"}
    if value := _text(ds.get("PatientID")):
        issuer = _text(content.issuer)
        system = content.settings.identifier_systems.get(content.issuer)
        identifier: Resource = {"system": system} if system else {}
        identifier["value"] = value
        if issuer:
            identifier["assigner"] = {"display": issuer}
        subject["identifier"] = identifier
    return subject | {"display": _name(ds) or value or "unknown"}


def _name(ds: Dataset) -> str:
    alphabetic = str(ds.get("PatientName") or "").partition("=")[0]
    family, _, rest = alphabetic.partition("^")
    return _text(", ".join(filter(None, (family.strip(), " ".join(rest.split("^")).strip()))))


def _imaging_study(content: MessageContent) -> Resource:
    identifier = {"system": "urn:dicom:uid", "value": f"urn:oid:{content.study_uid}"}
    return {"type": "ImagingStudy", "identifier": identifier}


def _date_time(moment: Moment) -> str | None:
    """Return a dateTime: without a zone there is no time in FHIR, the date alone is certain."""
    if not moment.date:
        return None
    date = f"{moment.date[:4]}-{moment.date[4:6]}-{moment.date[6:8]}"
    if not (moment.time and moment.zone):
        return date
    hours, minutes, seconds = moment.time[:2], moment.time[2:4] or "00", moment.time[4:6] or "00"
    return f"{date}T{hours}:{minutes}:{seconds}{moment.zone[:3]}:{moment.zone[3:]}"


def _when(moment: Moment) -> Resource:
    text = _date_time(moment)
    return {"effectiveDateTime": text} if text else {}


def _of_image(uid: str, content: MessageContent, status: str) -> Resource:
    return {
        **_head("Observation", _oid(content.uid("observation", uid))),
        "status": status,
        "category": [
            {"coding": [{"system": f"{_TERMINOLOGY}/observation-category", "code": "imaging"}]}
        ],
        "code": _concept(codes.OPACITY_PERCENT),
        "subject": _subject(content),
        "derivedFrom": [_imaging_study(content)],
        "bodySite": _concept(codes.LUNG, text="Both lungs"),
    }


def _observation(
    image: ReportImage, content: MessageContent, known: Mapping[str, Resource]
) -> Resource:
    """Return what is said of an image: the total percentage as its value, the rest as parts."""
    observation = _of_image(str(image.header.SOPInstanceUID), content, _COMPLETE)
    if _identity(observation) in known:
        observation["status"] = _CORRECTED
    said = {each.key: each for each in statements(image)}
    total = said.pop(TOTAL, None)
    notes = [*(CAVEAT_SENTENCES[it] for it in image.caveats), *image.notes, NOTICE]
    value = _absent("unknown", "No lung field was found") if total is None else _value(total)
    return {
        **observation,
        **_when(Moment.of(image.header)),
        "issued": content.created.isoformat(),
        **value,
        "note": [{"text": _text(note)} for note in notes],
        "method": _concept(
            codes.ARTIFICIAL_INTELLIGENCE,
            text=f"{image.model.name} {algorithm_version(image.model)}",
        ),
        "device": {"reference": _full_url(_device(image.model, content))},
        "component": [_component(each) for each in said.values()],
    }


def _left_out(
    image: UnanalysedImage, content: MessageContent, known: Mapping[str, Resource]
) -> Resource:
    """Return what is said of an image without figures: why there is no value.

    Where it had one, the observation was entered in error.
    """
    observation = _of_image(image.sop_instance_uid, content, _CANCELLED)
    if _had_figure(known.get(_identity(observation))):
        observation["status"] = _WRONG
    reason = SENTENCES[image.reason]
    return {
        **observation,
        **_absent("not-performed", reason, _coding(codes.reason(image.reason))),
        "note": [{"text": NOTICE}],
        "component": [
            _component(each) for each in not_analysed(image) if each.name != codes.NOT_ANALYSED
        ],
    }


def _absent(code: str, text: str, *codings: Resource) -> Resource:
    standard = {"system": f"{_TERMINOLOGY}/data-absent-reason", "code": code}
    return {"dataAbsentReason": {"coding": [standard, *codings], "text": text}}


def _component(statement: Statement) -> Resource:
    """Return a part of an Observation.

    One of the name of the whole has its own code alone: beside a value of the whole no part may
    share its code (FHIR R4B Observation, obs-7).
    """
    own = {"system": _PRIVATE_SYSTEM, "code": statement.key, "display": statement.meaning}
    code = _concept(statement.name, text=statement.meaning)
    if statement.name == codes.OPACITY_PERCENT:
        code["coding"] = [own]
    elif statement.key != statement.name.value:
        code["coding"].insert(0, own)
    return {"code": code, **_value(statement)}


def _value(statement: Statement) -> Resource:
    if statement.number is not None:
        unit = statement.unit or codes.NO_UNITS
        return {
            "valueQuantity": {
                "value": statement.number,
                "unit": unit.value if unit != codes.NO_UNITS else unit.meaning,
                "system": _SYSTEMS["UCUM"],
                "code": unit.value,
            }
        }
    if statement.coded:
        text = " ".join(each.sentence or each.code.meaning for each in statement.coded)
        return {
            "valueCodeableConcept": _concept(*(each.code for each in statement.coded), text=text)
        }
    return {"valueString": "; ".join(filter(None, map(_text, statement.texts)))}


def _taken_back(known: Resource) -> Resource:
    """Return an earlier observation without its value; one that had a figure was an error."""
    kept = ("resourceType", "meta", "identifier", "category", "code", "subject", "derivedFrom")
    return {
        **{key: known[key] for key in kept},
        "status": _WRONG if _had_figure(known) else _CANCELLED,
        "note": [{"text": "The image is not part of the report any more."}, {"text": NOTICE}],
    }


def _status(content: MessageContent, known: Mapping[str, Resource]) -> str:
    """Return the status of the report; without a figure by whether there ever was one."""
    if content.images:
        return _CORRECTED if known else _UNVERIFIED
    return _WRONG if any(map(_had_figure, known.values())) else _CANCELLED


def _report(
    content: MessageContent, observations: Sequence[Resource], known: Mapping[str, Resource]
) -> Resource:
    report = _head("DiagnosticReport", _oid(content.uid("result")))
    accession = _text(content.header.get("AccessionNumber"))
    report |= {
        **({"basedOn": [_order(accession)]} if accession else {}),
        "status": _status(content, known),
        "category": [{"coding": [{"system": f"{_TERMINOLOGY}/v2-0074", "code": "RAD"}]}],
        "code": _concept(codes.REPORT_TITLE),
        "subject": _subject(content),
        **_when(content.observed),
        "issued": content.created.isoformat(),
        "imagingStudy": [_imaging_study(content)],
        "conclusion": _conclusion(content),
    }
    if observations:
        report["result"] = [{"reference": _full_url(each)} for each in observations]
    if content.images:
        report["conclusionCode"] = [_concept(codes.SEVERITIES[_worst(content).severity])]
    return report


def _order(accession: str) -> Resource:
    kind = {"coding": [{"system": f"{_TERMINOLOGY}/v2-0203", "code": "ACSN"}]}
    return {"type": "ServiceRequest", "identifier": {"type": kind, "value": accession}}


def _worst(content: MessageContent) -> Measurements:
    measured = [image.measurements for image in content.images]
    return max(measured, key=lambda each: each.total.percent or 0.0)


def _conclusion(content: MessageContent) -> str:
    said = [_sentence(image) for image in content.images]
    said += [f"An image was not analysed: {SENTENCES[image.reason]}" for image in content.rest]
    return " ".join([*said, NOTICE])


def _sentence(image: ReportImage) -> str:
    measured = image.measurements
    parts = [
        f"{where} {round(percent, PERCENT_DIGITS)} %"
        for where, percent in (
            ("total", measured.total.percent),
            ("left", measured.left.percent),
            ("right", measured.right.percent),
        )
        if percent is not None
    ]
    model = f"{image.model.name} {algorithm_version(image.model)}"
    caveats = "".join(f" {CAVEAT_SENTENCES[it]}" for it in image.caveats)
    return (
        f"Opacity of the lung fields: {', '.join(parts)}; severity {measured.severity.value}; "
        f"model {model}.{caveats}"
    )
