"""The PROXY protocol: what a balancer says of a connection, before that one's first byte.

Versions 1 (a line of text) and 2 (binary) of HAProxy's specification, its sections in the comments.
Not one byte after the header is taken: the association request or the TLS handshake is not ours.
"""

import socket
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from dicom_node.errors import NothingSaidError, ProxyHeaderError

SECONDS: Final = 5.0  # a balancer sends its header with the connection
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"  # 2.2; as long as the beginning of a version 1 line
_V1: Final = b"PROXY "
_V1_MAX: Final = 107  # 2.1, with CR LF
_V2_HEAD: Final = struct.Struct(">BBH")  # version and command, family and protocol, length
_V2_MAX: Final = 2048  # addresses take 36; the rest are TLVs, a client certificate's name at most
_LOCAL, _PROXY = 0x20, 0x21
# Family and protocol, how long an address is, what it is. 2.2: only TCP brings associations.
_Kind = type[IPv4Address] | type[IPv6Address]
_FAMILIES: Final[dict[int, tuple[int, _Kind]]] = {0x11: (4, IPv4Address), 0x21: (16, IPv6Address)}
_UNSPECIFIED: Final = 0x00
_PORT_MAX: Final = 65535


@dataclass(frozen=True)
class Source:
    """Where a connection comes from, as its balancer says. None: from the balancer itself."""

    address: IPv4Address | IPv6Address
    port: int

    def as_client_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """Return it as `socket.accept` would."""
        if isinstance(self.address, IPv6Address):
            return str(self.address), self.port, 0, 0
        return str(self.address), self.port


def read_source(sock: socket.socket, seconds: float = SECONDS) -> Source | None:
    """Read the header from a connection of a trusted balancer; the whole of it within `seconds`.

    Raises ProxyHeaderError, NothingSaidError among them, and OSError when the connection breaks.
    """
    reader = _Reader(sock, time.monotonic() + seconds)
    start = reader.take(len(_SIGNATURE))
    if start == _SIGNATURE:
        return _version_2(reader)
    if start.startswith(_V1):
        return _version_1(reader, start)
    msg = "no PROXY header: does the balancer send one?"
    raise ProxyHeaderError(msg)


class _Reader:
    """Takes exactly as many bytes as are asked for, until a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock, self._deadline = sock, deadline
        self._has_any = False

    def take(self, length: int) -> bytes:
        taken = b""
        while len(taken) < length:
            left = self._deadline - time.monotonic()
            try:
                self._sock.settimeout(max(left, 0.001))
                part = self._sock.recv(length - len(taken))
            except TimeoutError as error:
                msg = "its PROXY header came too slowly" if self._has_any else "no PROXY header"
                raise ProxyHeaderError(msg) from error
            if not part:
                msg = "its PROXY header is cut"
                raise ProxyHeaderError(msg) if self._has_any else NothingSaidError(msg)
            taken, self._has_any = taken + part, True
        return taken


def _version_1(reader: _Reader, line: bytes) -> Source | None:
    while not line.endswith(b"\r\n"):
        if len(line) >= _V1_MAX:
            msg = "its PROXY header is too long"
            raise ProxyHeaderError(msg)
        line += reader.take(1)
    fields = line[:-2].decode("ascii", "replace").split(" ")
    if fields[1] == "UNKNOWN":  # 2.1: whatever follows is to be ignored
        return None
    families: dict[str, _Kind] = {"TCP4": IPv4Address, "TCP6": IPv6Address}
    try:
        _, family, source, destination, source_port, destination_port = fields
        kind = families[family]
        kind(destination)
        _port(destination_port)
        return Source(_plain(kind(source)), _port(source_port))
    except (KeyError, ValueError) as error:
        msg = "its PROXY header is malformed"
        raise ProxyHeaderError(msg) from error


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or (text[0] == "0" and text != "0"):
        raise ValueError(text)
    if (port := int(text)) > _PORT_MAX:
        raise ValueError(text)
    return port


def _version_2(reader: _Reader) -> Source | None:
    command, family, length = _V2_HEAD.unpack(reader.take(_V2_HEAD.size))
    if command not in {_LOCAL, _PROXY}:
        msg = "its PROXY header has another version or command"
        raise ProxyHeaderError(msg)
    if length > _V2_MAX:
        msg = "its PROXY header is too long"
        raise ProxyHeaderError(msg)
    body = reader.take(length)
    if command == _LOCAL or family == _UNSPECIFIED:
        return None
    if family not in _FAMILIES:
        msg = "its PROXY header is not about TCP"
        raise ProxyHeaderError(msg)
    size, kind = _FAMILIES[family]
    if length < 2 * size + 4:
        msg = "its PROXY header is malformed"
        raise ProxyHeaderError(msg)
    (port,) = struct.unpack_from(">H", body, 2 * size)
    return Source(_plain(kind(body[:size])), port)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return an IPv4 address that is written as an IPv6 one as what it is."""
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        raise ValueError(address)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address
