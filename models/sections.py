"""The sections of the settings tree (`models.settings`), each frozen, each value checked."""

import hashlib
import json
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

DEFAULT_MAX_PDU: Final = 1 << 20  # PS3.8 D.1: bytes of one PDU that a side is ready to receive
_AE_TITLE_MAX = 16  # PS3.5 6.2, VR AE


def _ae_title(text: str) -> str:
    title = text.strip()
    if not 0 < len(title) <= _AE_TITLE_MAX or "\\" in title or not title.isascii():
        msg = f"AE title {text!r} must have 1 to 16 ASCII characters and no backslash"
        raise ValueError(msg)
    return title


def _network(value: object) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(str(value).strip())
    except ValueError as error:
        msg = f"{value} is no network ({error}): write 10.1.0.0/16, 10.1.2.3 or fd00:1::/32"
        raise ValueError(msg) from error
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    return ip_network((mapped, network.prefixlen - 96)) if mapped else network


AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
Port = Annotated[int, Field(ge=0, le=65535)]
Captures = Literal["never", "fallback", "always"]
Wanted = Literal["never", "always"]
Description = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\\\x00-\x1f]+$")]  # LO
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TlsSettings(_Section):
    """TLS of the listener, and of the sender towards destinations with `tls`. PEM files."""

    port: Port | None = None  # None: no TLS port; 2762 is registered for it (PS3.15 B.12)
    certificate: Path | None = None  # our own, with its chain
    private_key: Path | None = None
    trusted_cas: Path | None = None  # who may have signed the certificates of peers
    require_client_certificate: bool = True
    profile: Literal["bcp195"] = "bcp195"
    handshake_seconds: Annotated[float, Field(gt=0)] = 10.0

    def __str__(self) -> str:
        if self.port is None:
            return "no port"
        peers = "required" if self.require_client_certificate else "optional"
        return f"port {self.port}, certificates of peers {peers}"

    @model_validator(mode="after")
    def _files_belong_together(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            msg = "dicom.tls.certificate and dicom.tls.private_key go together: set both"
            raise ValueError(msg)
        if self.port is not None and self.certificate is None:
            msg = "dicom.tls.port needs dicom.tls.certificate and dicom.tls.private_key"
            raise ValueError(msg)
        if self.port is not None and self.require_client_certificate and self.trusted_cas is None:
            msg = "dicom.tls.require_client_certificate needs dicom.tls.trusted_cas"
            raise ValueError(msg)
        return self


class BoundPeerSettings(_Section):
    """An AE title that may call from these networks only."""

    ae_title: AETitle
    addresses: Annotated[tuple[Network, ...], Field(min_length=1)]

    def __str__(self) -> str:
        return f"{self.ae_title} from {' or '.join(map(str, self.addresses))}"


class DicomSettings(_Section):
    """The listening side."""

    ae_title: AETitle = "NODE"
    host: str = "0.0.0.0"  # noqa: S104  a PACS must reach it; restrict by firewall and allow-lists
    port: Port = 11112
    plain: bool = True  # False: `port` is closed, associations come over TLS alone
    require_called_aet: bool = False
    allowed_calling_aets: tuple[AETitle, ...] = ()  # empty: any may associate
    store_calling_aets: tuple[AETitle, ...] = ()  # empty: all of those may store, not only C-ECHO
    allowed_addresses: tuple[Network, ...] = ()  # empty: from anywhere
    peers: tuple[BoundPeerSettings, ...] = ()  # AE titles bound to addresses
    max_associations: Annotated[int, Field(ge=1)] = 200
    max_pdu: Annotated[int, Field(ge=0)] = DEFAULT_MAX_PDU  # 0: unlimited, memory as well
    network_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    allow_missing_patient_id: bool = False
    tls: TlsSettings = TlsSettings()

    @model_validator(mode="after")
    def _peers_and_ports_make_sense(self) -> Self:
        titles = [peer.ae_title for peer in self.peers]
        if repeated := sorted({title for title in titles if titles.count(title) > 1}):
            msg = f"dicom.peers names {', '.join(repeated)} twice: write its addresses in one entry"
            raise ValueError(msg)
        if not self.plain and self.tls.port is None:
            msg = "dicom.plain = false closes the only port: set dicom.tls.port"
            raise ValueError(msg)
        return self


class DestinationSettings(_Section):
    """One receiver of results."""

    name: str
    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    segmentations: Wanted = "always"  # "never": for a viewer that cannot bear a SEG
    # The Secondary Capture: beside each SEG, or in its place where the receiver takes no SEG.
    captures: Captures = "never"
    presentation_states: Wanted = "never"  # outlines over each image (GSPS)
    documents: Wanted = "never"  # the report as a page (Encapsulated PDF)
    # Our rejection note for what it has of an image that its sender rejected.
    rejection_notes: Literal["never", "always"] = "always"
    # Storage Commitment: a delivery is done when the receiver commits to the object, not when sent.
    commitment: bool = False
    tls: bool = False  # with the files of dicom.tls; its certificate must name `host`

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
    commitment_delay_seconds: Annotated[float, Field(ge=0)] = 5.0  # between sending and asking
    commitment_hold_seconds: Annotated[float, Field(ge=0)] = 5.0  # for an answer on the same line
    commitment_timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0  # then asked again


class RemoteAESettings(_Section):
    """An AE that we call for others: for a Storage Commitment answer, or as a Move Destination."""

    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False  # as for destinations

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


class CommitmentProviderSettings(_Section):
    """Storage Commitment for senders; the answers go to `peers`, by AE title."""

    enabled: bool = False
    calling_aets: tuple[AETitle, ...] = ()  # empty: every peer
    peers: tuple[RemoteAESettings, ...] = ()

    def peer(self, ae_title: str) -> RemoteAESettings | None:
        """Return where to answer an AE that may ask; None when it may not, or has no address."""
        if not self.enabled or (self.calling_aets and ae_title not in self.calling_aets):
            return None
        return next((each for each in self.peers if each.ae_title == ae_title), None)

    @model_validator(mode="after")
    def _peers_have_titles_of_their_own(self) -> Self:
        titles = [each.ae_title for each in self.peers]
        if repeated := sorted({title for title in titles if titles.count(title) > 1}):
            msg = f"commitment_provider.peers names an AE title twice: {', '.join(repeated)}"
            raise ValueError(msg)
        return self


class QueryRetrieveSettings(_Section):
    """The Query/Retrieve SCP."""

    enabled: bool = False
    calling_aets: tuple[AETitle, ...] = ()  # who may query and retrieve; never everybody
    move_destinations: tuple[RemoteAESettings, ...] = ()
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 1000  # entities or objects per request
    max_files: Annotated[int, Field(ge=1)] = 10_000  # opened per query, for what no row has

    @model_validator(mode="after")
    def _it_is_said_who_and_where(self) -> Self:
        if self.enabled and not self.calling_aets:
            msg = "query_retrieve.enabled needs query_retrieve.calling_aets: name who may query"
            raise ValueError(msg)
        titles = [each.ae_title for each in self.move_destinations]
        if repeated := sorted({title for title in titles if titles.count(title) > 1}):
            msg = f"query_retrieve.move_destinations names {', '.join(repeated)} twice: keep one"
            raise ValueError(msg)
        return self


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
    # A worker that leaves waiting jobs alone for so long is started again; 0: never.
    unclaimed_seconds: Annotated[float, Field(ge=0)] = 300.0


class ObjectSettings(_Section):
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
