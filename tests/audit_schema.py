"""The schema of audit messages (PS3.15 A.5.1, RELAX NG) as tables, and a judge of messages."""

import re
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from xml.etree import ElementTree as ET

Check = Callable[[str], bool]


def _any(_text: str) -> bool:
    return True


def _one_of(*values: object) -> Check:
    allowed = {str(value) for value in values}
    return lambda text: text in allowed


def _matches(pattern: str) -> Check:
    return lambda text: re.fullmatch(pattern, text) is not None


def _base64(text: str) -> bool:
    try:
        b64decode(text, validate=True)
    except NotBase64:
        return False
    return True


_BOOLEAN = _one_of("true", "false", "0", "1")
_TIME = _matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_UID = _matches(r"[0-2]((\.0)|(\.[1-9][0-9]*))*")

Attributes = dict[str, tuple[bool, Check]]  # required, and what it may be
CODE: Final[Attributes] = {
    "csd-code": (True, _any),
    "codeSystemName": (True, _any),
    "displayName": (False, _any),
    "originalText": (True, _any),
}


@dataclass(frozen=True)
class Rule:
    """What an element may have: children in this order with their numbers, attributes, text."""

    children: tuple[tuple[str, int, int], ...] = ()
    attributes: Attributes = field(default_factory=dict)
    text: Check | None = None


_MANY: Final = 1 << 30
SCHEMA: Final[dict[str, Rule]] = {
    "AuditMessage": Rule(
        (
            ("EventIdentification", 1, 1),
            ("ActiveParticipant", 1, _MANY),
            ("AuditSourceIdentification", 1, 1),
            ("ParticipantObjectIdentification", 0, _MANY),
        )
    ),
    "EventIdentification": Rule(
        (("EventID", 1, 1), ("EventTypeCode", 0, _MANY), ("EventOutcomeDescription", 0, 1)),
        {
            "EventActionCode": (False, _one_of("C", "R", "U", "D", "E")),
            "EventDateTime": (True, _TIME),
            "EventOutcomeIndicator": (True, _one_of(0, 4, 8, 12)),
        },
    ),
    "EventID": Rule((), CODE),
    "EventTypeCode": Rule((), CODE),
    "EventOutcomeDescription": Rule(text=_any),
    "ActiveParticipant": Rule(
        (("RoleIDCode", 0, _MANY), ("MediaIdentifier", 0, 1)),
        {
            "UserID": (True, _any),
            "AlternativeUserID": (False, _any),
            "UserName": (False, _any),
            "UserIsRequestor": (True, _BOOLEAN),
            "NetworkAccessPointID": (False, _any),
            "NetworkAccessPointTypeCode": (False, _one_of(1, 2, 3, 4, 5)),
        },
    ),
    "RoleIDCode": Rule((), CODE),
    "AuditSourceIdentification": Rule(
        (("AuditSourceTypeCode", 0, _MANY),),
        {"AuditEnterpriseSiteID": (False, _any), "AuditSourceID": (True, _any)},
    ),
    "AuditSourceTypeCode": Rule((), {"csd-code": (True, _one_of(*range(1, 10)))}),
    "ParticipantObjectIdentification": Rule(
        (
            ("ParticipantObjectIDTypeCode", 1, 1),
            ("ParticipantObjectName", 0, 1),
            ("ParticipantObjectQuery", 0, 1),
            ("ParticipantObjectDetail", 0, _MANY),
            ("ParticipantObjectDescription", 0, _MANY),
        ),
        {
            "ParticipantObjectID": (True, _any),
            "ParticipantObjectTypeCode": (False, _one_of(1, 2, 3, 4)),
            "ParticipantObjectTypeCodeRole": (False, _one_of(*range(1, 27))),
            "ParticipantObjectDataLifeCycle": (False, _one_of(*range(1, 16))),
            "ParticipantObjectSensitivity": (False, _any),
        },
    ),
    "ParticipantObjectIDTypeCode": Rule((), CODE),
    "ParticipantObjectName": Rule(text=_any),
    "ParticipantObjectQuery": Rule(text=_base64),
    "ParticipantObjectDetail": Rule((), {"type": (True, _any), "value": (True, _base64)}),
    "ParticipantObjectDescription": Rule(
        (
            ("MPPS", 0, _MANY),
            ("Accession", 0, _MANY),
            ("SOPClass", 0, _MANY),
            ("ParticipantObjectContainsStudy", 0, 1),
            ("Encrypted", 0, 1),
            ("Anonymized", 0, 1),
        )
    ),
    "Accession": Rule((), {"Number": (True, _any)}),
    "SOPClass": Rule(
        (("Instance", 0, _MANY),),
        {"UID": (False, _UID), "NumberOfInstances": (True, _matches(r"\d+"))},
    ),
}


