"""Bodies of multipart/related in both directions, cut into any pieces."""

from collections.abc import Iterator
from email import message_from_bytes
from email.policy import HTTP

import pytest

from dicom_node.web.dicomweb.errors import BodyError
from dicom_node.web.dicomweb.multipart import Part, Reader, Writer

DATA = [b"one", b"", b"\r\n--\r\n" * 50, bytes(range(256)) * 20]


def _written(data: list[bytes]) -> tuple[bytes, str, Writer]:
    writer = Writer("application/dicom")
    parts = (Part("application/dicom; x=y", [each[:5], each[5:]], "http://a/b") for each in data)
    body = b"".join(writer.body(parts))
    return body, writer.media_type.rpartition("=")[2], writer


def _pieces(body: bytes, size: int) -> Iterator[bytes]:
    yield from (body[at : at + size] for at in range(0, len(body), size))


def _read(body: bytes, boundary: str, size: int = 100) -> list[tuple[dict[str, str], bytes]]:
    found = Reader(_pieces(body, size), boundary).parts()
    return [(dict(each.headers), b"".join(each.data)) for each in found]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 51, 52, 53, 100, 1 << 20])
def test_what_is_written_is_read_whatever_the_pieces(size: int) -> None:
    body, boundary, _ = _written(DATA)
    found = _read(body, boundary, size)
    assert [data for _, data in found] == DATA
    assert {headers["content-type"] for headers, _ in found} == {"application/dicom; x=y"}


def test_the_standard_library_reads_what_is_written() -> None:
    body, _, writer = _written(DATA)
    head = f"MIME-Version: 1.0\r\nContent-Type: {writer.media_type}\r\n\r\n".encode()
    message = message_from_bytes(head + body, policy=HTTP)
    assert not message.defects
    assert message.get_content_type() == "multipart/related"
    assert message.get_param("type") == "application/dicom"
    assert [part.get_payload(decode=True) for part in message.iter_parts()] == DATA


def test_what_is_left_of_a_part_is_passed_over() -> None:
    body, boundary, _ = _written(DATA)
    seen = [next(part.data) for part in Reader(_pieces(body, 20), boundary).parts()]
    assert len(seen) == len(DATA)


def test_a_body_that_ends_anywhere_is_refused() -> None:
    body, boundary, _ = _written([b"one", b"two" * 30])
    for end in range(len(body) - len("\r\n") - 1):
        with pytest.raises(BodyError):
            _read(body[:end], boundary)


@pytest.mark.parametrize(
    ("body", "boundary"),
    [
        (b"", "b"),
        (b"no multipart at all", "b"),
        (b"--other\r\n\r\nx\r\n--other--", "b"),
        (b"--b-and-more\r\n\r\nx\r\n--b--", "b"),
        (b"--b\r\nX: " + b"x" * 9000 + b"\r\n\r\n\r\n--b--", "b"),
        (b"--b\r\n\r\nx\r\n--b--", ""),
        (b"--b\r\n\r\nx\r\n--b--", "b" * 201),
        (b"--b\r\n\r\nx\r\n--b--", "bö"),
    ],
)
def test_what_is_no_multipart_body_is_refused(body: bytes, boundary: str) -> None:
    with pytest.raises(BodyError):
        _read(body, boundary)


@pytest.mark.parametrize("start", [b"", b"\r\n", b"a preamble of somebody\r\n"])
def test_a_preamble_an_epilogue_and_padding_mean_nothing(start: bytes) -> None:
    body = start + b"--b \t\r\n\r\nx\r\n--b\r\nA: 1\r\nb : 2 \r\n\r\ny\r\n--b--\r\nan epilogue"
    assert _read(body, "b", 4) == [({}, b"x"), ({"a": "1", "b": "2"}, b"y")]
