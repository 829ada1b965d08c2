"""Headers of the PROXY protocol, byte by byte: what is taken, and that nothing after it is."""

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.errors import NothingSaidError, ProxyHeaderError
from dicom_node.proxy_header import Source, read_source

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_ASSOCIATE_RQ = b"\x01\x00\x00\x00\x00\x44"
_V4 = bytes((10, 1, 2, 3)) + bytes((10, 9, 9, 9)) + struct.pack(">HH", 40001, 104)
_V6 = bytes.fromhex("fd00" + "00" * 13 + "07") + bytes(16) + struct.pack(">HH", 40002, 104)
_MAPPED = bytes(10) + b"\xff\xff" + bytes((10, 1, 2, 3)) + bytes(16) + struct.pack(">HH", 1, 2)


def _v2(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return _SIGNATURE + struct.pack(">BBH", command, family, size) + body


@contextmanager
def _received(data: bytes, *, is_open: bool = False) -> Iterator[socket.socket]:
    """Yield the end that has received this; `is_open`: more may come."""
    theirs, ours = socket.socketpair()
    with theirs, ours:
        theirs.sendall(data)
        if not is_open:
            theirs.shutdown(socket.SHUT_WR)
        yield ours


@pytest.mark.parametrize(
    ("header", "address", "port"),
    [
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 40001 104\r\n", "10.1.2.3", 40001),
        (b"PROXY TCP6 fd00::7 fd00::1 40002 104\r\n", "fd00::7", 40002),
        (b"PROXY TCP6 ::ffff:10.1.2.3 ::1 0 65535\r\n", "10.1.2.3", 0),
        (_v2(0x21, 0x11, _V4), "10.1.2.3", 40001),
        (_v2(0x21, 0x21, _V6), "fd00::7", 40002),
        (_v2(0x21, 0x21, _MAPPED), "10.1.2.3", 1),
        (_v2(0x21, 0x11, _V4 + b"\x04\x00\x03abc"), "10.1.2.3", 40001),  # with a TLV
    ],
)
def test_a_header_says_who_connects_and_what_follows_is_left(
    header: bytes, address: str, port: int
) -> None:
    with _received(header + _ASSOCIATE_RQ) as sock:
        source = read_source(sock)
        assert source is not None
        assert (str(source.address), source.port) == (address, port)
        assert sock.recv(100) == _ASSOCIATE_RQ


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff::1 whatever 1 2\r\n",
        _v2(0x20, 0x00, b""),
        _v2(0x20, 0x11, _V4),
        _v2(0x21, 0x00, b""),
    ],
)
def test_the_balancer_may_speak_for_itself(header: bytes) -> None:
    with _received(header + _ASSOCIATE_RQ) as sock:
        assert read_source(sock) is None
        assert sock.recv(100) == _ASSOCIATE_RQ


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x01\x00\x00\x00\x00\x44\x00\x01\x00\x00NODE            ", "no PROXY header"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abc", "no PROXY header"),
        (b"GET / HTTP/1.1\r\n\r\n", "no PROXY header"),
        (_SIGNATURE[:-1] + b"X" + b"\x21\x11\x00\x0c" + _V4, "no PROXY header"),
        (b"proxy TCP4 10.1.2.3 10.9.9.9 40001 104\r\n", "no PROXY header"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 40001 104", "cut"),
        (b"PROXY TCP4", "cut"),
        (_v2(0x21, 0x11, _V4[:-1], 12), "cut"),
        (_SIGNATURE + b"\x21", "cut"),
        (b"PROXY TCP4 " + b"1" * 200 + b"\r\n", "too long"),
        (b"PROXY UNKNOWN" + b" " * 94 + b"\r\n", "too long"),
        (_v2(0x21, 0x11, _V4 + bytes(3000)), "too long"),
        (_v2(0x31, 0x11, _V4), "another version"),
        (_v2(0x22, 0x11, _V4), "another version"),
        (_v2(0x21, 0x12, _V4), "not about TCP"),
        (_v2(0x21, 0x31, bytes(216)), "not about TCP"),
        (_v2(0x21, 0x11, _V4[:-1]), "malformed"),
        (_v2(0x21, 0x21, _V4), "malformed"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 40001\r\n", "malformed"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 40001 104 1\r\n", "malformed"),
        (b"PROXY TCP4  10.1.2.3 10.9.9.9 40001 104\r\n", "malformed"),
        (b"PROXY TCP4 10.1.2.333 10.9.9.9 40001 104\r\n", "malformed"),
        (b"PROXY TCP4 fd00::7 fd00::1 40001 104\r\n", "malformed"),
        (b"PROXY TCP6 fe80::7%eth0 fd00::1 40001 104\r\n", "malformed"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 70000 104\r\n", "malformed"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 +400 104\r\n", "malformed"),
        (b"PROXY TCP4 10.1.2.3 10.9.9.9 0400 104\r\n", "malformed"),
        (b"PROXY UDP4 10.1.2.3 10.9.9.9 40001 104\r\n", "malformed"),
        (b"PROXY \xff\xfe\xfd\xfc\xfb\r\n", "malformed"),
        (b"PROXY       \r\n", "malformed"),
    ],
)
def test_what_is_no_header_is_said_and_not_quoted(data: bytes, problem: str) -> None:
    with _received(data) as sock, pytest.raises(ProxyHeaderError, match=problem) as caught:
        read_source(sock)
    assert not isinstance(caught.value, NothingSaidError)
    assert "10.1" not in str(caught.value)


def test_a_connection_that_only_opens_and_closes_is_a_probe() -> None:
    with _received(b"") as sock, pytest.raises(NothingSaidError):
        read_source(sock)


@pytest.mark.parametrize("start", [b"", b"PROXY", b"PROXY TCP4 10.1.2.3 1", _SIGNATURE + b"\x21"])
def test_a_slow_header_ends_at_its_deadline(start: bytes) -> None:
    began = time.monotonic()
    with _received(start, is_open=True) as sock, pytest.raises(ProxyHeaderError):
        read_source(sock, 0.2)
    assert time.monotonic() - began < 10


@given(st.binary(max_size=300))
def test_any_bytes_are_a_source_or_an_error(data: bytes) -> None:
    with _received(b"PROXY " + data) as sock:
        try:
            source = read_source(sock)
        except ProxyHeaderError:
            return
    assert source is None or isinstance(source, Source)


@given(st.binary(max_size=120))
def test_any_version_2_is_a_source_or_an_error(data: bytes) -> None:
    with _received(_SIGNATURE + data) as sock:
        try:
            source = read_source(sock)
        except ProxyHeaderError:
            return
    assert source is None or isinstance(source, Source)
