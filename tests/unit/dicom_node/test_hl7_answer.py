"""dicom_node.senders.hl7_answer: what an acknowledgement means (HL7 2.5.1, 2.9.2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_node.senders.base import Contact
from dicom_node.senders.hl7 import messages_in
from dicom_node.senders.hl7_answer import judge, read_acknowledgement


def _ack(code: str, error: str = "") -> bytes:
    return f"MSH|^~\\&|RIS||||2026||ACK^R01|9|P|2.5.1\rMSA|{code}|C1{error}\r".encode()


@pytest.mark.parametrize(
    ("code", "error", "verdict", "words"),
    [
        ("AA", "", "sent", None),
        ("CA", "", "sent", None),
        ("AE", "", "retry", "HL7 was answered AE"),
        ("CE", "", "retry", "HL7 was answered CE"),
        ("AR", "", "rejected", "HL7 was answered AR"),
        ("CR", "", "rejected", "HL7 was answered CR"),
        ("AE", "\rERR||PID^1|101^Required^HL70357|E", "rejected", "required field missing (101)"),
        ("AE", "\rERR||PID^1|204^Unknown^HL70357|E", "retry", "unknown key identifier (204)"),
        ("AR", "\rERR||MSH^9|200^Type^HL70357|E", "rejected", "unsupported message type (200)"),
        ("AR", "\rERR|||207^Internal^HL70357|E", "retry", "application internal error (207)"),
        ("AE", "\rERR|PID^1^3^103&Table&HL70357", "rejected", "table value not found (103)"),
        ("AE", "||||206^Locked", "retry", "application record locked (206)"),
        ("AR", "|Patient 4711 is unknown", "rejected", "HL7 was answered AR"),
    ],
)
def test_the_code_and_the_error_decide(
    code: str, error: str, verdict: str, words: str | None
) -> None:
    said = read_acknowledgement(_ack(code, error))
    assert said is not None
    assert (said.code, said.control_id) == (code, "C1")
    result = judge(7, said)
    assert (result.delivery_id, result.verdict.value) == (7, verdict)
    assert result.contact is Contact.ANSWERED
    assert (result.error or "").endswith(words or "")
    assert "4711" not in (result.error or "")


def test_separators_are_those_of_the_answer_and_line_feeds_are_borne() -> None:
    said = read_acknowledgement(b"MSH#*~\\$#RIS\nMSA#AE#C1\nERR###101*x\n")
    assert said is not None
    assert (said.code, said.control_id, said.error) == ("AE", "C1", 101)


@pytest.mark.parametrize(
    "data",
    [b"", b"MSH", b"MSH|^~\\&|RIS\r", b"HTTP/1.1 400 Bad Request\r\n", _ack("XX"), b"\xff\x00"],
)
def test_what_acknowledges_nothing_is_none(data: bytes) -> None:
    assert read_acknowledgement(data) is None


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_no_bytes_of_a_peer_break_it(head: bytes, tail: bytes) -> None:
    read_acknowledgement(head)
    read_acknowledgement(b"MSH|^~\\&|" + head + b"\rMSA|AE|" + tail)


def test_a_file_is_taken_apart_only_where_it_is_messages() -> None:
    one = b"MSH|^~\\&|A||||2026||ORU^R01|C1|P|2.5.1\rPID|1\r"
    assert messages_in(one) == [one]
    assert messages_in(one + one.replace(b"C1", b"C2")) == [one, one.replace(b"C1", b"C2")]
    for damaged in (b"", b"DICM", one[1:], b"MSH|^~\\&|A\r", one[:20]):
        assert messages_in(damaged) == []
