"""The report of a study as a page for people: pictures, figures, and what they are worth."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image
from pydicom.dataset import Dataset

from models.identity import MANUFACTURER
from models.reasons import SENTENCES
from worker import codes
from worker.report_groups import ReportImage
from worker.segmentation import COLOURS
from worker.sheet import UNKNOWN, WIDTH, Sheet, pdf_of, showable
from worker.types import CAVEAT_SENTENCES, Side, SideMeasurement, UnanalysedImage

TITLE: Final = "AI lung opacity report"
NOTICE: Final = "Research use only, not a medical device"

_LEFT, _RIGHT, _OPACITY = ((red / 255, green / 255, blue / 255) for red, green, blue in COLOURS)
_INK: Final = "#14181d"
_GREY: Final = "#5b6570"
_PALE: Final = "#eef1f4"
_TRACK: Final = "#dfe4e9"
_MARGIN: Final = 15.0
_ROOM: Final = WIDTH - 2 * _MARGIN
_TOP: Final = 70.0
_BOTTOM: Final = 276.0
_PER_PAGE: Final = 2
_MOST_DRAWN: Final = 20
_MORE: Final = 5.0  # the line about those that are not drawn
_MOST_LISTED: Final = 8
_ROW: Final = 4.6
_SHORTEST_BAR: Final = 10.0
_GAP: Final = 6.0
_FIGURES_X: Final = (136.0, 112.0)  # of one image on the page, of two


@dataclass(frozen=True)
class PageImage:
    """One analysed image of the study with its overlay picture, upright and without a caption.

    The picture is asked for when its sheet is drawn: a study may have many.
    """

    report: ReportImage
    picture: Callable[[], Image.Image]


@dataclass(frozen=True)
class _Place:
    """Where one image goes, in mm: its figures from the left, its top and height."""

    figures: float
    top: float
    height: float


@dataclass(frozen=True)
class PageStatement:
    """What stands on every page beside the images: its date and what made it."""

    dated: str
    software_version: str
    revision: int


def report_pdf(
    images: Sequence[PageImage],
    unanalysed: Sequence[UnanalysedImage],
    statement: PageStatement,
) -> bytes:
    """Return the PDF. The same input gives the same bytes."""
    producer = f"{MANUFACTURER} {statement.software_version}"
    return pdf_of(report_sheets(images, unanalysed, statement), TITLE, producer)


def report_sheets(
    images: Sequence[PageImage],
    unanalysed: Sequence[UnanalysedImage],
    statement: PageStatement,
) -> Iterator[Sheet]:
    """Yield the pages, two images to a page; the last one lists what was not analysed.

    Of very many images the first ones are drawn; the rest is counted.
    """
    drawn = images[:_MOST_DRAWN]
    more = len(images) - len(drawn)
    parts = [drawn[at : at + _PER_PAGE] for at in range(0, len(drawn), _PER_PAGE)]
    for number, part in enumerate(parts, start=1):
        sheet, is_last = Sheet(), number == len(parts)
        _head(sheet, [image.report for image in images])
        listed = _list_height(unanalysed) if is_last else 0.0
        below = listed + (_MORE if more and is_last else 0.0)
        room = (_BOTTOM - _TOP - below) / max(len(part), 1) - _GAP
        for place, image in enumerate(part):
            room_of = _Place(_FIGURES_X[len(part) - 1], _TOP + place * (room + _GAP), room)
            _image(sheet, room_of, image)
        if below > listed:
            said = f"{more} more analysed images, see the structured report"
            sheet.text((_MARGIN, _BOTTOM - below), said, 7.6, bold=True, colour=_INK)
        if listed:
            _list(sheet, _BOTTOM - listed, unanalysed)
        _foot(sheet, statement, f"Page {number} of {len(parts)}")
        yield sheet


def _head(sheet: Sheet, images: Sequence[ReportImage]) -> None:
    sheet.text((_MARGIN, 18), TITLE, 19, bold=True, colour=_INK)
    sheet.box((WIDTH - _MARGIN - 74, 13.6), (74, 8.8), _OPACITY, edge=1.2, radius=1.5)
    notice = (WIDTH - _MARGIN - 37, 18)
    sheet.text(notice, NOTICE, 8.6, bold=True, colour=_INK, align="center")
    _patient(sheet, images[0].header)
    worst = max(images, key=lambda image: image.measurements.total.percent or 0.0)
    total = worst.measurements.total
    width = sheet.text((_MARGIN, 58), f"Lung opacity {_percent(total)}", 21, bold=True, colour=_INK)
    said = f"severity: {worst.measurements.severity.value}"
    if len(images) > 1:
        said = f"{said}; highest of {len(images)} analysed images"
    sheet.text((_MARGIN + width + 5, 58.6), said, 10, colour=_GREY, room=_ROOM - width - 5)


def _patient(sheet: Sheet, header: Dataset) -> None:
    sheet.box((_MARGIN, 26), (_ROOM, 23), _PALE, radius=1.5)
    columns = ((_MARGIN + 4, 64.0), (_MARGIN + 74, 48.0), (_MARGIN + 128, 48.0))
    entries = (
        ("Patient", _name(header)),
        ("Patient ID", _stated(header, "PatientID")),
        ("Birth date, sex", _birth_and_sex(header)),
        ("Study", _stated(header, "StudyDescription")),
        ("Accession number", _stated(header, "AccessionNumber")),
        ("Study date", _date(header, "StudyDate")),
    )
    for number, (label, value) in enumerate(entries):
        x, room = columns[number % len(columns)]
        y = 30.2 + (number // len(columns)) * 10.6
        sheet.text((x, y), label, 6.8, colour=_GREY)
        sheet.text((x, y + 4.4), value, 10, bold=number == 0, colour=_INK, room=room)


def _image(sheet: Sheet, place: _Place, image: PageImage) -> None:
    """Draw the picture at the left, figures and remarks at its right."""
    width = place.figures - _MARGIN - 6
    _, height = sheet.picture((_MARGIN, place.top), (width, place.height - 13), image.picture())
    _legend(sheet, place.top + height + 3.6)
    model, header = image.report.model, image.report.header
    of_model = f"Model {model.name} {model.version}, weights SHA-256 {model.sha256[:16]}"
    for number, line in enumerate((of_model, _of_image(header))):
        y = place.top + height + 8 + 3.4 * number
        sheet.text((_MARGIN, y), line, 6.2, colour=_GREY, room=width)
    y = _table(sheet, place, image.report)
    _remarks(sheet, place, y + 6, image.report)


def _legend(sheet: Sheet, y: float) -> None:
    x = _MARGIN
    parts = ((_RIGHT, "right lung"), (_LEFT, "left lung"), (_OPACITY, "opacity, filled"))
    for colour, label in parts:
        sheet.box((x, y - 1.2), (4, 2.4), colour)
        x += 5.4 + sheet.text((x + 5.4, y), label, 7, colour=_GREY) + 5


def _table(sheet: Sheet, place: _Place, image: ReportImage) -> float:
    """Write one row per lung and one for both, bars where there is room; return where it ends."""
    x, end, top = place.figures, WIDTH - _MARGIN, place.top + 2
    bar, percent = x + 25, end - 20
    sheet.text((percent, top), "Opacity", 7, colour=_GREY, align="right")
    sheet.text((end, top), "Lung area", 7, colour=_GREY, align="right")
    rows: tuple[tuple[str, Side, object], ...] = (
        ("Right lung", "right", _RIGHT),
        ("Left lung", "left", _LEFT),
        ("Both lungs", "total", None),
    )
    y = top
    for label, side, colour in rows:
        measured = image.measurements.side(side)
        y += 7
        if side == "total":
            sheet.box((x, y - 3.6), (end - x, 0.25), _TRACK)
        elif isinstance(colour, tuple):
            sheet.box((x, y - 1.5), (3, 3), colour)
        bold = side == "total"
        sheet.text((x + (0 if bold else 5), y), label, 9.5, bold=bold, colour=_INK)
        if percent - 15 - bar >= _SHORTEST_BAR:
            _bar(sheet, (bar, y), percent - 15 - bar, measured)
        sheet.text((percent, y), _percent(measured), 9.5, bold=bold, colour=_INK, align="right")
        sheet.text((end, y), _area(measured), 8, colour=_GREY, align="right")
    return y


def _bar(sheet: Sheet, at: tuple[float, float], width: float, measured: SideMeasurement) -> None:
    sheet.box((at[0], at[1] - 1.1), (width, 2.2), _TRACK)
    if measured.percent:
        sheet.box((at[0], at[1] - 1.1), (width * measured.percent / 100, 2.2), _OPACITY)


def _remarks(sheet: Sheet, place: _Place, top: float, image: ReportImage) -> None:
    """Write what limits the figures; of what has no room it is said where it stands."""
    x, y, bottom = place.figures, top + 2, place.top + place.height
    for heading, lines in _sections(image):
        if not lines:
            continue
        sheet.text((x, y), heading, 7, bold=True, colour=_GREY)
        y += 4.0
        for line in lines:
            if y + 2 * _ROW > bottom:
                sheet.text((x, y), "More in the structured report.", 7.6, colour=_INK)
                return
            y += sheet.paragraph((x, y), line, 7.6, WIDTH - _MARGIN - x, colour=_INK) + 0.7
        y += 2.2


def _sections(image: ReportImage) -> tuple[tuple[str, list[str]], ...]:
    spacing = image.spacing
    basis = codes.SPACING_METHODS[spacing.basis] if spacing else codes.NO_SPACING
    sides = codes.SIDES_ASSUMED if image.orientation_assumed else codes.SIDES_STATED
    caveats = [CAVEAT_SENTENCES[caveat] for caveat in image.caveats]
    experiment = [image.classification.text] if image.classification else []
    return (
        ("DESERVES A SECOND LOOK", caveats),
        ("BASIS", [f"{text.meaning}." for text in (basis, sides, codes.WITH_RETROCARDIAC)]),
        ("REMARKS", [*image.notes, *_zones(image), *experiment]),
    )


def _zones(image: ReportImage) -> list[str]:
    zones = image.measurements.zones
    if zones is None:
        return []
    scores = {side: zones.score(side) for side in ("total", "right", "left")}
    shown = {side: "not given" if it is None else str(it) for side, it in scores.items()}
    parts = f"right {shown['right']}, left {shown['left']}"
    return [f"Zone score {shown['total']} of 18 ({parts}), by area; not the Brixia score."]


def _of_image(header: Dataset) -> str:
    parts = [
        str(header.get("Modality", "")),
        str(header.get("ViewPosition", "")),
        f"{header.get('Columns')} x {header.get('Rows')} pixels,",
        str(header.SOPInstanceUID),
    ]
    return " ".join(part for part in parts if part)


def _listed(unanalysed: Sequence[UnanalysedImage]) -> list[tuple[str, str]]:
    """Return the lines of the list: what became of an image, and its UID."""
    lines = [(SENTENCES[it.reason], it.sop_instance_uid) for it in unanalysed[:_MOST_LISTED]]
    more = len(unanalysed) - len(lines)
    return [*lines, (f"and {more} more, see the structured report", "")] if more else lines


def _list_height(unanalysed: Sequence[UnanalysedImage]) -> float:
    return 7.0 + _ROW * len(_listed(unanalysed)) if unanalysed else 0.0


def _list(sheet: Sheet, top: float, unanalysed: Sequence[UnanalysedImage]) -> None:
    sheet.box((_MARGIN, top - 1.5), (_ROOM, 0.25), _TRACK)
    heading = "RECEIVED AND NOT ANALYSED, NOT IN THE FIGURES"
    sheet.text((_MARGIN, top + 2), heading, 7, bold=True, colour=_GREY)
    for number, (sentence, uid) in enumerate(_listed(unanalysed)):
        y = top + 6.8 + number * _ROW
        sheet.text((_MARGIN, y), sentence, 7.6, colour=_INK, room=102)
        if uid:
            sheet.text((WIDTH - _MARGIN, y), uid, 5.6, colour=_GREY, align="right", room=76)


def _foot(sheet: Sheet, statement: PageStatement, page: str) -> None:
    sheet.box((_MARGIN, 279), (_ROOM, 0.25), _TRACK)
    width = sheet.text((_MARGIN, 283), f"{NOTICE}.", 7.6, bold=True, colour=_INK)
    warning = (
        "Made by software, verified by nobody. Not for diagnosis or any decision on a patient."
    )
    sheet.text((_MARGIN + width + 1.5, 283), warning, 7.6, colour=_INK, room=_ROOM - width - 1.5)
    revised = statement.revision > 1
    replaced = f", replaces revision {statement.revision - 1}" if revised else ""
    origin = (
        f"Revision {statement.revision}{replaced}. Dated {statement.dated}, by {MANUFACTURER} "
        f"{statement.software_version}."
    )
    sheet.text((_MARGIN, 287.4), origin, 7, colour=_GREY, room=_ROOM - 25)
    sheet.text((WIDTH - _MARGIN, 287.4), page, 7, colour=_GREY, align="right")


def _percent(side: SideMeasurement) -> str:
    return "no lung" if side.percent is None else f"{side.percent:.1f} %"


def _area(side: SideMeasurement) -> str:
    return "" if side.lung_area_mm2 is None else f"{side.lung_area_mm2 / 100:.0f} cm²"


def _name(header: Dataset) -> str:
    """Return the first written form of the name that the font can show, family name first."""
    forms = [form for form in str(header.get("PatientName", "")).split("=") if form.strip("^ ")]
    if not forms:
        return "not stated"
    shown: Iterable[str] = (form for form in forms if UNKNOWN not in showable(form))
    family, *others = next(iter(shown), forms[0]).split("^")
    given = " ".join(part for part in others if part)
    return f"{family}, {given}" if family and given else family or given


def _birth_and_sex(header: Dataset) -> str:
    sex = {"M": "male", "F": "female", "O": "other"}.get(str(header.get("PatientSex")))
    born = _date(header, "PatientBirthDate")
    return f"{born}, {sex}" if sex else born


def _stated(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "not stated")


def _date(header: Dataset, keyword: str) -> str:
    text = str(header.get(keyword) or "")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if text else "not stated"
