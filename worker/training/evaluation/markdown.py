"""Tables and numbers of a report in Markdown."""

from collections.abc import Iterable, Sequence

from worker.training.evaluation.estimates import Estimate, Figures

Row = Sequence[object]


def table(headings: Sequence[str], rows: Iterable[Row], left: int = 1) -> str:
    """Return a table; columns after the first `left` ones are set right."""
    lines = [
        "| " + " | ".join(headings) + " |",
        "|" + "---|" * left + "---:|" * (len(headings) - left),
        *("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def plain_table(headings: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table of text, every column set left."""
    return table(headings, rows, left=len(headings))


def show(estimate: Estimate | None, digits: int = 3, scale: float = 1.0) -> str:
    """Return `value [low, high]`, without the interval where there is none."""
    if estimate is None or estimate.value is None:
        return "-"
    value = f"{scale * estimate.value:.{digits}f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} [{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def cells(figures: Figures, names: Iterable[tuple[str, int]]) -> list[str]:
    """Return figures of a section by name, each with its number of digits."""
    return [show(figures.get(name), digits) for name, digits in names]


def counts(figures: Figures) -> list[str]:
    """Return how many images and patients stand behind a section."""
    first = next(iter(figures.values()))
    return [str(first.images), str(first.patients)]


def picture(name: str, says: str) -> str:
    """Return a picture by its relative path."""
    return f"![{says}]({name})\n"
