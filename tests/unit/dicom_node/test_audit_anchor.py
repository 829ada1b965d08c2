"""The anchor keeps whole lines, whatever happens while it is written."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dicom_node.audit.anchor import append, every_anchored, last_anchored
from models.base import utc_now
from models.seal import AuditSeal


def _seal(number: int) -> AuditSeal:
    return AuditSeal(
        number=number,
        mac="0" * 64,
        sealed_at=utc_now(),
        events=1,
        first_event_id=number,
        last_event_id=number,
        key_id="0" * 16,
        previous_mac="0" * 64,
    )


def _numbers(path: Path) -> list[int | None]:
    return [each.number if each else None for _, each in every_anchored(path)]


@contextmanager
def _room_for(size: int) -> Iterator[None]:
    """Let no file be longer than so many bytes: the system writes as much of a line as fits."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def test_a_line_that_finds_no_room_is_not_begun(tmp_path: Path) -> None:
    anchor = tmp_path / "anchor.log"
    append(anchor, [_seal(1)])
    before = anchor.read_bytes()
    with _room_for(len(before) + 40), pytest.raises(OSError, match="No space left"):
        append(anchor, [_seal(2)])
    assert anchor.read_bytes() == before
    append(anchor, [_seal(2), _seal(3)])
    assert _numbers(anchor) == [1, 2, 3]


@pytest.mark.parametrize("rest", ['{"number": 2, "ma', "{"])
@pytest.mark.parametrize("first", [[], [1]])
def test_a_line_that_was_not_written_to_its_end_is_cut_off(
    tmp_path: Path, rest: str, first: list[int]
) -> None:
    """The machine lost its power."""
    anchor = tmp_path / "anchor.log"
    append(anchor, [_seal(number) for number in first])
    anchor.write_text(anchor.read_text() + rest)
    append(anchor, [_seal(2)])
    assert _numbers(anchor) == [*first, 2]


def test_a_last_line_without_its_end_that_says_a_seal_stays(tmp_path: Path) -> None:
    """Somebody's editor took the end away: the seal counts as anchored."""
    anchor = tmp_path / "anchor.log"
    append(anchor, [_seal(1)])
    anchor.write_text(anchor.read_text().rstrip())
    last = last_anchored(anchor)
    assert last is not None
    assert last.number == 1
    append(anchor, [_seal(2)])
    assert _numbers(anchor) == [1, 2]
