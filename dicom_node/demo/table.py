"""The demo's table: one line per sample, known beside measured, and where the results are."""

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from dicom_node.demo.known import Known
from dicom_node.demo.node import Product, Result
from dicom_node.demo.send import Sent

_SIDES = ("total", "left", "right")
_COLOUR = {"none": "green", "mild": "yellow", "moderate": "dark_orange", "severe": "red"}


def results_table(
    sent: list[Sent], results: list[Result], known: Mapping[str, Known], out: Path
) -> Table:
    """Lay out what was sent and what came of it."""
    table = Table(title="Lung opacity, % of the lung field", caption=f"objects: {out / 'results'}")
    hint = " (known)" if known else ""
    figures = [f"{side.title()} %{hint}" for side in _SIDES]
    for name in ["Study / image", "View", *figures, "Severity", "Status", "SEG", "SR"]:
        table.add_column(name, justify="right" if name in figures else "left")
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
    name = f"{sample.path.parent.name}/{sample.path.name}"
    view = " ".join(part for part in (sample.modality, sample.view) if part)
    if result is None:
        status = sent.note or (
            "no result" if sent.status is None else f"refused 0x{sent.status:04X}"
        )
        return [name, view, "", "", "", "", status, "", ""]
    truth = known.percent if known else {}
    measured = [_percent(result.percent.get(side), truth.get(side)) for side in _SIDES]
    severity = result.severity or ""
    colour = _COLOUR.get(severity, "white")
    status = result.status if result.reason is None else f"{result.status}: {result.reason}"
    objects = [_where(result.product(kind)) for kind in ("seg", "sr")]
    return [name, view, *measured, f"[{colour}]{severity}[/]", status, *objects]


def _percent(measured: float | None, known: float | None) -> str:
    """Show a figure with the true one beside it; a dash where there is none to show."""
    if measured is None:
        return "-"
    return f"{measured:.1f}" if known is None else f"{measured:.1f} ({known:.1f})"


def _where(product: Product | None) -> str:
    """Name each destination with the state of the delivery."""
    if product is None:
        return ""
    return ", ".join(f"{name} ({state})" for name, state in product.deliveries.items())
