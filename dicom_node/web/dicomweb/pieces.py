"""Bytes as they come from a file, piece by piece: never a whole object in memory."""

import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PIECE: Final = 1 << 18
_CODES: Final = {2: "H", 4: "I", 8: "Q"}


def of_file(path: Path, start: int = 0, length: int | None = None) -> Iterator[bytes]:
    """Yield `length` bytes from `start`; None: all that come. Raises OSError, EOFError."""
    left = length
    with path.open("rb") as file:
        file.seek(start)
        while left is None or left > 0:
            piece = file.read(PIECE if left is None else min(PIECE, left))
            if not piece:
                break
            left = None if left is None else left - len(piece)
            yield piece
    if left:
        msg = "the file is shorter than its elements say"
        raise EOFError(msg)


def inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield what a raw deflate stream holds (PS3.5 A.5). Raises EOFError where it is broken."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in pieces:
            rest = piece
            while rest and not unpacker.eof:
                yield unpacker.decompress(rest, PIECE)
                rest = unpacker.unconsumed_tail
    except zlib.error as error:
        msg = "the deflated data set is broken"
        raise EOFError(msg) from error


def window(pieces: Iterator[bytes], start: int, length: int) -> Iterator[bytes]:
    """Yield `length` bytes of what comes, from its byte `start`. Raises EOFError without them."""
    for piece in pieces:
        part = piece[start : start + length]
        start = max(0, start - len(piece))
        length -= len(part)
        if part:
            yield part
        if length <= 0:
            return
    if length > 0:
        msg = "the value is shorter than its element says"
        raise EOFError(msg)


def swapped(pieces: Iterator[bytes], unit: int) -> Iterator[bytes]:
    """Yield words of `unit` bytes in the other order; what is left at the end stays as it is."""
    if unit not in _CODES:
        yield from pieces
        return
    held = b""
    for piece in pieces:
        held += piece
        whole = len(held) - len(held) % unit
        words = array(_CODES[unit], held[:whole])
        words.byteswap()
        yield words.tobytes()
        held = held[whole:]
    yield held
