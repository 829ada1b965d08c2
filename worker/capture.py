"""Pictures for people: the radiograph, and the radiograph with what was found on it.

All are upright with square pixels, the patient's left at the right; the radiograph's long side is
at most 1024. No picture says who the patient is.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from worker.types import AnalysedImage, ChestImage, Mask, Measurements, SideMeasurement

_LONG_SIDE: Final = 1024
_MIN_OVERLAY_SIDE: Final = 768
# Okabe-Ito colours, told apart by people with any colour blindness.
_LEFT: Final = (0, 114, 178)
_RIGHT: Final = (0, 158, 115)
_OPACITY: Final = (213, 94, 0)
_INK: Final = (245, 245, 245)
_FAINT: Final = (165, 170, 176)
_STRIP: Final = (24, 27, 31)
_FILL: Final = 0.38
_COMPRESSION: Final = 1  # of zlib: level 3 takes half as long again for pictures a tenth smaller
_NOTICE: Final = "Research use only, not for diagnosis"
_AI_NOTICE: Final = "AI result, research use only, not for diagnosis"
_MIN_STATEMENT_WIDTH: Final = 480  # below it the statement would be too small to read
_SMALLEST: Final = 0.6  # of its size, before a line that is too long is cut off

Floats = NDArray[np.float32]
_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Findings:
    """What was found, at picture size and upright: an amount 0..1 for each pixel."""

    opacity: Floats
    left: Floats  # the line around the left lung
    right: Floats

    @classmethod
    def of(cls, analysed: AnalysedImage) -> Self:
        """Return the findings of one image as the overlay and the layer paint them."""
        image, masks = analysed.image, analysed.masks
        size = _size(image, _MIN_OVERLAY_SIDE)
        opacity = _soft(image, masks.opacity & (masks.left | masks.right), size)
        left, right = (_edge(_soft(image, mask, size)) for mask in (masks.left, masks.right))
        return cls(opacity, left, right)

    def strokes(self) -> tuple[tuple[Floats, tuple[int, int, int]], ...]:
        """Return what is painted, in this order: how much of it, and its colour."""
        return (
            (_FILL * self.opacity, _OPACITY),
            (0.8 * _edge(self.opacity), _OPACITY),
            (self.left, _LEFT),
            (self.right, _RIGHT),
        )


def radiograph(image: ChestImage) -> Image.Image:
    """Return the upright radiograph in 8 bits, not larger than it is.

    `display_png` and `overlay` are made of it; they take it where it is made already.
    """
    return _grey(image, _size(image, 0))


def display_png(image: ChestImage, plain: Image.Image | None = None) -> bytes:
    """Return the radiograph as an 8-bit grey PNG."""
    return _encode(plain or radiograph(image))


def overlay_png(analysed: AnalysedImage, picture: Image.Image | None = None) -> bytes:
    """Return an RGB PNG: lung contours, translucent opacity, side marks and a caption strip."""
    return _encode(_with_caption(picture or overlay(analysed), analysed.measurements))


def statement_pixels(
    analysed: AnalysedImage, picture: Image.Image | None = None
) -> NDArray[np.uint8]:
    """Return the overlay as RGB pixels, with all that must be said where only pixels are seen.

    What it is and is not for, figures, caveats, model and version.
    """
    return np.asarray(_with_statement(picture or overlay(analysed), analysed), np.uint8)


def without_caption(png: bytes) -> Image.Image:
    """Return the picture of `overlay_png` without its strip, which has no patient to its name."""
    with Image.open(BytesIO(png)) as whole:
        return whole.convert("RGB").crop((0, 0, whole.width, whole.height - _strip(whole.width)))


def overlay(
    analysed: AnalysedImage,
    findings: Findings | None = None,
    plain: Image.Image | None = None,
) -> Image.Image:
    """Return the upright radiograph with lung contours, translucent opacity and side marks.

    The other pictures are made of it; they take it where it is made already.
    """
    image = analysed.image
    size = _size(image, _MIN_OVERLAY_SIDE)
    grey = np.asarray(plain if plain and plain.size == size else _grey(image, size))
    strokes = (findings or Findings.of(analysed)).strokes()
    touched = np.any([weight > 0 for weight, _ in strokes], axis=0)
    colours = np.repeat(grey[touched].astype(np.float32)[:, None], 3, axis=1)
    for weight, colour in strokes:
        colours = _blend(colours, weight[touched], colour)
    canvas = np.repeat(grey[..., None], 3, axis=2)
    canvas[touched] = np.rint(colours).astype(np.uint8)
    picture = Image.fromarray(canvas)
    _mark_sides(picture, assumed=image.orientation.assumed)
    return picture


def layer_png(findings: Findings) -> bytes:
    """Return the findings alone as a PNG of colours and alpha, to lie over the radiograph.

    It covers the same field as `display_png`, whose long side may be shorter. Over the radiograph
    it gives the overlay, without the side marks.
    """
    seen = (findings.opacity > 0) | (findings.left > 0) | (findings.right > 0)
    colours: Floats = np.zeros((np.count_nonzero(seen), 3), np.float32)
    alpha: Floats = np.zeros((len(colours), 1), np.float32)
    for weight, colour in findings.strokes():
        part = weight[seen][:, None]
        colours = colours * (1 - part) + part * np.asarray(colour, np.float32)
        alpha = alpha * (1 - part) + part
    colours = np.divide(colours, alpha, out=np.zeros_like(colours), where=alpha > 0)
    painted = np.zeros((*seen.shape, 4), np.uint8)
    painted[seen] = np.rint(np.concatenate((colours, 255 * alpha), axis=1))
    return _encode(Image.fromarray(painted, "RGBA"))


def _size(image: ChestImage, smallest: int) -> tuple[int, int]:
    """Return (width, height) of the picture; small images grow to a long side of `smallest`."""
    rows, columns = image.pixels.shape
    height, width = rows * image.row_height_over_width, float(columns)
    if image.orientation.transpose:
        height, width = width, height
    longest = max(height, width)
    scale = min(max(longest, smallest), _LONG_SIDE) / longest
    return max(1, round(width * scale)), max(1, round(height * scale))


def _grey(image: ChestImage, size: tuple[int, int]) -> Image.Image:
    upright = image.orientation.to_upright((image.pixels >> 8).astype(np.uint8))
    picture = Image.fromarray(np.ascontiguousarray(upright))
    return picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _soft(image: ChestImage, mask: Mask, size: tuple[int, int]) -> Floats:
    """Return the mask at picture size, 0..1, with an edge a few pixels wide."""
    upright = np.ascontiguousarray(image.orientation.to_upright(mask)).astype(np.uint8) * 255
    resized = Image.fromarray(upright).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
    blurred = resized.filter(ImageFilter.GaussianBlur(max(size) / 560))
    return (np.asarray(blurred, np.float32) / 255.0).astype(np.float32)


def _edge(soft: Floats) -> Floats:
    """Return the line where a soft mask crosses one half, 0..1, anti-aliased."""
    line: Floats = np.clip(1.7 - 2.6 * np.abs(2.0 * soft - 1.0), 0.0, 1.0)
    return line


def _blend(colours: Floats, weight: Floats, colour: tuple[int, int, int]) -> Floats:
    part = weight[:, None]
    return (colours * (1 - part) + part * np.asarray(colour, np.float32)).astype(np.float32)


def _mark_sides(picture: Image.Image, *, assumed: bool) -> None:
    """Write R and L where the patient's sides are; a question mark says that it is assumed."""
    draw = ImageDraw.Draw(picture)
    font = _font(picture.width / 26)
    mark = "?" if assumed else ""
    margin = picture.width / 40
    for x, side, anchor in ((margin, "R", "lt"), (picture.width - margin, "L", "rt")):
        draw.text(
            (x, margin),
            side + mark,
            fill=_INK,
            font=font,
            anchor=anchor,
            stroke_width=2,
            stroke_fill=(0, 0, 0),
        )


