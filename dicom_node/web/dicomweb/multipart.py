"""Bodies of multipart/related, written and read part by part (RFC 2046 5.1, PS3.18 8.6.1.2)."""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from dicom_node.web.dicomweb.errors import BodyError
from dicom_node.web.dicomweb.media_types import MULTIPART

_MAX_HEADERS: Final = 8192  # bytes, of one part
_MAX_BOUNDARY: Final = 200  # characters; RFC 2046 5.1.1 has 70, and Orthanc 73
_CRLF: Final = b"\r\n"
_BLANK: Final = b"\r\n\r\n"


@dataclass(frozen=True)
class Part:
    """One part to send: what it is, and its bytes."""

    content_type: str
    data: Iterable[bytes]
    location: str | None = None  # the URL of what is in it


class Writer:
    """One body to send; every part has the media type `kind`."""

    def __init__(self, kind: str) -> None:
        self._boundary = secrets.token_hex(24)
        self.media_type = f'{MULTIPART}; type="{kind}"; boundary={self._boundary}'

    def body(self, parts: Iterable[Part]) -> Iterator[bytes]:
        """Yield the body; no more of it is in memory than one piece of a part."""
        for part in parts:
            location = f"Content-Location: {part.location}\r\n" if part.location else ""
            head = f"--{self._boundary}\r\nContent-Type: {part.content_type}\r\n{location}\r\n"
            yield head.encode("ascii")
            yield from part.data
            yield _CRLF
        yield f"--{self._boundary}--\r\n".encode("ascii")


@dataclass(frozen=True)
class Received:
    """One part as it comes. Its pieces are read before the next part is asked for."""

    headers: Mapping[str, str]  # names in lower case
    data: Iterator[bytes]


class Reader:
    """Reads a body as it comes; no more of it is in memory than two pieces.

    Raises BodyError where the body is none of this boundary, or ends before its end.
    """

    def __init__(self, pieces: Iterator[bytes], boundary: str) -> None:
        if not 0 < len(boundary) <= _MAX_BOUNDARY or not boundary.isascii():
            msg = "the Content-Type has no usable boundary"
            raise BodyError(msg)
        self._pieces = pieces
        self._delimiter = f"\r\n--{boundary}".encode("ascii")
        self._held = _CRLF  # so that the first delimiter is found at the very start, too

    def parts(self) -> Iterator[Received]:
        """Yield every part. What is left of one is passed over when the next is asked for."""
        for _ in self._until_delimiter():
            pass  # a preamble means nothing (RFC 2046 5.1.1)
        while not self._ends():
            data = self._until_delimiter()
            yield Received(self._headers(), data)
            for _ in data:
                pass

    def _ends(self) -> bool:
        """Read what follows a delimiter; say whether it was the last one."""
        self._fill(2)
        if self._held.startswith(b"--"):
            return True
        while _CRLF not in self._held and len(self._held) <= _MAX_HEADERS:
            self._more()
        padding, found, self._held = self._held.partition(_CRLF)
        if not found or padding.strip(b" \t"):
            msg = "the body is no multipart body of this boundary"
            raise BodyError(msg)
        return False

    def _headers(self) -> dict[str, str]:
        self._held = _CRLF + self._held  # no header at all is a blank line at once
        while _BLANK not in self._held:
            if len(self._held) > _MAX_HEADERS:
                msg = f"a part has more than {_MAX_HEADERS} bytes of headers"
                raise BodyError(msg)
            self._more()
        head, _, self._held = self._held.partition(_BLANK)
        lines = (line.partition(":") for line in head.decode("latin-1").split("\r\n") if line)
        return {name.strip().lower(): value.strip() for name, _, value in lines}

    def _until_delimiter(self) -> Iterator[bytes]:
        """Yield what stands in front of the next delimiter, and pass over it."""
        while (at := self._held.find(self._delimiter)) < 0:
            keep = len(self._delimiter) - 1  # it may have begun
            if len(self._held) > keep:
                piece, self._held = self._held[:-keep], self._held[-keep:]
                yield piece
            self._more()
        piece, self._held = self._held[:at], self._held[at + len(self._delimiter) :]
        yield piece

    def _fill(self, count: int) -> None:
        while len(self._held) < count:
            self._more()

    def _more(self) -> None:
        for piece in self._pieces:
            if piece:
                self._held += piece
                return
        msg = "the body ends in the middle of a part"
        raise BodyError(msg)
