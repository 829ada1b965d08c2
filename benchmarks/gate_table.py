"""Print how often the gate fires, by reason and set, with margins and exceptions by name.

python benchmarks/gate_table.py [--data DIR] [--model NAME] [--bundles DIR] [--write]

`--write` puts the same text between the markers of docs/gate.md. Run it again after every change
of weights: bounds that no longer fit show up as refused pictures.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import click
import numpy as np
import torch
from gate_doubt import doubt_section
from gate_pictures import FileOutcome, Outcome, judge, judge_files, upright
from rich.progress import track

from models.analysis_sections import AnalysisSettings
from worker.image_gate import MAX_LUNG, MIN_APART, MIN_MIRRORED, MIN_RATIO, TALL
from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.training.datasets import data_folder
from worker.training.phantom import make_phantom
from worker.training.views.pictures import Squares, frontal_pictures, load_squares
from worker.view import Look, thumbnails, view_reader

_DOCUMENT: Final = Path(__file__).parents[1] / "docs" / "gate.md"
_MARKERS: Final = ("<!-- gate_table -->", "<!-- /gate_table -->")
_PERCENTILES: Final = (0, 0.5, 1, 5, 50)
_PHANTOMS: Final = range(500_000, 500_040)
_SETTINGS: Final = AnalysisSettings(secondary_capture=True)

Turn = Callable[[torch.Tensor], torch.Tensor]
_TURNS: Final[dict[str, Turn]] = {
    "as it is": lambda it: it,
    "turned 90°": lambda it: torch.rot90(it, 1, (2, 3)),
    "turned 180°": lambda it: torch.rot90(it, 2, (2, 3)),
    "turned 270°": lambda it: torch.rot90(it, 3, (2, 3)),
    "upside down (flipped)": lambda it: it.flip(2),
    "mirrored": lambda it: it.flip(3),
}


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data folder.")
@click.option("--model", default="unet", show_default=True)
@click.option("--bundles", type=click.Path(path_type=Path), multiple=True)
@click.option("--write", is_flag=True, help="Put the text into docs/gate.md.")
def main(*, data: Path | None, model: str, bundles: tuple[Path, ...], write: bool) -> None:
    """Measure the gate on every picture of the data folder."""
    text = "\n".join(report(data_folder(data), Segmenter.load(find_bundle(model, bundles), "cpu")))
    click.echo(text)
    if write:
        before, _, rest = _DOCUMENT.read_text(encoding="utf-8").partition(_MARKERS[0])
        after = rest.partition(_MARKERS[1])[2]
        whole = f"{before}{_MARKERS[0]}\n\n{text}\n\n{_MARKERS[1]}{after}"
        _DOCUMENT.write_text(whole, encoding="utf-8")


def report(data: Path, model: Segmenter) -> list[str]:
    """Return the sections as lines of Markdown."""
    sets = _frontal_sets(data, model)
    files = list(track(judge_files(data, model, _SETTINGS), "files", total=None))
    frontal = {f"{name} ({len(some)})": some for name, some in sets.items()}
    for folder in ("crdx", "other"):
        chosen = [it for it in files if it.folder == folder]
        for kind, is_frontal in (("frontal chests", True), ("the rest", False)):
            some = [it.received for it in chosen if it.is_frontal is is_frontal]
            frontal[f"{folder}, {kind} ({len(some)})"] = some
    identity = f"Model {model.identity.name} {model.identity.version}, view network "
    return [
        f"{identity}{view_reader().identity[:12]}; Secondary Capture switched on.",
        "",
        "### How often each reason fires",
        "",
        *_reason_table(frontal),
        "",
        "### The same files by their picture alone",
        "",
        *_picture_table(files),
        "",
        "### Turned, mirrored, inverted, made up",
        "",
        *_turned_table(data),
        "",
        "### Margins",
        "",
        *_margins(sets, files),
        "",
        "### Doubt",
        "",
        *doubt_section(data, model, sets, _SETTINGS.max_doubt_percent),
        "",
        "### Exceptions by name",
        "",
        *_exceptions(sets, files),
    ]


def _frontal_sets(data: Path, model: Segmenter) -> dict[str, list[Outcome]]:
    """Judge every frontal radiograph; those that the view network learnt from stand apart."""
    names = {"cases": "labelled", "normals": "normals", "nih": "nih", "unlabelled": "unlabelled"}
    sets: dict[str, list[Outcome]] = {}
    for picture in track(frontal_pictures(data), "pictures"):
        part = "learnt from" if picture.part == "train" else "unseen"
        key = f"{names[picture.table]}, {part}"
        found = judge(picture.name, upright(picture.pixels()), model, _SETTINGS)
        sets.setdefault(key, []).append(found)
    sets["phantoms, unseen"] = [
        judge(f"phantom {seed}", upright(make_phantom(seed, 512).pixels), model, _SETTINGS)
        for seed in _PHANTOMS
    ]
    return sets


def _reason_table(sets: dict[str, list[Outcome]]) -> list[str]:
    counts = {name: Counter(_kinds(some)) for name, some in sets.items()}
    kinds = sorted({kind for each in counts.values() for kind in each}, key=_order)
    lines = ["| | " + " | ".join(sets) + " |", "|---" * (len(sets) + 1) + "|"]
    for kind in kinds:
        shown = " | ".join(str(each[kind] or "") for each in counts.values())
        lines.append(f"| {kind} | {shown} |")
    return lines


def _kinds(outcomes: Iterable[Outcome]) -> Iterable[str]:
    for it in outcomes:
        yield "analysed" if it.reason is None else f"`{it.reason.value}`"
        yield from (f"… with caveat `{caveat.value}`" for caveat in it.caveats)


def _order(kind: str) -> tuple[int, str]:
    return (0 if kind == "analysed" else 1 if kind.startswith("…") else 2, kind)


def _picture_table(files: Sequence[FileOutcome]) -> list[str]:
    sets = {}
    for folder in ("crdx", "other", "odd"):
        for kind, is_frontal in (("frontal chests", True), ("the rest", False)):
            chosen = [it for it in files if it.folder == folder and it.is_frontal is is_frontal]
            some = [it.picture for it in chosen if it.picture is not None]
            if some:
                sets[f"{folder}, {kind} ({len(some)})"] = some
    return _reason_table(sets)


def _turned_table(data: Path) -> list[str]:
    """Look at the unseen pictures in every position, and at pictures of nothing."""
    unseen = [it.pixels() for it in frontal_pictures(data) if it.part == "measured"]
    squares = load_squares(unseen)
    looks = {
        name: _looks(Squares(turn(squares.windowed), turn(squares.inside)))
        for name, turn in _TURNS.items()
    }
    negative = (1.0 - squares.windowed) * squares.inside
    looks["inverted"] = _looks(Squares(negative, squares.inside))
    looks["phantoms, lateral"] = _looks(
        load_squares(make_phantom(seed, 256, None, "LL").pixels for seed in _PHANTOMS)
    )
    looks["noise, gradients, text, blank"] = _looks(load_squares(_nothings()))
    lines = [
        "| Unseen pictures | All | refused | likeliest view | called mirrored | highest chance |",
        "|---|---|---|---|---|---|",
    ]
    bound = _SETTINGS.min_view_probability
    for name, some in looks.items():
        refused = sum(it.upright < bound for it in some)
        views = Counter(max(it.probabilities, key=it.probabilities.__getitem__) for it in some)
        mirrored = sum(it.mirrored >= MIN_MIRRORED and it.upright >= bound for it in some)
        shown = ", ".join(f"{view.value} {count}" for view, count in views.most_common())
        top = max(it.upright for it in some)
        lines.append(f"| {name} | {len(some)} | {refused} | {shown} | {mirrored} | {top:.2f} |")
    return lines


def _looks(squares: Squares) -> list[Look]:
    reader = view_reader()
    parts = torch.split(thumbnails(squares.windowed, squares.inside), 64)
    return [look for part in parts for look in reader.looks(part)]


def _nothings() -> Iterable[np.ndarray]:
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:256, 0:256]
    yield from ((rows * 255).astype(np.uint16), (columns * 255).astype(np.uint16))
    yield ((rows - 128) ** 2 + (columns - 128) ** 2).astype(np.uint16)
    for grain in (1, 4, 16, 64):
        coarse = random.integers(0, 65536, (256 // grain, 256 // grain))
        yield np.kron(coarse, np.ones((grain, grain))).astype(np.uint16)
    for width in (2, 5, 9):
        words = (random.random((32, 256 // width)) < 0.6).repeat(width, 1).repeat(4, 0)  # noqa: PLR2004  ink
        page = np.zeros((256, 256), np.uint16)
        page[::8][:32, : words.shape[1]] = words[::4] * 65535
        yield page
    yield np.zeros((256, 256), np.uint16)


def _margins(sets: dict[str, list[Outcome]], files: Sequence[FileOutcome]) -> list[str]:
    """Chances of an upright frontal chest: the lowest of chests, the highest of everything else."""
    lines = [
        f"Bound: {_SETTINGS.min_view_probability}.",
        "",
        "| Chance of an upright chest | " + " | ".join(f"{it} %" for it in _PERCENTILES) + " |",
        "|---" * (len(_PERCENTILES) + 1) + "|",
    ]
    for name, some in sets.items():
        values = [it.look.upright for it in some if it.look]
        shown = " | ".join(f"{it:.2f}" for it in np.percentile(values, _PERCENTILES))
        lines.append(f"| {name} | {shown} |")
    others = [(it.picture.look.upright, it) for it in files if it.picture and it.picture.look]
    highest = sorted(((p, it.name) for p, it in others if not it.is_frontal), reverse=True)[:6]
    lowest = min(p for p, it in others if it.is_frontal and it.picture and not it.picture.caveats)
    lines += [
        "",
        f"Lowest of the frontal chests among the files: {lowest:.2f}. Highest of the rest:",
    ]
    lines += ["", *(f"- {p:.2f} {name}" for p, name in highest), ""]
    shapes = [it.shape for some in sets.values() for it in some if it.shape]
    larger = [max(it.left, it.right) for it in shapes]
    ratio = [min(it.left, it.right) / max(it.left, it.right) for it in shapes]
    rows = {
        f"larger lung, share of the picture (at most {MAX_LUNG})": larger,
        f"smaller over larger lung (below {MIN_RATIO}: `one_lung`)": ratio,
        f"distance of the lungs over the width (at least {MIN_APART})": [
            it.apart for it in shapes if it.apart is not None
        ],
        f"height over width of both ({TALL[0]} to {TALL[1]})": [it.tall for it in shapes],
    }
    lines += [
        "| Lungs of the analysed chests | lowest | 1 % | 50 % | 99 % | highest |",
        "|---" * 6 + "|",
    ]
    for name, values in rows.items():
        shown = " | ".join(f"{it:.2f}" for it in np.percentile(values, (0, 1, 50, 99, 100)))
        lines.append(f"| {name} | {shown} |")
    return lines


def _exceptions(sets: dict[str, list[Outcome]], files: Sequence[FileOutcome]) -> list[str]:
    wrong = [
        f"- {name}: {it.name}, `{it.reason.value}`{_chance(it)}"
        for name, some in sets.items()
        for it in some
        if it.reason is not None
    ]
    for it in files:
        is_number = it.received.reason is None
        seen = it.picture is not None and it.picture.reason is None
        if is_number is not it.is_frontal:
            said = it.received.reason.value if it.received.reason else "analysed"
            wrong.append(f"- {it.folder}/{it.name}: `{said}` as received")
        elif seen and not it.is_frontal:
            wrong.append(f"- {it.folder}/{it.name}: refused by its header only")
    return wrong or ["None."]


def _chance(outcome: Outcome) -> str:
    return f" (chance of an upright chest {outcome.look.upright:.2f})" if outcome.look else ""


if __name__ == "__main__":
    main()
