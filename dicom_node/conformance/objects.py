"""What the made objects contain, read from this package's TOML files.

The facts are the worker's, which the node may not import; tests compare them with real objects.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from models.identity import PRIVATE_SCHEME
from models.reasons import Reason

_LEVEL: Final = ">"


@dataclass(frozen=True)
class Attribute:
    """One attribute of an object; `level` is its depth of nesting (PS3.2 A.9.1)."""

    keyword: str
    level: int
    value: str
    presence: str
    source: str


@dataclass(frozen=True)
class ContentItem:
    """One row of the content tree of the report; `concept` is (code value, scheme)."""

    level: int
    relationship: str
    value_type: str
    concept: tuple[str, str]
    value: str
    presence: str


@dataclass(frozen=True)
class Group:
    """The measurement groups of these names: what they have beside the common items."""

    names: tuple[str, ...]
    template: str
    items: tuple[ContentItem, ...]


@dataclass(frozen=True)
class Objects:
    """The whole of objects.toml."""

    common: tuple[Attribute, ...]
    segmentation: tuple[Attribute, ...]
    report: tuple[Attribute, ...]
    capture: tuple[Attribute, ...]
    presentation: tuple[Attribute, ...]
    document: tuple[Attribute, ...]
    note: tuple[Attribute, ...]
    note_tree: tuple[ContentItem, ...]
    tree: tuple[ContentItem, ...]
    group: tuple[ContentItem, ...]
    groups: tuple[Group, ...]
    used: tuple[tuple[str, tuple[str, ...]], ...]  # step, keywords


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def _attributes(rows: list[list[str]]) -> tuple[Attribute, ...]:
    return tuple(
        Attribute(keyword.lstrip(_LEVEL), keyword.count(_LEVEL), *rest) for keyword, *rest in rows
    )


def _items(rows: list[list[str]]) -> tuple[ContentItem, ...]:
    found = []
    for relationship, value_type, concept, value, presence in rows:
        code, scheme = concept.split()
        level = relationship.count(_LEVEL)
        named = relationship.lstrip(_LEVEL)
        found.append(ContentItem(level, named, value_type, (code, scheme), value, presence))
    return tuple(found)


@cache
def objects() -> Objects:
    """Return what each kind of our objects contains."""
    raw = _read("objects.toml")
    return Objects(
        common=_attributes(raw["common"]),
        segmentation=_attributes(raw["segmentation"]),
        report=_attributes(raw["report"]),
        capture=_attributes(raw["capture"]),
        presentation=_attributes(raw["presentation"]),
        document=_attributes(raw["document"]),
        note=_attributes(raw["note"]),
        note_tree=_items(raw["note_tree"]),
        tree=_items(raw["tree"]),
        group=_items(raw["group"]),
        groups=tuple(
            Group(tuple(each["names"]), each["template"], _items(each["items"]))
            for each in raw["groups"]
        ),
        used=tuple((step, tuple(keywords)) for step, keywords in raw["used"].items()),
    )


@cache
def codes() -> dict[tuple[str, str], str]:
    """Return the meaning of every code by (value, scheme), without those of reasons."""
    raw = _read("codes.toml")
    return {(value, scheme): it for scheme, table in raw.items() for value, it in table.items()}


def reason_codes() -> dict[tuple[str, str], str]:
    """Return the private codes of the reasons why an image was not analysed."""
    return {
        (reason.name, PRIVATE_SCHEME): reason.value.replace("_", " ").capitalize()
        for reason in Reason
    }
