"""A listing walked by keyset gives every row once, in order, on whatever directions."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Column, Float, Integer, MetaData, Table, create_engine, insert, select

from dicom_node.errors import CursorError
from dicom_node.paging import Page, after, decode, encode, moment, page_of

TABLE = Table("t", MetaData(), Column("score", Float), Column("id", Integer, primary_key=True))
ROWS = [
    {"score": score / 4, "id": 10 * score + number} for score in range(4) for number in range(5)
]


def _walk(directions: tuple[bool, bool], limit: int) -> list[int]:
    engine = create_engine("sqlite://")
    columns: Sequence[tuple[Any, bool]] = list(
        zip((TABLE.c.score, TABLE.c.id), directions, strict=True)
    )
    order = [column.desc() if descends else column for column, descends in columns]
    seen: list[int] = []
    with engine.connect() as connection:
        TABLE.metadata.create_all(connection)
        connection.execute(insert(TABLE), ROWS)
        cursor: str | None = None
        while True:
            query = select(TABLE).order_by(*order).limit(limit + 1)
            if cursor:
                query = query.where(after(columns, decode(cursor, (float, int))))
            page: Page[Any] = page_of(connection.execute(query).all(), limit, tuple)
            seen += [row.id for row in page.rows]
            cursor = page.next
            if cursor is None:
                return seen


@pytest.mark.parametrize("directions", [(d, e) for d in (False, True) for e in (False, True)])
@pytest.mark.parametrize("limit", [1, 3, 20, 21])
def test_every_row_comes_once_in_order(directions: tuple[bool, bool], limit: int) -> None:
    by_score, by_id = directions
    rows = sorted(ROWS, key=lambda row: row["id"], reverse=by_id)
    rows = sorted(rows, key=lambda row: row["score"], reverse=by_score)
    assert _walk(directions, limit) == [row["id"] for row in rows]


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!",
        "é",
        encode(["a", 1]),
        encode([1.0]),
        encode([1.0, True]),
        encode([1.0, 1 << 63]),
        encode([10**320, 1]),
        encode([math.inf, 1]),
        encode([math.nan, 1]),
        "W1tbW1tbW1tb" * 50,
    ],
)
def test_a_cursor_of_another_listing_is_refused(cursor: str) -> None:
    with pytest.raises(CursorError):
        decode(cursor, (float, int))


@pytest.mark.parametrize("text", ["\ud800", "2026\udfff"])
def test_half_a_character_is_no_text(text: str) -> None:
    with pytest.raises(CursorError):
        decode(encode([text]), (str,))
    assert decode(encode(["\U0001f600"]), (str,)) == ("\U0001f600",)


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "2026-01-01T00:00:00", "0001-01-01T00:00:00+10:00"),
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_a_time_without_a_zone_or_beyond_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(CursorError):
        moment(text)
    assert moment("2026-01-01T01:00:00+01:00") == datetime(2026, 1, 1, tzinfo=UTC)
