"""The sections of the settings tree (`models.settings`), each frozen, each value checked."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

DEFAULT_MAX_PDU: Final = 1 << 20  # PS3.8 D.1: bytes of one PDU that a side is ready to receive
_AE_TITLE_MAX = 16  # PS3.5 6.2, VR AE


def _ae_title(text: str) -> str:
    title = text.strip()
    if not 0 < len(title) <= _AE_TITLE_MAX or "\\" in title or not title.isascii():
        msg = f"AE title {text!r} must have 1 to 16 ASCII characters and no backslash"
        raise ValueError(msg)
    return title


AETitle = Annotated[str, AfterValidator(_ae_title)]
Port = Annotated[int, Field(ge=0, le=65535)]
Captures = Literal["never", "fallback", "always"]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DicomSettings(_Section):
    """The listening side."""

    ae_title: AETitle = "NODE"
    host: str = "0.0.0.0"  # noqa: S104  a PACS must reach it; restrict by firewall and allow-lists
    port: Port = 11112
    require_called_aet: bool = False
    allowed_calling_aets: tuple[AETitle, ...] = ()  # empty: any may associate
    store_calling_aets: tuple[AETitle, ...] = ()  # empty: all of those may store, not only C-ECHO
    max_associations: Annotated[int, Field(ge=1)] = 200
    max_pdu: Annotated[int, Field(ge=0)] = DEFAULT_MAX_PDU  # 0: unlimited, memory as well
    network_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    allow_missing_patient_id: bool = False


class DestinationSettings(_Section):
    """One receiver of results."""

    name: str
    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    # The Secondary Capture: beside each SEG, or in its place where the receiver takes no SEG.
    captures: Captures = "never"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `AET@HOST:PORT`, as `--pacs` takes it. Raises ValueError with the wanted form."""
        ae_title, at, address = text.partition("@")
        host, colon, port = address.rpartition(":")
        if not (at and colon and host and port.isdigit()):
            msg = f"{text!r} is not a destination: write AET@HOST:PORT, e.g. ORTHANC@10.0.0.5:4242"
            raise ValueError(msg)
        return cls(name=text, ae_title=ae_title, host=host.strip("[]"), port=int(port))


class DispatchSettings(_Section):
    """Settling, queueing, leases."""

    poll_seconds: Annotated[float, Field(gt=0)] = 0.25
    settle_seconds: Annotated[float, Field(ge=0)] = 10.0
    settle_seconds_by_calling_ae: dict[str, float] = {}
    republish_seconds: Annotated[float, Field(gt=0)] = 30.0
    orphan_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    stat_calling_aets: tuple[AETitle, ...] = ()


class DeliverySettings(_Section):
    """Sending results to their destinations."""

    calling_aet: AETitle | None = None  # default: dicom.ae_title
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    lease_seconds: Annotated[float, Field(gt=0)] = 120.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    backoff_seconds: Annotated[float, Field(gt=0)] = 2.0
    backoff_cap_seconds: Annotated[float, Field(gt=0)] = 900.0
    max_attempts: Annotated[int, Field(ge=1)] = 1000  # ten days at the cap of the back-off
    batch: Annotated[int, Field(ge=1)] = 50


class WebSettings(_Section):
    """Health endpoint."""

    host: str = "127.0.0.1"
    port: Port = 8080


class DecodeSettings(_Section):
    """Caps under which unknown files are decoded, in a child process."""

    max_pixels: Annotated[int, Field(gt=0)] = 64_000_000
    memory_bytes: Annotated[int, Field(gt=0)] = 4 << 30
    timeout_seconds: Annotated[float, Field(gt=0)] = 60.0


class AnalysisSettings(_Section):
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


class RuleSettings(_Section):
    """Which model analyses the images of one sender."""

    calling_aet: AETitle
    model: ModelName


class ShadowSettings(_Section):
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


class WorkerSettings(_Section):
    """Celery worker processes."""

    concurrency: Annotated[int, Field(ge=1)] = 1
    serves: Literal["all", "analysis", "shadow"] = "all"
    bundle_dirs: tuple[Path, ...] = ()  # folders of models, searched before the shipped ones
    device: Literal["auto", "cpu", "cuda"] = "auto"
    torch_threads: Annotated[int, Field(ge=1)] | None = None  # None: cores / concurrency
    lease_seconds: Annotated[float, Field(gt=0)] = 30.0
    soft_time_limit_seconds: Annotated[float, Field(gt=0)] = 240.0
    hard_time_limit_seconds: Annotated[float, Field(gt=0)] = 300.0


class ObjectSettings(_Section):
    """Identity and series of the objects we make."""

    uid_root: Annotated[str, Field(pattern=r"^$|^[0-2](\.(0|[1-9][0-9]*))+$", max_length=40)] = ""
    seg_series_number: Annotated[int, Field(gt=0)] = 9001
    sr_series_number: Annotated[int, Field(gt=0)] = 9002
    sc_series_number: Annotated[int, Field(gt=0)] = 9003