def _with_caption(picture: Image.Image, measurements: Measurements) -> Image.Image:
    """Return the picture above a strip with the figures and the notice."""
    unit = picture.width / 100
    strip = _strip(picture.width)
    whole = Image.new("RGB", (picture.width, picture.height + strip), _STRIP)
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    _figures(draw, picture.height, unit, measurements)
    end = (whole.width - 3 * unit, picture.height + 11 * unit)
    draw.text(end, _NOTICE, font=_font(2.4 * unit), fill=_FAINT, anchor="rm")
    return whole


def _strip(width: int) -> int:
    """Return the height of the strip below an overlay picture of this width."""
    return round(15 * (width / 100))


def _with_statement(picture: Image.Image, analysed: AnalysedImage) -> Image.Image:
    """Return the picture between a strip that says what it is and one with figures and model."""
    width = max(picture.width, _MIN_STATEMENT_WIDTH)
    unit = width / 100
    above, below = round(7 * unit), round((25 if analysed.caveats else 20) * unit)
    whole = Image.new("RGB", (width, above + picture.height + below), _STRIP)
    whole.paste(picture, ((width - picture.width) // 2, above))
    draw = ImageDraw.Draw(whole)
    _line(draw, 3.5 * unit, unit, _AI_NOTICE, 3.8 * unit, _INK)
    top = above + picture.height
    _figures(draw, top, unit, analysed.measurements)
    if analysed.caveats:
        named = ", ".join(caveat.value.replace("_", " ") for caveat in analysed.caveats)
        _line(draw, top + 16 * unit, unit, f"Needs a second look: {named}", 3.0 * unit, _INK)
    model = f"Model {analysed.model.name} {analysed.model.version}"
    _line(draw, top + below - 4 * unit, unit, model, 3.0 * unit, _FAINT)
    return whole


def _figures(
    draw: ImageDraw.ImageDraw, top: float, unit: float, measurements: Measurements
) -> None:
    """Write the percentages and the band in two lines below `top`."""
    first, second = top + 5 * unit, top + 11 * unit
    large, small = _font(4.6 * unit), _font(3.0 * unit)
    x = _swatch(draw, 3 * unit, first, unit, _OPACITY)
    x = _text(draw, x, first, f"Opacity {_percent(measurements.total)}", large, _INK)
    _text(draw, x + 2 * unit, first, measurements.severity.value, large, _FAINT)
    x = _swatch(draw, 3 * unit, second, unit, _RIGHT)
    x = _text(draw, x, second, f"Right {_percent(measurements.right)}", small, _INK)
    x = _swatch(draw, x + 2.5 * unit, second, unit, _LEFT)
    _text(draw, x, second, f"Left {_percent(measurements.left)}", small, _INK)


def _line(
    draw: ImageDraw.ImageDraw,
    y: float,
    unit: float,
    text: str,
    size: float,
    colour: tuple[int, int, int],
) -> None:
    """Write `text` with its middle at height y, smaller or shortened where it is too long."""
    room = 94 * unit
    fitting = room / draw.textlength(text, font=_font(size))
    font = _font(size * min(1.0, max(_SMALLEST, fitting)))
    while draw.textlength(text, font=font) > room:
        text = f"{text.removesuffix('...')[:-1]}..."
    draw.text((3 * unit, y), text, font=font, fill=colour, anchor="lm")


def _swatch(
    draw: ImageDraw.ImageDraw, x: float, y: float, unit: float, colour: tuple[int, int, int]
) -> float:
    half = 1.1 * unit
    draw.rounded_rectangle((x, y - half, x + 2 * half, y + half), radius=0.4 * unit, fill=colour)
    return x + 2 * half + 1.2 * unit


def _text(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    text: str,
    font: _Font,
    colour: tuple[int, int, int],
) -> float:
    """Write `text` with its middle at height y; return where it ends."""
    draw.text((x, y), text, font=font, fill=colour, anchor="lm")
    return x + draw.textlength(text, font=font)


def _percent(side: SideMeasurement) -> str:
    return "none found" if side.percent is None else f"{side.percent:.1f} %"


def _font(size: float) -> _Font:
    return ImageFont.load_default(size=max(8.0, size))


def _encode(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()
