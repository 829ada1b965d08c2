"""Rows as CSV or as JSON lines: the columns are those of the schema, whatever the first row has."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import TypeAdapter

from dicom_node.listing import inert

_CHUNK: Final = 1 << 16
Column = tuple[str, ...]


def columns_of(rows: "TypeAdapter[Any]") -> list[Column]:
    """Return the path of every value in a row; lists and free mappings are one value."""
    schema = rows.json_schema(mode="serialization")
    return list(_columns(schema, schema.get("$defs", {}), ()))


def _columns(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], path: Column
) -> Iterator[Column]:
    chosen = next((each for each in schema.get("anyOf", []) if each != {"type": "null"}), schema)
    if "$ref" in chosen:
        chosen = definitions[chosen["$ref"].rpartition("/")[2]]
    properties = chosen.get("properties")
    if properties is None:
        yield path
        return
    for name, inner in properties.items():
        yield from _columns(inner, definitions, (*path, name))


def cell(row: Any, column: Column) -> object:  # noqa: ANN401  a JSON value
    """Return one value of a row; what has parts is JSON, and no text is a formula."""
    for name in column:
        if row is None:
            return None
        row = row.get(name)
    return json.dumps(row) if isinstance(row, list | dict) else inert(row)


@dataclass(frozen=True)
class Writer:
    """Writes rows of one kind in pieces of some ten thousand bytes."""

    rows: "TypeAdapter[Any]"
    is_csv: bool

    def pieces(self, rows: Iterable[Any]) -> Iterator[bytes]:
        """Yield the text; the first piece of CSV begins with the headings."""
        buffer = io.StringIO()
        writer = csv.writer(buffer)
        columns = columns_of(self.rows) if self.is_csv else []
        if self.is_csv:
            writer.writerow(".".join(column) for column in columns)
        for row in rows:
            checked = self.rows.validate_python(row)
            if self.is_csv:
                values = self.rows.dump_python(checked, mode="json")
                writer.writerow(cell(values, column) for column in columns)
            else:
                buffer.write(self.rows.dump_json(checked).decode() + "\n")
            if buffer.tell() >= _CHUNK:
                yield _emptied(buffer)
        yield _emptied(buffer)


def _emptied(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode()
