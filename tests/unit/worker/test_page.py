"""worker.page and worker.sheet: what stands on the page, legibly, and the same bytes each time."""

import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from typing import Any

import pytest
from builders import DX, analysed_image, chest_dataset, chest_image, lung_masks
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pydicom.dataset import Dataset

from models.analysis_sections import AnalysisSettings
from models.reasons import SENTENCES, Reason
from worker.capture import overlay
from worker.measurements import measure
from worker.page import PageImage, PageStatement, report_pdf, report_sheets
from worker.report_groups import ReportImage
from worker.sheet import Sheet, showable, wrapped
from worker.types import (
    CAVEAT_SENTENCES,
    Caveat,
    Classification,
    Orientation,
    UnanalysedImage,
)

STATEMENT = PageStatement("2026-01-02 03:04", "0.0.0", 1)
FULL = {
    "caveats": tuple(Caveat),
    "classification": Classification(analysed_image().model, ("COVID-19", "none"), (0.6, 0.4)),
}
UNANALYSED = [
    UnanalysedImage(f"1.2.826.0.1.3680043.8.498.{10**35 + number}", DX, reason)
    for number, reason in enumerate(Reason)
]


def _image(header: dict[str, Any] | None = None, **changes: Any) -> PageImage:
    notes = ("A note that says what was taken for granted of this image.",) * 3
    image = chest_image(ds=chest_dataset(**(header or {})), notes=notes if changes else ())
    masks = lung_masks()
    if changes:
        zones = AnalysisSettings(zone_score=True)
        changes = {"measurements": measure(masks, image.spacing, zones)} | changes
    analysed = analysed_image(image, masks, **changes)
    return PageImage(ReportImage.of(analysed, Dataset()), partial(overlay, analysed))


def _texts(sheets: Iterable[Sheet]) -> list[str]:
    return [text.get_text() for sheet in sheets for text in sheet.figure.texts]


def _said(*images: PageImage, rest: Sequence[UnanalysedImage] = ()) -> str:
    return " ".join(_texts(report_sheets(images, rest, STATEMENT)))


def test_it_says_what_was_measured_by_what_and_on_what() -> None:
    image = _image()
    said = _said(image)
    for wanted in ("Lung opacity 9.7 %", "severity: mild", "19.4 %", "0.0 %", "170 cm²"):
        assert wanted in said
    for wanted in ("Phantom, Chest", "P-1", "1970-01-01, other", "A-1", "2026-01-01"):
        assert wanted in said
    model = image.report.model
    assert f"Model test-net 1.0, weights SHA-256 {model.sha256[:16]}" in said
    assert str(image.report.header.SOPInstanceUID) in said
    assert "Pixel spacing calibrated to patient." in said
    assert "Research use only, not a medical device" in said


def test_what_limits_the_figures_is_said() -> None:
    image = chest_image(spacing=None, orientation=Orientation(assumed=True))
    analysed = analysed_image(image, caveats=(Caveat.ONE_LUNG,))
    said = _said(PageImage(ReportImage.of(analysed, Dataset()), partial(overlay, analysed)))
    assert CAVEAT_SENTENCES[Caveat.ONE_LUNG] in said
    assert "No pixel spacing: areas withheld." in said
    assert "Assumed: patient's left at the right of the image." in said
    assert "cm²" not in said


def test_the_headline_is_the_highest_of_the_images() -> None:
    high = lung_masks(opacity=0.9)
    worse = _image(measurements=measure(high, None, AnalysisSettings()))
    percent = worse.report.measurements.total.percent
    assert percent is not None
    said = _said(_image(), worse)
    assert f"Lung opacity {percent:.1f} %" in said
    assert "highest of 2 analysed images" in said


def test_images_that_were_not_analysed_are_listed_with_reason() -> None:
    said = _said(_image(), rest=UNANALYSED[:3])
    for image in UNANALYSED[:3]:
        assert SENTENCES[image.reason][:60] in said
        assert image.sop_instance_uid in said
    more = len(UNANALYSED) - 8
    assert f"and {more} more, see the structured report" in _said(_image(), rest=UNANALYSED)


def test_a_revision_says_what_it_replaces() -> None:
    (sheet,) = report_sheets([_image()], [], PageStatement("2026-01-02", "0.0.0", 3))
    assert "Revision 3, replaces revision 2." in " ".join(_texts([sheet]))