def problems(xml: bytes) -> list[str]:
    """Return what the schema forbids in a message."""
    root = ET.fromstring(xml)  # noqa: S314  written by us just before
    if root.tag != "AuditMessage":
        return [f"root {root.tag}"]
    return _judge(root)


def _judge(element: ET.Element) -> list[str]:
    rule = SCHEMA[element.tag]
    found = [
        f"{element.tag}@{name}={value!r}"
        for name, value in element.attrib.items()
        if name not in rule.attributes or not rule.attributes[name][1](value)
    ]
    required = {name for name, (is_required, _) in rule.attributes.items() if is_required}
    found += [f"{element.tag}@{name} lacks" for name in sorted(required - set(element.attrib))]
    text = element.text or ""
    if not (rule.text(text) if rule.text else not text.strip()):
        found.append(f"{element.tag} says {text!r}")
    found += _judge_order(element, rule)
    return found + [each for child in element for each in _judge(child)]


def _judge_order(element: ET.Element, rule: Rule) -> list[str]:
    names = [child.tag for child in element]
    order = [name for name, _, _ in rule.children]
    if [name for name in names if name not in order]:
        return [f"{element.tag} has {names}"]
    found = [] if names == sorted(names, key=order.index) else [f"{element.tag} in order {names}"]
    found += [
        f"{element.tag} has {names.count(name)} {name}"
        for name, least, most in rule.children
        if not least <= names.count(name) <= most
    ]
    if element.tag == "ParticipantObjectIdentification":
        choice = names.count("ParticipantObjectName") + names.count("ParticipantObjectQuery")
        found += [] if choice == 1 else ["neither name nor query, or both"]
    return found


@dataclass(frozen=True)
class Read:
    """A message as a test looks at it."""

    root: ET.Element

    @classmethod
    def of(cls, xml: bytes) -> "Read":
        """Read a message that the schema allows."""
        assert problems(xml) == []
        return cls(ET.fromstring(xml))  # noqa: S314  the same

    @property
    def event(self) -> tuple[str, str, str]:
        """EventID, EventActionCode, EventOutcomeIndicator."""
        head = self.root[0]
        values = head.attrib
        return (
            head[0].attrib["csd-code"],
            values["EventActionCode"],
            values["EventOutcomeIndicator"],
        )

    @property
    def kind(self) -> str | None:
        """EventTypeCode."""
        found = self.root.find("EventIdentification/EventTypeCode")
        return None if found is None else found.attrib["csd-code"]

    @property
    def participants(self) -> list[tuple[str, str | None, str]]:
        """UserID, RoleIDCode, UserIsRequestor of each."""
        found = []
        for each in self.root.findall("ActiveParticipant"):
            role = each.find("RoleIDCode")
            code = None if role is None else role.attrib["csd-code"]
            found.append((each.attrib["UserID"], code, each.attrib["UserIsRequestor"]))
        return found

    @property
    def objects(self) -> list[tuple[str, str, str, str]]:
        """ParticipantObjectID, its kind, type code and role of each."""
        return [
            (
                each.attrib["ParticipantObjectID"],
                each[0].attrib["csd-code"],
                each.attrib["ParticipantObjectTypeCode"],
                each.attrib["ParticipantObjectTypeCodeRole"],
            )
            for each in self.root.findall("ParticipantObjectIdentification")
        ]

    def details(self, place: int = 0) -> dict[str, str]:
        """Return the details of an object."""
        element = self.root.findall("ParticipantObjectIdentification")[place]
        return {
            it.attrib["type"]: b64decode(it.attrib["value"]).decode()
            for it in element.findall("ParticipantObjectDetail")
        }

    def find(self, path: str) -> Any:
        """Return the first element at a path."""
        return self.root.find(path)
