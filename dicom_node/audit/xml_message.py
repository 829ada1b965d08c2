"""An audit message as XML, in the order and with the attributes of the schema (PS3.15 A.5.1)."""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from xml.etree import ElementTree as ET

from dicom_node.audit.codes import Code

# XML 1.0 2.2: what no document may hold; a peer's text may.
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Participant:
    """An ActiveParticipant: who took part, and from where."""

    user_id: str
    is_requestor: bool = False
    role: Code | None = None
    ae_title: str | None = None  # AlternativeUserID, as AETITLES=…
    name: str | None = None
    host: str | None = None


@dataclass(frozen=True)
class ParticipantObject:
    """A ParticipantObjectIdentification: what it was about."""

    object_id: str
    id_type: Code
    type_code: int  # 1 person, 2 system object
    role: int  # ParticipantObjectTypeCodeRole
    name: str = ""
    query: bytes | None = None  # in place of the name
    details: Mapping[str, str] = field(default_factory=dict)
    accession_number: str | None = None
    sop_classes: Mapping[str, int] = field(default_factory=dict)  # UID: number of instances


@dataclass(frozen=True)
class AuditMessage:
    """A whole message. `source` is AuditSourceID, `site` AuditEnterpriseSiteID."""

    event: Code
    action: str
    at: str  # with its time zone
    outcome: int
    source: str
    kinds: tuple[Code, ...] = ()
    outcome_text: str | None = None
    participants: tuple[Participant, ...] = ()
    objects: tuple[ParticipantObject, ...] = ()
    site: str | None = None

    def xml(self) -> bytes:
        """Return the message as UTF-8 on one line."""
        root = ET.Element("AuditMessage")
        self._event(root)
        for participant in self.participants:
            _add_participant(root, participant)
        site = {} if self.site is None else {"AuditEnterpriseSiteID": self.site}
        source = _child(root, "AuditSourceIdentification", AuditSourceID=self.source, **site)
        _child(source, "AuditSourceTypeCode", **{"csd-code": "4"})  # application server process
        for each in self.objects:
            _add_object(root, each)
        text: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
        return text.replace(b"\n", b" ")

    def _event(self, root: ET.Element) -> None:
        event = _child(
            root,
            "EventIdentification",
            EventActionCode=self.action,
            EventDateTime=self.at,
            EventOutcomeIndicator=str(self.outcome),
        )
        _add_code(event, "EventID", self.event)
        for kind in self.kinds:
            _add_code(event, "EventTypeCode", kind)
        if self.outcome_text is not None:
            _child(event, "EventOutcomeDescription").text = _clean(self.outcome_text)


def _add_participant(root: ET.Element, participant: Participant) -> None:
    values: dict[str, str] = {"UserID": participant.user_id}
    if participant.ae_title is not None:
        values["AlternativeUserID"] = f"AETITLES={participant.ae_title}"  # A.5.2.2
    if participant.name is not None:
        values["UserName"] = participant.name
    values["UserIsRequestor"] = "true" if participant.is_requestor else "false"
    if participant.host is not None:
        values["NetworkAccessPointID"] = participant.host
        values["NetworkAccessPointTypeCode"] = "2" if _is_address(participant.host) else "1"
    element = _child(root, "ActiveParticipant", **values)
    if participant.role is not None:
        _add_code(element, "RoleIDCode", participant.role)


def _add_object(root: ET.Element, each: ParticipantObject) -> None:
    element = _child(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=each.object_id,
        ParticipantObjectTypeCode=str(each.type_code),
        ParticipantObjectTypeCodeRole=str(each.role),
    )
    _add_code(element, "ParticipantObjectIDTypeCode", each.id_type)
    if each.query is None:
        _child(element, "ParticipantObjectName").text = _clean(each.name)
    else:
        _child(element, "ParticipantObjectQuery").text = b64encode(each.query).decode()
    for kind, value in each.details.items():
        encoded = b64encode(value.encode("utf-8", "replace")).decode()
        _child(element, "ParticipantObjectDetail", type=kind, value=encoded)
    if each.accession_number or each.sop_classes:
        description = _child(element, "ParticipantObjectDescription")
        if each.accession_number:
            _child(description, "Accession", Number=each.accession_number)
        for uid, number in each.sop_classes.items():
            _child(description, "SOPClass", UID=uid, NumberOfInstances=str(number))


def _add_code(parent: ET.Element, name: str, code: Code) -> None:
    values = {
        "csd-code": code.value,
        "codeSystemName": code.scheme,
        "displayName": code.meaning,
        "originalText": code.meaning,
    }
    _child(parent, name, **values)


def _child(parent: ET.Element, name: str, **values: str) -> ET.Element:
    return ET.SubElement(parent, name, {key: _clean(value) for key, value in values.items()})


def _clean(text: str) -> str:
    """Return a peer's text without what XML cannot hold."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