@pytest.mark.parametrize(("images", "pages"), [(1, 1), (2, 1), (3, 2)])
def test_two_images_go_on_a_page(images: int, pages: int) -> None:
    sheets = list(report_sheets([_image()] * images, UNANALYSED, STATEMENT))
    assert len(sheets) == pages
    assert [len(sheet.figure.axes) for sheet in sheets] == [2] * (images // 2) + [1] * (images % 2)
    assert f"Page {pages} of {pages}" in _texts(sheets)
    assert "RECEIVED AND NOT ANALYSED, NOT IN THE FIGURES" in _texts(sheets[-1:])


@pytest.mark.parametrize("images", [1, 2, 3, 21])
@pytest.mark.parametrize("rest", [[], UNANALYSED], ids=["", "rest"])
def test_no_text_lies_over_another_or_beyond_the_margin(
    images: int, rest: list[UnanalysedImage]
) -> None:
    """With every caveat, note and zone, long names and every reason."""
    header = {
        "PatientName": "Wolfeschlegelsteinhausenbergerdorff^Hubert Blaine Maximilian",
        "PatientID": "7" * 64,
        "StudyDescription": "Chest " * 10,
        "AccessionNumber": "W" * 16,
    }
    # Of many images the last sheet is the one that differs.
    sheets = list(report_sheets([_image(header, **FULL)] * images, rest, STATEMENT))[-2:]
    for sheet in sheets:
        sheet.figure.set_dpi(300)  # on a coarse grid letters are wider than on paper
        renderer = FigureCanvasAgg(sheet.figure).get_renderer()
        width, height = sheet.figure.bbox.width, sheet.figure.bbox.height
        boxes = [(text, text.get_window_extent(renderer)) for text in sheet.figure.texts]
        for text, box in boxes:
            assert box.x0 > 0.06 * width, text.get_text()
            assert box.x1 < 0.94 * width, text.get_text()
            assert 0.01 * height < box.y0 < box.y1 < 0.99 * height, text.get_text()
        for (one, box), (other, second) in combinations(boxes, 2):
            assert not _overlap(box, second), (one.get_text(), other.get_text())
        for axes in sheet.figure.axes:
            picture = axes.get_window_extent(renderer)
            assert not [text.get_text() for text, box in boxes if _overlap(box, picture)]


def _overlap(one: Any, other: Any) -> bool:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return bool(width > 1 and height > 1)


def test_remarks_without_room_are_said_to_be_elsewhere() -> None:
    said = _said(*[_image(None, **FULL)] * 2, rest=UNANALYSED)
    assert "More in the structured report." in said
    for sentence in CAVEAT_SENTENCES.values():
        assert sentence.split()[0] in said


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Яковлев^Пётр", "Яковлев, Пётр"),
        ("Papadopoulos^Nikos=Παπαδόπουλος^Νίκος", "Papadopoulos, Nikos"),
        ("Yamada^Tarou=山田^太郎", "Yamada, Tarou"),
        ("=山田^太郎=やまだ^たろう", "\ufffd\ufffd, \ufffd\ufffd"),
        ("山田^太郎=Yamada^Tarou", "Yamada, Tarou"),
        ("$x_1$^A\\B", "$x_1$, A B"),
        ("Lee", "Lee"),
        (None, "not stated"),
    ],
)
def test_names_are_shown_in_the_first_script_that_the_font_has(
    name: str | None, shown: str
) -> None:
    assert shown in _texts(report_sheets([_image({"PatientName": name})], [], STATEMENT))


def test_signs_that_the_font_lacks_are_replaced_and_none_is_dropped() -> None:
    assert showable("Ü 山 Ж") == "Ü \ufffd Ж"


@pytest.mark.parametrize("sign", ["\ufeff", "\u202e", "\u200b", "\u00ad"])
def test_signs_that_nobody_sees_are_left_out(sign: str) -> None:
    """A byte order mark breaks matplotlib's PDF, an override turns the writing round."""
    assert showable(f"{sign}D{sign}oe") == "Doe"
    image = _image({"PatientName": f"{sign}Doe^John", "SpecificCharacterSet": "ISO_IR 192"})
    assert "Doe, John" in _texts(report_sheets([image], [], STATEMENT))
    assert report_pdf([image], [], STATEMENT).startswith(b"%PDF-")


@pytest.mark.parametrize("rest", [[], UNANALYSED], ids=["", "rest"])
def test_of_very_many_images_the_rest_is_counted(rest: list[UnanalysedImage]) -> None:
    """Only the pictures that are drawn are read."""
    image = _image()
    unread = replace(image, picture=lambda: pytest.fail("not drawn"))
    sheets = list(report_sheets([image] * 20 + [unread] * 3, rest, STATEMENT))
    assert len(sheets) == 10
    said = "3 more analysed images, see the structured report"
    assert [said in _texts([sheet]) for sheet in sheets] == [False] * 9 + [True]
    assert "highest of 23 analysed images" in " ".join(_texts(sheets))


def test_lines_are_as_wide_as_their_room_at_most() -> None:
    lines = wrapped("Some words and Donaudampfschifffahrtsgesellschaft too", 8, 30)
    assert len(lines) > 2
    assert any(line.endswith("…") for line in lines)


_PROGRAM = """
import hashlib, sys
sys.path.insert(0, "tests")
sys.path.insert(0, "tests/unit/worker")
from test_page import UNANALYSED, STATEMENT, _image
from worker.page import report_pdf
print(hashlib.sha256(report_pdf([_image()], UNANALYSED, STATEMENT)).hexdigest())
"""


def test_another_process_writes_the_same_bytes(pytestconfig: pytest.Config) -> None:
    """Whatever the seed of its hashes and the clock say."""
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            capture_output=True,
            text=True,
            check=True,
            cwd=pytestconfig.rootpath,
            env={"PYTHONHASHSEED": seed, "PATH": "/usr/bin:/bin", "HOME": "/tmp"},  # noqa: S108  nothing is written there
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_fonts_are_embedded_and_no_date_is_written() -> None:
    pdf = report_pdf([_image()], [], STATEMENT)
    assert pdf.startswith(b"%PDF-")
    assert b"/FontFile2" in pdf
    assert b"CreationDate" not in pdf
    assert len(re.findall(rb"/Type /Page\b", pdf)) == 1


def test_text_is_text() -> None:
    """Not a formula: a name with two dollar signs is a name."""
    sheet = Sheet()
    sheet.text((10, 10), "$a$", 8)
    (text,) = sheet.figure.texts
    assert isinstance(text, Text)
    assert not text.get_parse_math()
