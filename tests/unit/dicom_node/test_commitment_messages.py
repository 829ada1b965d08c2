"""The data sets of Storage Commitment, from us and from peers who may send anything."""

from typing import Any

import pytest
from pydicom.dataset import Dataset

from dicom_node.commitment.messages import (
    CLASS_CONFLICT,
    DUPLICATE_TRANSACTION,
    FAILURE_REASONS,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    PUSH_MODEL,
    Failure,
    Question,
    Reference,
    Report,
    decode_question,
    decode_report,
    encode_question,
    encode_report,
)
from dicom_node.commitment.statuses import COMMITMENT_STATUS, commitment_status
from dicom_node.conformance.commitment import CONDITIONS, FAILURES, contexts, failures, statuses
from dicom_node.errors import CommitmentError, MalformedCommitmentError

ONE, TWO = Reference("1.2.840.1", "1.2.3"), Reference("1.2.840.1", "1.2.4")


def test_a_question_survives_its_encoding_and_names_each_instance_once() -> None:
    assert decode_question(encode_question(Question("2.25.1", (ONE, TWO, ONE)))) == Question(
        "2.25.1", (ONE, TWO)
    )


@pytest.mark.parametrize(
    "report",
    [
        Report("2.25.1", (ONE, TWO), ()),
        Report("2.25.1", (ONE,), (Failure(TWO, 0x0112),)),
        Report("2.25.1", (), (Failure(ONE, 0x0131), Failure(TWO, 0x0119))),
    ],
)
def test_an_answer_survives_its_encoding(report: Report) -> None:
    ds = encode_report(report)
    assert decode_report(ds) == report
    # PS3.4 Table J.3-2: a sequence without an item is absent
    assert ("ReferencedSOPSequence" in ds) == bool(report.committed)
    assert ("FailedSOPSequence" in ds) == bool(report.failed)
    assert report.event_type == (2 if report.failed else 1)


def test_what_is_named_as_both_counts_as_failed() -> None:
    report = Report("2.25.1", (ONE, TWO), (Failure(ONE, 0x0112),))
    assert decode_report(encode_report(report)) == Report("2.25.1", (TWO,), (Failure(ONE, 0x0112),))


@pytest.mark.parametrize("uid", [None, "", "1.2.a", "1" * 65, "../../etc"])
@pytest.mark.parametrize(
    "keyword", ["TransactionUID", "ReferencedSOPClassUID", "ReferencedSOPInstanceUID"]
)
def test_a_message_without_a_uid_is_malformed(keyword: str, uid: str | None) -> None:
    ds = encode_question(Question("2.25.1", (ONE,)))
    target = ds if keyword in ds else ds.ReferencedSOPSequence[0]
    if uid is None:
        delattr(target, keyword)
    else:
        target[keyword]._value = uid
    for decode in (decode_question, decode_report):
        with pytest.raises(MalformedCommitmentError, match=keyword):
            decode(ds)


def test_a_question_about_nothing_is_malformed() -> None:
    ds = Dataset()
    ds.TransactionUID = "2.25.1"
    with pytest.raises(MalformedCommitmentError, match="names no instance"):
        decode_question(ds)
    assert decode_report(ds) == Report("2.25.1", (), ())


@pytest.mark.parametrize("reason", [None, "", "many"])
def test_a_failure_without_a_reason_is_a_processing_failure(reason: Any) -> None:
    ds = encode_report(Report("2.25.1", (), (Failure(ONE, 0x0112),)))
    if reason is None:
        del ds.FailedSOPSequence[0].FailureReason
    else:
        ds.FailedSOPSequence[0]["FailureReason"]._value = reason
    assert decode_report(ds).failed == (Failure(ONE, PROCESSING_FAILURE),)


def test_every_refusal_has_a_status_of_its_own_row() -> None:
    for kind in CommitmentError.__subclasses__():
        assert kind in COMMITMENT_STATUS
        assert commitment_status(kind()) == COMMITMENT_STATUS[kind][0]
    assert commitment_status(ZeroDivisionError()) == 0x0110


def test_the_statement_explains_every_status_and_reason() -> None:
    assert CONDITIONS.keys() == COMMITMENT_STATUS.keys()
    given = {NO_SUCH_INSTANCE, CLASS_CONFLICT, PROCESSING_FAILURE, DUPLICATE_TRANSACTION}
    assert FAILURES.keys() == given <= FAILURE_REASONS.keys()
    for status, _ in COMMITMENT_STATUS.values():
        assert f"| `0x{status:04X}` |" in statuses()
    for reason in given:
        assert f"| `0x{reason:04X}` | {FAILURE_REASONS[reason]} |" in failures()
    assert contexts().count(PUSH_MODEL) == 4
