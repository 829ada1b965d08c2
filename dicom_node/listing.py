"""Printing rows: a table for people, JSON lines and CSV for programs."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 200  # a pipe has no width; 80 would fold every UID


class Format(StrEnum):
    """How a listing is printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def flatten(
    row: Mapping[str, Any], prefix: str = "", list_text: Callable[[list[Any]], str] = json.dumps
) -> dict[str, Any]:
    """Return a row with nested mappings as dotted columns and lists as text, JSON by default."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.", list_text)
        else:
            flat[prefix + key] = list_text(value) if isinstance(value, list) else value
    return flat


def print_rows(
    rows: Iterable[Mapping[str, Any]], form: Format, columns: Sequence[tuple[str, str]]
) -> None:
    """Print `rows` as they come. `columns` are (heading, dotted key) of the table for people."""
    if form is Format.JSON:
        for row in rows:
            sys.stdout.write(json.dumps(row) + "\n")
    elif form is Format.CSV:
        _print_csv(rows)
    else:
        _print_table(rows, columns)


def _print_csv(rows: Iterable[Mapping[str, Any]]) -> None:
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        flat = flatten(row)
        if writer is None:
            writer = csv.DictWriter(sys.stdout, list(flat), extrasaction="ignore")
            writer.writeheader()
        writer.writerow({key: inert(value) for key, value in flat.items()})


def inert(value: object) -> object:
    """Keep a spreadsheet from running a peer's text as a formula."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


def _print_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[tuple[str, str]]) -> None:
    table = Table()
    for heading, _ in columns:
        table.add_column(heading, overflow="fold")
    for row in rows:
        flat = flatten(row, list_text=lambda items: ", ".join(map(str, items)))
        table.add_row(*(_cell(flat.get(key)) for _, key in columns))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PIPE_WIDTH)
    console.print(table)


def _cell(value: object) -> Text:
    """Return a value as text without markup: a peer's could end the table, or drive a terminal."""
    if value is None:
        return Text()
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    return Text("".join(each if each.isprintable() else "?" for each in text))
