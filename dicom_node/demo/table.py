"""The demo's table: one line per sample, known beside measured, and where the results are."""

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from dicom_node.demo.known import Known
from dicom_node.demo.node import Result
from dicom_node.demo.send import Sent
from models.reasons import SENTENCES, Reason

_SIDES = ("total", "left", "right")
_COLOUR = {"none": "green", "mild": "yellow", "moderate": "dark_orange", "severe": "red"}


def results_table(
    sent: list[Sent], results: list[Result], known: Mapping[str, Known], pacs: str
) -> Table:
    """Lay out what was sent and what came of it, a section for each study."""
    table = Table(title="Lung opacity, % of the lung field")
    table.add_column("Image", overflow="fold", min_width=16)
    table.add_column("View", min_width=5)
    for side in _SIDES:
        # Narrow on purpose: the true figure then stands below the measured one.
        table.add_column(f"{side.title()} %{' (known)' if known else ''}", justify="right", width=7)
    table.add_column("Result", min_width=10)
    table.add_column(f"Stored in {pacs}", min_width=9)
    by_uid = {each.sop_instance_uid: each for each in results}
    previous = ""
    for each in sent:
        study = each.sample.study_instance_uid
        if previous and study != previous:
            table.add_section()
        previous = study
        uid = each.sample.sop_instance_uid
        table.add_row(*_row(each, by_uid.get(uid), known.get(uid)))
    return table


def _row(sent: Sent, result: Result | None, known: Known | None) -> list[str]:
    sample = sent.sample
    view = " ".join(part for part in (sample.modality, sample.view) if part)
    start = [escape(sample.path.name), escape(view)]
    if result is None:
        refused = "no answer" if sent.status is None else f"answered 0x{sent.status:04X}"
        return [*start, "-", "-", "-", sent.note or refused, ""]
    truth = known.percent if known else {}
    measured = [_percent(result.percent.get(side), truth.get(side)) for side in _SIDES]
    return [*start, *measured, _status(result), _where(result)]


def _percent(measured: float | None, known: float | None) -> str:
    """Show a figure with the true one beside it; a dash where there is none to show."""
    if measured is None:
        return "-"
    return f"{measured:.1f}" if known is None else f"{measured:.1f} ({known:.1f})"


def _status(result: Result) -> str:
    if result.status == "analysed":
        return f"[{_COLOUR.get(result.severity or '', 'white')}]{result.severity}[/]"
    sentence = SENTENCES[Reason(result.reason)] if result.reason else ""
    return f"{result.status.replace('_', ' ')}: {sentence}"


def _where(result: Result) -> str:
    """Name the objects, with the state of a delivery that did not arrive."""
    named = []
    for kind in ("seg", "sr"):
        product = result.product(kind)
        if product is None:
            continue
        states = set(product.deliveries.values()) - {"sent", "committed"}
        named.append(" ".join([kind.upper(), *sorted(states)]))
    return ", ".join(named)
