"""The listing behind `dicom-node compare`: what a second model says beside what was sent."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session, aliased

from dicom_node.results import ResultFilter
from models.imaging import Instance, Series, Study
from models.job import Job
from models.result import Analysis, ModelVersion, ShadowAnalysis
from models.states import JobKind, JobState

_BLOCK: Final = 500
_LIMIT: Final = 1.96  # of a normal distribution: 95 % of the differences lie between the limits
_BANDS: Final = ("none", "mild", "moderate", "severe")
_STATUS: Final = {
    JobState.PENDING: "pending",
    JobState.LEASED: "pending",
    JobState.DONE: "not_analysed",  # compared, where there are figures
    JobState.FAILED: "failed",
    JobState.DEAD: "failed",
}
# (heading, dotted key) of the tables for people
COLUMNS: Final = (
    ("study", "study_instance_uid"),
    ("image", "sop_instance_uid"),
    ("status", "status"),
    ("reason", "reason"),
    ("production %", "production.opacity_percent"),
    ("shadow %", "shadow.opacity_percent"),
    ("difference", "difference"),
    ("band", "production.severity"),
    ("shadow band", "shadow.severity"),
)
SUMMARY_COLUMNS: Final = (
    ("production", "production.model"),
    ("version", "production.version"),
    ("shadow", "shadow.model"),
    ("version", "shadow.version"),
    ("n", "n"),
    ("mean difference", "mean_difference"),
    ("95 % from", "lower_limit"),
    ("to", "upper_limit"),
    ("largest", "largest_difference"),
    ("higher band", "higher_band"),
    ("lower band", "lower_band"),
    ("not analysed", "not_analysed"),
    ("failed", "failed"),
    ("pending", "pending"),
)


def comparisons(
    session: Session, wanted: ResultFilter, *more: ColumnElement[bool]
) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per shadow job, oldest first, reading in blocks.

    `more` are conditions over Job, Analysis, its ModelVersion, Instance and Study.

    `status` is compared, not_analysed, failed (both with a reason) or pending. Percentages are of
    both lungs; the difference is shadow minus production, in percentage points.
    """
    theirs = aliased(ModelVersion)
    query = (
        select(Job, Instance, Study, Analysis, ModelVersion, ShadowAnalysis, theirs)
        .join(Analysis, Job.analysis_id == Analysis.id)
        .join(ModelVersion, Analysis.model_version_id == ModelVersion.id)
        .join(Instance, Analysis.instance_id == Instance.id)
        .join(Series, Instance.series_id == Series.id)
        .join(Study, Series.study_id == Study.id)
        .outerjoin(ShadowAnalysis, ShadowAnalysis.job_id == Job.id)
        .outerjoin(theirs, ShadowAnalysis.model_version_id == theirs.id)
        .where(Job.kind == JobKind.SHADOW, *wanted.clauses(), *more)
        .order_by(Job.id)
        .execution_options(yield_per=_BLOCK)
    )
    for job, instance, study, analysis, model, shadow, shadow_model in session.execute(query):
        yield {
            "study_instance_uid": study.study_instance_uid,
            "sop_instance_uid": instance.sop_instance_uid,
            "calling_aet": instance.calling_aet,
            "received_at": instance.received_at.isoformat(timespec="milliseconds"),
            "status": "compared" if shadow else _STATUS[job.state],
            "reason": None if shadow else job.error,
            "production": _side(analysis, model, model.name),
            "shadow": _side(shadow, shadow_model, job.model_selector),
            **_difference(analysis, shadow),
        }


def _side(
    figures: Analysis | ShadowAnalysis | None, model: ModelVersion | None, selector: str | None
) -> dict[str, Any]:
    return {
        "model": selector,
        "version": model.version if model else None,
        "sha256": model.sha256 if model else None,
        "opacity_percent": figures.opacity_percent_total if figures else None,
        "severity": figures.severity if figures else None,
        "seconds": figures.seconds if figures else None,
    }


def _difference(analysis: Analysis, shadow: ShadowAnalysis | None) -> dict[str, Any]:
    before = analysis.opacity_percent_total
    after = shadow.opacity_percent_total if shadow else None
    if shadow is None or before is None or after is None:
        return {"difference": None, "band_change": None}
    steps = _BANDS.index(shadow.severity) - _BANDS.index(analysis.severity)
    return {"difference": after - before, "band_change": steps}


@dataclass
class _Group:
    """The comparisons of one version of a model with one version of another."""

    differences: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any]) -> None:
        self.statuses.append(row["status"])
        if row["difference"] is not None:
            self.differences.append(row["difference"])
            self.steps.append(row["band_change"])

    def as_row(self) -> dict[str, Any]:
        """Return mean difference and 95 % limits of agreement (Bland and Altman 1986)."""
        found = self.differences
        mean = fmean(found) if found else None
        half = _LIMIT * stdev(found) if len(found) > 1 else None
        return {
            "n": len(found),
            "mean_difference": mean,
            "lower_limit": None if mean is None or half is None else mean - half,
            "upper_limit": None if mean is None or half is None else mean + half,
            "largest_difference": max(found, key=abs) if found else None,
            "higher_band": sum(step > 0 for step in self.steps),
            "lower_band": sum(step < 0 for step in self.steps),
            **{name: self.statuses.count(name) for name in ("not_analysed", "failed", "pending")},
        }


def summary(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per pair of model versions.

    What ended without figures has no version of the second model, and stands in a row of its own.
    """
    groups: dict[tuple[Any, ...], _Group] = {}
    for row in rows:
        sides = row["production"], row["shadow"]
        key = tuple(side[name] for side in sides for name in ("model", "version", "sha256"))
        groups.setdefault(key, _Group()).add(row)
    return [
        {
            "production": dict(zip(("model", "version", "sha256"), key[:3], strict=True)),
            "shadow": dict(zip(("model", "version", "sha256"), key[3:], strict=True)),
            **group.as_row(),
        }
        for key, group in sorted(groups.items(), key=lambda item: str(item[0]))
    ]
