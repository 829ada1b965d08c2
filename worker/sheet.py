"""A sheet of A4 to write and draw on, measured in mm from its top left corner."""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.textpath import TextToPath
from PIL import Image

WIDTH: Final = 210.0
HEIGHT: Final = 297.0
_MM_PER_INCH: Final = 25.4
_MM_PER_POINT: Final = _MM_PER_INCH / 72
_LINE: Final = 1.32  # line height over font size
UNKNOWN: Final = "\ufffd"
_SETTINGS: Final[dict[Any, Any]] = {
    "pdf.fonttype": 42,
    "pdf.compression": 6,
    "pdf.inheritcolor": False,
}

Colour = str | tuple[float, float, float]


class Sheet:
    """One page. Every position is (x, y) in mm; text stands with its middle at y."""

    def __init__(self) -> None:
        with mpl.rc_context(_SETTINGS):
            self.figure = Figure(figsize=(WIDTH / _MM_PER_INCH, HEIGHT / _MM_PER_INCH))

    def text(
        self,
        position: tuple[float, float],
        text: str,
        size: float,
        **style: Any,  # noqa: ANN401  as matplotlib takes it
    ) -> float:
        """Write one line of `size` points and return its width in mm.

        `bold`, `colour`, `align` (left, center, right), and `room`: the width in mm from which on
        the end of the text is cut off.
        """
        bold = bool(style.get("bold"))
        shown = _fitted(showable(text), size, style.get("room"), bold=bold)
        self.figure.text(
            position[0] / WIDTH,
            1 - position[1] / HEIGHT,
            shown,
            fontproperties=_font(bold=bold),
            fontsize=size,
            color=style.get("colour", "black"),
            ha=style.get("align", "left"),
            va="center_baseline",
            parse_math=False,
        )
        return width_of(shown, size, bold=bold)

    def paragraph(
        self,
        position: tuple[float, float],
        text: str,
        size: float,
        room: float,
        **style: Any,  # noqa: ANN401  as `text` takes it
    ) -> float:
        """Write lines no wider than `room` mm, the first at `position`; return their height."""
        lines = wrapped(text, size, room, bold=bool(style.get("bold")))
        step = size * _MM_PER_POINT * _LINE
        for number, line in enumerate(lines):
            self.text((position[0], position[1] + number * step), line, size, **style)
        return len(lines) * step

    def box(
        self,
        position: tuple[float, float],
        size: tuple[float, float],
        colour: Colour,
        **style: Any,  # noqa: ANN401  as matplotlib takes it
    ) -> None:
        """Fill a rectangle whose top left corner is at `position`; `edge` draws its border only."""
        kind: Any = FancyBboxPatch if style.get("radius") else Rectangle
        shape = (
            {"boxstyle": f"round,pad=0,rounding_size={style['radius'] / WIDTH}"}
            if style.get("radius")
            else {}
        )
        self.figure.add_artist(
            kind(
                (position[0] / WIDTH, 1 - (position[1] + size[1]) / HEIGHT),
                size[0] / WIDTH,
                size[1] / HEIGHT,
                transform=self.figure.transFigure,
                facecolor="none" if style.get("edge") else colour,
                edgecolor=colour if style.get("edge") else "none",
                linewidth=style.get("edge", 0),
                **shape,
            )
        )

    def picture(
        self, position: tuple[float, float], room: tuple[float, float], picture: Image.Image
    ) -> tuple[float, float]:
        """Place a picture at the top left of `room`, as large as it fits; return its size in mm."""
        scale = min(room[0] / picture.width, room[1] / picture.height)
        width, height = picture.width * scale, picture.height * scale
        axes = self.figure.add_axes(
            (
                position[0] / WIDTH,
                1 - (position[1] + height) / HEIGHT,
                width / WIDTH,
                height / HEIGHT,
            )
        )
        axes.imshow(np.asarray(picture), interpolation="none", aspect="auto")
        axes.set_axis_off()
        return width, height


def pdf_of(sheets: Iterable[Sheet], title: str, producer: str) -> bytes:
    """Return a PDF of the sheets with embedded fonts. The same sheets give the same bytes."""
    buffer = BytesIO()
    metadata = {"Title": title, "Creator": producer, "Producer": producer, "CreationDate": None}
    with mpl.rc_context(_SETTINGS), PdfPages(buffer, metadata=metadata) as pages:
        for sheet in sheets:
            pages.savefig(sheet.figure)
    return buffer.getvalue()


def showable(text: str) -> str:
    """Return the text with a replacement sign for each character that the font lacks.

    Format characters (Unicode category Cf) are left out: nobody sees them, but a byte order mark
    breaks matplotlib's PDF and a bidirectional override writes a name backwards. The font (DejaVu
    Sans) has Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew and Arabic; it lacks Chinese,
    Japanese, Korean, Thai and the scripts of India.
    """
    known = _characters()
    seen = (sign for sign in text if unicodedata.category(sign) != "Cf")
    return "".join(sign if ord(sign) in known else UNKNOWN for sign in seen)


def wrapped(text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
    """Return the text as lines no wider than `room` mm; a word that is wider is cut."""
    lines: list[str] = []
    for word in re.findall(r"\S+", text):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(showable(longer), size, bold=bold) <= room:
            lines[-1] = longer
        else:
            lines.append(_fitted(word, size, room, bold=bold))
    return lines


def width_of(text: str, size: float, *, bold: bool = False) -> float:
    """Return the width of one line in mm."""
    font = _font(bold=bold).copy()
    font.set_size(size)
    width, _, _ = TextToPath().get_text_width_height_descent(text, font, ismath=False)
    return float(width) * _MM_PER_POINT


def _fitted(text: str, size: float, room: float | None, *, bold: bool) -> str:
    if room is None or width_of(text, size, bold=bold) <= room:
        return text
    while text and width_of(f"{text}…", size, bold=bold) > room:
        text = text[:-1]
    return f"{text}…"


def _path(*, bold: bool) -> Path:
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return Path(mpl.get_data_path(), "fonts", "ttf", name)


@cache
def _font(*, bold: bool) -> FontProperties:
    return FontProperties(fname=_path(bold=bold))


@cache
def _characters() -> frozenset[int]:
    both = (get_font(_path(bold=bold)).get_charmap() for bold in (False, True))
    return frozenset.intersection(*map(frozenset, both))
