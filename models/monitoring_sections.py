"""The sections of the settings tree about watching the node: logs, metrics, drift, traces."""

from datetime import date
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.fields import AETitle, Section


class LogSettings(Section):
    """What every process writes to standard error."""

    format: Literal["text", "json"] = "text"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class DriftSettings(Section):
    """When a source's images or figures count as changed (docs/monitoring.md)."""

    window_days: Annotated[float, Field(gt=0, le=366)] = 7.0  # what is looked at
    reference_images: Annotated[int, Field(ge=1, le=50_000)] = 1000  # the first of a model version
    reference_from: date | None = None  # these two instead of the first images
    reference_until: date | None = None  # this day not included
    min_images: Annotated[int, Field(ge=20)] = 100  # on each side, else nothing is said
    min_psi: Annotated[float, Field(gt=0)] = 0.2  # population stability index
    min_ks: Annotated[float, Field(gt=0, le=1)] = 0.15  # Kolmogorov-Smirnov distance
    significance: Annotated[float, Field(gt=0, lt=0.5)] = 0.001  # of a false alarm, per look

    @model_validator(mode="after")
    def _the_reference_has_a_beginning_and_an_end(self) -> Self:
        first, last = self.reference_from, self.reference_until
        if (first is None) != (last is None):
            msg = "monitoring.drift.reference_from and reference_until go together: set both"
            raise ValueError(msg)
        if first is not None and last is not None and first >= last:
            msg = "monitoring.drift.reference_until must be after reference_from"
            raise ValueError(msg)
        return self


class MonitoringSettings(Section):
    """What `/metrics` tells of sources, when silence is an alarm, and where traces go."""

    sources: tuple[AETitle, ...] = ()  # AE titles with figures of their own; empty: as they come
    max_sources: Annotated[int, Field(ge=1, le=200)] = 20  # of those that come; the rest: other
    no_study_minutes: Annotated[float, Field(ge=0)] = 0.0  # without any image; 0: no alarm
    no_study_minutes_by_calling_ae: dict[AETitle, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict
    )
    drift: DriftSettings = DriftSettings()
    traces_url: str | None = None  # OTLP over HTTP, as http://collector:4318/v1/traces; None: off
    traces_share: Annotated[float, Field(ge=0, le=1)] = 1.0  # of images and studies
