"""Our rejection note as an object: what it names, that it repeats, and what validators say."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import analysed_image, object_context
from pydicom.dataset import Dataset

from models.reasons import REJECTION_TITLES, Reason
from worker import codes
from worker.equipment import to_bytes
from worker.rejection import build_rejection_note
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation

REASONS = sorted(codes.REJECTIONS)


def _made() -> list[Dataset]:
    analysed, context = analysed_image(), object_context()
    seg = build_segmentation(analysed, context)
    report = build_report([ReportImage.of(analysed, seg)], context, 1)
    return [seg, build_secondary_capture(analysed, context), report]


def test_the_same_objects_give_the_same_bytes_in_any_order() -> None:
    made = _made()
    first, again = (
        build_rejection_note(each, Reason.REJECTED_SAFETY, 1, object_context())
        for each in (made, made[::-1])
    )
    assert to_bytes(first) == to_bytes(again)
    other = build_rejection_note(made, Reason.REJECTED_QUALITY, 1, object_context())
    assert other.SOPInstanceUID != first.SOPInstanceUID
    assert other.SeriesInstanceUID != first.SeriesInstanceUID


def test_titles_sent_are_those_received_and_retention_takes_nothing_back() -> None:
    sent = {code.value: reason for reason, code in codes.REJECTIONS.items()}
    assert sent == {
        value: reason
        for value, reason in REJECTION_TITLES.items()
        if reason is not Reason.REJECTED_RETENTION
    }
    with pytest.raises(KeyError):
        build_rejection_note(_made(), Reason.REJECTED_RETENTION, 1, object_context())
    with pytest.raises(ValueError, match="at least one object"):
        build_rejection_note([], Reason.REJECTED_QUALITY, 1, object_context())


@pytest.mark.parametrize("reason", REASONS)
def test_validators_find_no_error(
    tmp_path: Path, dcmtk: Callable[[str], Path], reason: Reason
) -> None:
    path = tmp_path / "note.dcm"
    made = _made()
    path.write_bytes(to_bytes(build_rejection_note(made, reason, 1, object_context())))
    checked = subprocess.run([dcmtk("dciodvfy"), path], capture_output=True, text=True, check=False)
    said = checked.stdout + checked.stderr
    assert re.search(r"^KeyObjectSelectionDocument$", said, re.MULTILINE), said
    assert not re.findall(r"^Error.*", said, re.MULTILINE)
    dumped = subprocess.run(
        [dcmtk("dsrdump"), "+Pl", "+Pu", path], capture_output=True, text=True, check=False
    )
    assert dumped.returncode == 0
    assert codes.REJECTIONS[reason].meaning in dumped.stdout
    for ds in made:
        assert str(ds.SOPInstanceUID) in dumped.stdout
