"""The part of Markdown that model cards are written in, as blocks that a template writes out.

Nothing is turned into HTML here: every piece of text is escaped where the template writes it, and
what is no Markdown of this kind is text. Links and pictures are not made.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

_SPAN: Final = re.compile(r"\*\*(?P<strong>.+?)\*\*|`(?P<code>[^`]+)`")
_HEADING: Final = re.compile(r"(#{1,6})\s+(.+)")
_BULLET: Final = re.compile(r"[-*]\s+(.*)")
_RULE_OF_TABLE: Final = re.compile(r"\|?[\s:|-]+\|?")
_INDENT: Final = "    "
_MOST_LINES: Final = 5000

Kind = Literal["heading", "paragraph", "bullets", "table", "code"]


@dataclass(frozen=True)
class Span:
    """A piece of text: plain, strong or code."""

    kind: Literal["text", "strong", "code"]
    text: str


Spans = tuple[Span, ...]


@dataclass(frozen=True)
class Block:
    """One block. What of it counts depends on its kind: `rows` of a table has its head first."""

    kind: Kind
    level: int = 0
    spans: Spans = ()
    items: tuple[Spans, ...] = ()
    rows: tuple[tuple[Spans, ...], ...] = ()
    text: str = ""


def blocks(markdown: str) -> list[Block]:
    """Return the blocks of a text."""
    lines = markdown.splitlines()[:_MOST_LINES]
    return [_block(part) for part in _parts(lines)]


def spans(text: str) -> Spans:
    """Return the pieces of one line."""
    found: list[Span] = []
    at = 0
    for match in _SPAN.finditer(text):
        if match.start() > at:
            found.append(Span("text", text[at : match.start()]))
        strong, code = match.group("strong"), match.group("code")
        found.append(Span("strong", strong) if strong is not None else Span("code", code))
        at = match.end()
    if at < len(text):
        found.append(Span("text", text[at:]))
    return tuple(found)


def _kind(line: str) -> Kind:
    if line.startswith(_INDENT):
        return "code"
    if _HEADING.fullmatch(line.strip()):
        return "heading"
    if line.lstrip().startswith("|"):
        return "table"
    return "bullets" if _BULLET.match(line) else "paragraph"


def _parts(lines: Iterable[str]) -> Iterator[tuple[Kind, list[str]]]:
    """Yield the lines of each block; an empty line ends it, and so does a line of another kind."""
    kind: Kind | None = None
    part: list[str] = []
    for line in lines:
        new = _kind(line) if line.strip() else None
        # An indented or plain line goes on with the bullet above it.
        goes_on = kind == "bullets" and new in {"paragraph", "code"}
        is_same = new == kind and kind not in {None, "heading"}
        if is_same or goes_on:
            part.append(line)
            continue
        if kind is not None:
            yield kind, part
        kind, part = new, [line]
    if kind is not None:
        yield kind, part


def _block(part: tuple[Kind, list[str]]) -> Block:
    kind, lines = part
    if kind == "heading":
        match = _HEADING.fullmatch(lines[0].strip())
        assert match is not None  # noqa: S101  that is what made it a heading
        return Block(kind, level=len(match.group(1)), spans=spans(match.group(2)))
    if kind == "code":
        return Block(kind, text="\n".join(line.removeprefix(_INDENT) for line in lines))
    if kind == "bullets":
        return Block(kind, items=tuple(map(spans, _items(lines))))
    if kind == "table":
        return Block(kind, rows=tuple(_cells(line) for line in lines if not _is_rule(line)))
    return Block(kind, spans=spans(" ".join(line.strip() for line in lines)))


def _items(lines: Iterable[str]) -> list[str]:
    items: list[str] = []
    for line in lines:
        match = _BULLET.match(line)
        if match:
            items.append(match.group(1).strip())
        else:
            items[-1] += f" {line.strip()}"
    return items


def _is_rule(line: str) -> bool:
    return "-" in line and _RULE_OF_TABLE.fullmatch(line.strip()) is not None


def _cells(line: str) -> tuple[Spans, ...]:
    inner = line.strip().removeprefix("|").removesuffix("|")
    return tuple(spans(cell.strip()) for cell in inner.split("|"))
