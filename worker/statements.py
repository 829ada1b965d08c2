"""What the report says of one image, one statement after the other, for messages.

The codes are those of the SR. In a message every statement has a name of its own besides, because
most receivers of HL7 v2 know no modifiers: left and right lung are two names.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from models.reasons import SENTENCES
from worker import codes
from worker.equipment import algorithm_version
from worker.report_groups import (
    AREA_DIGITS,
    PERCENT_DIGITS,
    ReportImage,
)
from worker.types import CAVEAT_SENTENCES, SIDES, Severity, Side, UnanalysedImage, Zone

_WHERE: Final[dict[Side, str]] = {
    "total": "both lungs",
    "left": "left lung",
    "right": "right lung",
}


@dataclass(frozen=True)
class Coded:
    """A coded value, and the sentence that stands beside it where there is one."""

    code: codes.AnyCode
    sentence: str = ""


@dataclass(frozen=True)
class Statement:
    """One name with its value: a number, codes or texts.

    `key` is the name within the image, the same in every revision; `name` is the code of the SR.
    """

    key: str
    meaning: str
    name: codes.AnyCode
    number: float | int | None = None
    unit: codes.AnyCode | None = None
    method: codes.AnyCode | None = None
    coded: tuple[Coded, ...] = ()
    texts: tuple[str, ...] = ()


TOTAL: Final = "OPACITY_AREA_PCT_TOTAL"  # the statement that stands for the image


def statements(image: ReportImage) -> list[Statement]:
    """Return what is said of an analysed image: its name, the figures, what limits them, the model.

    The total percentage is the first figure.
    """
    uid = str(image.header.SOPInstanceUID)
    found = [_text(codes.SOP_INSTANCE_UID, uid), *_percentages(image), *_severities(image)]
    found += [*_areas(image), *_zones(image), *_limits(image)]
    if image.notes:
        found.append(_text(codes.COMMENT, *image.notes))
    if image.classification is not None:
        model = image.classification.model
        said = f"{image.classification.text} (model {model.name} {algorithm_version(model)})"
        found.append(_text(codes.EXPERIMENT, said))
    return [*found, *_algorithm(image)]


def not_analysed(image: UnanalysedImage) -> list[Statement]:
    """Return what is said of an image without figures: its name and the reason."""
    coded = Coded(codes.reason(image.reason), SENTENCES[image.reason])
    return [
        _text(codes.SOP_INSTANCE_UID, image.sop_instance_uid),
        _coded(codes.NOT_ANALYSED, [coded]),
    ]


def _percentages(image: ReportImage) -> Iterator[Statement]:
    for side in SIDES:
        percent = image.measurements.side(side).percent
        if percent is not None:
            yield _percent(side.upper(), _WHERE[side], percent)


def _percent(where: str, words: str, percent: float) -> Statement:
    name = codes.OPACITY_PERCENT
    return Statement(
        f"{name.value}_{where}",
        f"{name.meaning}, {words}",
        name,
        number=round(percent, PERCENT_DIGITS),
        unit=codes.PERCENT,
    )


def _severities(image: ReportImage) -> Iterator[Statement]:
    measured = image.measurements
    bands: dict[Side, Severity | None] = {
        "total": measured.severity,
        "left": measured.left.severity,
        "right": measured.right.severity,
    }
    for side, band in bands.items():
        if band is None:
            continue
        yield Statement(
            f"SEVERITY_{side.upper()}",
            f"Severity band of opacity, {_WHERE[side]}",
            codes.SEVERITY,
            coded=(Coded(codes.SEVERITIES[band]),),
        )


def _areas(image: ReportImage) -> Iterator[Statement]:
    """Yield the areas that the SR has: each lung field, and the opacity in both."""
    if image.spacing is None:
        return
    measured = image.measurements
    areas = {
        ("LUNG_AREA_LEFT", "Area of left lung field"): measured.left.lung_area_mm2,
        ("LUNG_AREA_RIGHT", "Area of right lung field"): measured.right.lung_area_mm2,
        ("OPACITY_AREA_TOTAL", "Area of opacity in both lungs"): measured.total.opacity_area_mm2,
    }
    for (key, meaning), area in areas.items():
        if area is not None:
            yield Statement(
                key,
                meaning,
                codes.AREA,
                number=round(area, AREA_DIGITS),
                unit=codes.SQUARE_MM,
                method=codes.SPACING_METHODS[image.spacing.basis],
            )


def _zones(image: ReportImage) -> Iterator[Statement]:
    zones = image.measurements.zones
    if zones is None:
        return
    for zone, measured in zones.zones.items():
        if measured.percent is not None and measured.grade is not None:
            yield _percent(zone.name, _zone_in_words(zone), measured.percent)
            yield _grade(codes.ZONE_GRADE, zone.name, _zone_in_words(zone), measured.grade)
    scores = {side: zones.score(side) for side in SIDES}
    for side, score in scores.items():
        if score is not None:
            yield _grade(codes.ZONE_SCORE, side.upper(), _WHERE[side], score)
    yield _coded(codes.ZONE_METHOD, [Coded(codes.ZONE_BY_AREA)])
    if scores["total"] is None:
        yield _coded(codes.ZONE_SCORE, [Coded(codes.ZONE_WITHHELD)])


def _zone_in_words(zone: Zone) -> str:
    return f"{zone.value.replace('_', ' ')} zone"


def _grade(name: codes.AnyCode, where: str, words: str, grade: int) -> Statement:
    key, meaning = f"{name.value}_{where}", f"{name.meaning}, {words}"
    return Statement(key, meaning, name, number=grade, unit=codes.NO_UNITS)


def _limits(image: ReportImage) -> Iterator[Statement]:
    if image.caveats:
        caveats = [Coded(codes.caveat(it), CAVEAT_SENTENCES[it]) for it in image.caveats]
        yield _coded(codes.CAVEAT, caveats)
    spacing = image.spacing
    basis = codes.NO_SPACING if spacing is None else codes.SPACING_METHODS[spacing.basis]
    sides = codes.SIDES_ASSUMED if image.orientation_assumed else codes.SIDES_STATED
    for name, value in (
        (codes.INTENDED_USE, codes.RESEARCH_ONLY),
        (codes.SPACING_BASIS, basis),
        (codes.SIDES_BASIS, sides),
        (codes.LUNG_DEFINITION, codes.WITH_RETROCARDIAC),
    ):
        yield _coded(name, [Coded(value)])


def _algorithm(image: ReportImage) -> Iterator[Statement]:
    model = image.model
    yield _text(codes.ALGORITHM_NAME, model.name)
    yield _text(codes.ALGORITHM_VERSION, algorithm_version(model))
    yield _text(
        codes.ALGORITHM_PARAMETERS,
        f"weights_sha256={model.sha256}",
        f"configuration_sha256={image.configuration_hash}",
    )


def _coded(name: codes.AnyCode, values: Iterable[Coded]) -> Statement:
    return Statement(name.value, name.meaning, name, coded=tuple(values))


def _text(name: codes.AnyCode, *texts: str) -> Statement:
    return Statement(name.value, name.meaning, name, texts=texts)
