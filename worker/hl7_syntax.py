"""HL7 v2 as text: segments, fields and components, and how hostile text stands in them.

HL7 2.5.1, 2.5.3 (separators) and 2.7 (escape sequences). Every delimiter and every control
character of a value is escaped, so neither a segment nor a frame of MLLP can end within one.
"""

from collections.abc import Iterable, Mapping
from typing import Final

SEPARATORS: Final = "^~\\&"  # MSH-2: component, repetition, escape, subcomponent
_ESCAPES: Final[dict[int, str]] = {
    ord("|"): "\\F\\",
    ord("^"): "\\S\\",
    ord("&"): "\\T\\",
    ord("~"): "\\R\\",
    ord("\\"): "\\E\\",
    **{code: f"\\X{code:02X}\\" for code in (*range(0x20), 0x7F)},
}

Segment = list[str]  # the name, then the fields as they stand in the message, from number 1 on


def escaped(text: str) -> str:
    """Return a text as it may stand in a component."""
    legal = text.encode("utf-8", "replace").decode()  # a lone surrogate has no UTF-8
    return legal.translate(_ESCAPES)


def components(*parts: str) -> str:
    """Return a field of components, each escaped, without empty ones at its end."""
    return "^".join(map(escaped, parts)).rstrip("^")


def subcomponents(*parts: str) -> str:
    """Return a component of subcomponents, the same."""
    return "&".join(map(escaped, parts)).rstrip("&")


def repetitions(fields: Iterable[str]) -> str:
    """Return the field that repeats these."""
    return "~".join(fields)


def segment(name: str, fields: Mapping[int, str]) -> Segment:
    """Return a segment with fields by their numbers; those between are empty."""
    return [name, *(fields.get(number, "") for number in range(1, max(fields) + 1))]


def header(fields: Mapping[int, str]) -> Segment:
    """Return the MSH segment, whose field 1 is the field separator itself."""
    return segment("MSH", {1: "", 2: SEPARATORS, **fields})


def encoded(message: Iterable[Segment]) -> bytes:
    """Return the bytes of a message, in UTF-8."""
    return "".join(f"{_line(each)}\r" for each in message).encode()


def _line(each: Segment) -> str:
    if each[0] == "MSH":
        return "MSH|" + "|".join(each[2:])
    return "|".join(each)


def decoded(data: bytes) -> list[list[Segment]]:
    """Return the messages in bytes that `encoded` made, fields as they stand in them."""
    messages: list[list[Segment]] = []
    for line in data.decode().split("\r"):
        if line.startswith("MSH|"):
            _, *fields = line.split("|")
            messages.append([["MSH", "", *fields]])
        elif line:
            messages[-1].append(line.split("|"))
    return messages


def field(each: Segment, number: int) -> str:
    """Return a field as it stands in the message; empty where the segment is shorter."""
    return each[number] if number < len(each) else ""
