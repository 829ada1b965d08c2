"""The tables of the annex about the objects that are made (PS3.2 A.9)."""

from collections.abc import Iterable

from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

from dicom_node.conformance.objects import (
    Attribute,
    ContentItem,
    codes,
    objects,
    reason_codes,
)
from dicom_node.conformance.tables import table
from models.identity import PRIVATE_SCHEME


def attributes(rows: Iterable[Attribute]) -> str:
    """Attributes with tag and VR by PS3.6; `>` shows the level of nesting."""
    return table(
        ("Attribute", "Tag", "VR", "Value", "Presence", "Source"),
        (
            (
                f"{'>' * row.level}{dictionary_description(row.keyword)}",
                str(Tag(tag_for_keyword(row.keyword) or 0)),
                dictionary_VR(row.keyword),
                row.value,
                row.presence,
                row.source,
            )
            for row in rows
        ),
    )


def content(rows: Iterable[ContentItem]) -> str:
    """Content items as the templates of PS3.16 list them."""
    return table(
        ("Relationship", "Value type", "Concept name", "Value", "Presence"),
        (
            (
                f"{'>' * row.level}{row.relationship}",
                row.value_type,
                f"({', '.join((*row.concept, codes()[row.concept]))})",
                row.value,
                row.presence,
            )
            for row in rows
        ),
    )


def groups() -> str:
    """One table per kind of measurement group."""
    return "\n\n".join(
        f"**{', '.join(group.names)}** (TID {group.template}), beside the items above:\n\n"
        f"{content(group.items)}"
        for group in objects().groups
    )


def used() -> str:
    """Which attributes of received objects are looked at, and for what."""
    return table(
        ("For", "Attributes"),
        ((step, ", ".join(map(dictionary_description, keys))) for step, keys in objects().used),
    )


def _codes(found: dict[tuple[str, str], str]) -> str:
    return table(
        ("Code value", "Scheme", "Meaning"),
        ((f"`{value}`", scheme, meaning) for (value, scheme), meaning in found.items()),
    )


def standard_codes() -> str:
    """Codes of published schemes."""
    return _codes({code: it for code, it in codes().items() if code[1] != PRIVATE_SCHEME})


def private_codes() -> str:
    """Codes of our own scheme, those of reasons left out."""
    return _codes({code: it for code, it in codes().items() if code[1] == PRIVATE_SCHEME})


def private_reasons() -> str:
    """Codes of our own scheme that name a reason."""
    return _codes(reason_codes())
