"""`/models`: which networks measured, what their makers found, and whether readers agree."""

from dataclasses import dataclass
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from sqlalchemy import func, select

from dicom_node.web.api.remembered import Remembered
from dicom_node.web.markdown import Block, blocks
from dicom_node.web.pages.site import Site, Viewer
from dicom_node.web.rendering import page
from dicom_node.worklist.feedback import Agreement, agreement
from models.result import Analysis, ModelVersion

_MOST: Final = 50  # the newest; what is older is in the API
# Table: the figures of the evaluation that say most, with their names and units.
_FIGURES: Final = (
    ("percent_mae", "Percentage against readers, mean absolute error", "points", 1),
    ("cv_percent_mae", "The same, cross-validated", "points", 1),
    ("normals_held_out_percent_median", "Median percentage of normals never trained on", "%", 1),
    ("normals_held_out_above_5", "Share of those normals above 5 %", "", 3),
    ("opacity_dice_pooled", "Opacity Dice, pixels pooled", "", 3),
    ("lungs_dice", "Lungs Dice", "", 3),
)


@dataclass(frozen=True)
class Counted:
    """What whole tables say of a model: so many analyses, and the opinions of readers."""

    analyses: dict[int, int]
    agreements: dict[tuple[str, str, str], Agreement]


@dataclass(frozen=True)
class Shown:
    """One model on the page."""

    row: ModelVersion
    analyses: int
    is_in_use: bool
    figures: tuple[tuple[str, str], ...]
    card: list[Block]
    agreement: Agreement | None


def routes(site: Site) -> APIRouter:
    """Return the route."""
    router = APIRouter(include_in_schema=False)

    def count() -> Counted:
        query = select(Analysis.model_version_id, func.count()).group_by(Analysis.model_version_id)
        with site.database.read() as session:
            analyses = {row[0]: row[1] for row in session.execute(query)}
            given = {(it.model, it.version, it.sha256): it for it in agreement(session)}
        return Counted(analyses, given)

    counted = Remembered(count)

    @router.get("/models")
    def show(request: Request, who: Viewer) -> HTMLResponse:
        """Show every model that a worker has loaded, the newest first."""
        known = counted.value().value
        query = select(ModelVersion).order_by(ModelVersion.id.desc()).limit(_MOST)
        with site.database.read() as session:
            shown = [_shown(site, row, known) for row in session.scalars(query)]
        return page(request, "models.html", {"models": shown}, principal=who)

    return router


def _shown(site: Site, row: ModelVersion, known: Counted) -> Shown:
    return Shown(
        row=row,
        analyses=known.analyses.get(row.id, 0),
        is_in_use=row.name in site.settings.models,
        figures=tuple(_figures(row.metrics or {})),
        card=blocks(row.card or ""),
        agreement=known.agreements.get((row.name, row.version, row.sha256)),
    )


def _figures(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for name, label, unit, digits in _FIGURES:
        value = metrics.get(name)
        if isinstance(value, int | float):
            found.append((label, f"{value:.{digits}f} {unit}".strip()))
    return found
