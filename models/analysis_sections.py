"""The sections of the settings tree about analysis: images, models, workers, objects."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from models.fields import AETitle, Description, ModelName, Section


class DecodeSettings(Section):
    """Caps under which unknown files are decoded, in a child process."""

    max_pixels: Annotated[int, Field(gt=0)] = 64_000_000
    memory_bytes: Annotated[int, Field(gt=0)] = 4 << 30
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0


class AnalysisSettings(Section):
    """What decides a result; hashed into every UID, so a change gives new objects."""

    model: ModelName = "unet"
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None  # None: the bundle's own
    severity_mild_percent: float = 1.0
    severity_moderate_percent: float = 25.0
    severity_severe_percent: float = 50.0
    zone_score: bool = False
    zone_bounds_percent: tuple[float, float, float] = (1.0, 25.0, 50.0)  # grades 1, 2, 3 from here
    min_side_pixels: Annotated[int, Field(gt=0)] = 128
    min_lung_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.02
    min_age_years: Annotated[int, Field(ge=0, le=130)] = 18  # 0: any age
    secondary_capture: bool = False
    min_view_probability: Annotated[float, Field(ge=0, lt=1)] = 0.5  # 0: any picture
    correct_inverted: bool = True
    max_doubt_percent: Annotated[float, Field(ge=0)] = 14.0  # of the lungs; 0: no caveat
    experimental_classifier: ModelName | None = None  # None: off

    @model_validator(mode="after")
    def _bands_ascend(self) -> Self:
        if not (
            0
            <= self.severity_mild_percent
            < self.severity_moderate_percent
            < self.severity_severe_percent
            <= 100  # noqa: PLR2004  percent
        ):
            msg = "severity bounds must ascend: 0 <= mild < moderate < severe <= 100"
            raise ValueError(msg)
        low, middle, high = self.zone_bounds_percent
        if not 0 < low < middle < high <= 100:  # noqa: PLR2004  percent
            msg = "zone_bounds_percent must ascend: 0 < grade 1 < grade 2 < grade 3 <= 100"
            raise ValueError(msg)
        return self

    def configuration_hash(self, of_model: str = "") -> str:
        """SHA-256 of every value that can change a result: these, and those of the model.

        It is part of every UID, so that another threshold gives other objects. What is switched
        off decides nothing and is left out: a release that adds it keeps the UIDs of everybody.
        """
        unused = {"model"} if self.zone_score else {"model", "zone_score", "zone_bounds_percent"}
        if self.experimental_classifier is None:
            unused.add("experimental_classifier")
        canonical = json.dumps(self.model_dump(exclude=unused), sort_keys=True)
        return hashlib.sha256(f"{canonical}\n{of_model}".encode()).hexdigest()


class RuleSettings(Section):
    """Which model analyses the images of one sender."""

    calling_aet: AETitle
    model: ModelName


class ShadowSettings(Section):
    """A second model on analysed images: recorded and compared, nothing of it is sent."""

    model: ModelName | None = None  # None: off
    share: Annotated[float, Field(ge=0, le=1)] = 1.0  # below 1: a canary
    calling_aets: tuple[AETitle, ...] = ()  # empty: the images of every sender

    def takes(self, sop_instance_uid: str, calling_aet: str) -> bool:
        """Say whether an image is in the share: the same for the same UID, on every host."""
        if self.calling_aets and calling_aet not in self.calling_aets:
            return False
        drawn = int.from_bytes(hashlib.sha256(sop_instance_uid.encode()).digest()[:8], "big")
        return drawn < self.share * 2**64


class WorkerSettings(Section):
    """Celery worker processes."""

    concurrency: Annotated[int, Field(ge=1)] = 1
    serves: Literal["all", "analysis", "shadow"] = "all"
    bundle_dirs: tuple[Path, ...] = ()  # folders of models, searched before the shipped ones
    device: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: Annotated[int, Field(ge=1)] | None = None  # None: cores / concurrency
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    soft_time_limit_seconds: Annotated[float, Field(gt=0)] = 240.0
    hard_time_limit_seconds: Annotated[float, Field(gt=0)] = 300.0
    # A worker that leaves waiting jobs alone for so long is started again; 0: never.
    unclaimed_seconds: Annotated[float, Field(ge=0)] = 300.0


class ObjectSettings(Section):
    """Identity and series of the objects we make."""

    uid_root: Annotated[str, Field(pattern=r"^$|^[0-2](\.(0|[1-9][0-9]*))+$", max_length=40)] = ""
    seg_series_number: Annotated[int, Field(gt=0)] = 9001
    sr_series_number: Annotated[int, Field(gt=0)] = 9002
    sc_series_number: Annotated[int, Field(gt=0)] = 9003
    pr_series_number: Annotated[int, Field(gt=0)] = 9004
    pdf_series_number: Annotated[int, Field(gt=0)] = 9005
    ko_series_number: Annotated[int, Field(gt=0)] = 9006
    seg_series_description: Description = "AI lung opacity SEG (research use only)"
    sr_series_description: Description = "AI lung opacity SR (research use only)"
    sc_series_description: Description = "AI lung opacity picture (research use only)"
    pr_series_description: Description = "AI lung opacity outlines (research use only)"
    pdf_series_description: Description = "AI lung opacity PDF (research use only)"
    ko_series_description: Description = "AI results withdrawn (research use only)"
