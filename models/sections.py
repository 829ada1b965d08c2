"""The sections of the settings tree about network and storage (`models.settings`)."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from models.fields import (
    AETitle,
    Captures,
    Days,
    DestinationName,
    HostName,
    MessageText,
    Network,
    Port,
    PurgeableState,
    Section,
    Wanted,
)
from models.web_address import Protocol, WebAddress, filled_from_url, short_name

# Settings of a destination that say which DICOM objects it gets.
_OF_OBJECTS: Final = (
    *("segmentations", "captures", "presentation_states", "documents", "rejection_notes"),
)
_OF_ENVELOPES: Final = ("receiving_application", "receiving_facility")
DEFAULT_MAX_PDU: Final = 1 << 20  # PS3.8 D.1: bytes of one PDU that a side is ready to receive


class TlsSettings(Section):
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


class BoundPeerSettings(Section):
    """An AE title that may call from these networks only."""

    ae_title: AETitle
    addresses: Annotated[tuple[Network, ...], Field(min_length=1)]

    def __str__(self) -> str:
        return f"{self.ae_title} from {' or '.join(map(str, self.addresses))}"


class DicomSettings(Section):
    """The listening side."""

    ae_title: AETitle = "NODE"
    host: str = "0.0.0.0"  # noqa: S104  a PACS must reach it; restrict by firewall and allow-lists
    port: Port = 11112
    plain: bool = True  # False: `port` is closed, associations come over TLS alone
    require_called_aet: bool = False
    allowed_calling_aets: tuple[AETitle, ...] = ()  # empty: any may associate
    store_calling_aets: tuple[AETitle, ...] = ()  # empty: all of those may store, not only C-ECHO
    allowed_addresses: tuple[Network, ...] = ()  # empty: from anywhere
    proxy_protocol_from: tuple[Network, ...] = ()  # balancers that say who connects to them
    peers: tuple[BoundPeerSettings, ...] = ()  # AE titles bound to addresses
    listeners: Annotated[int, Field(ge=1, le=64)] | None = None  # processes; None: cores, up to 4
    max_associations: Annotated[int, Field(ge=1)] = 200  # of all processes together
    max_pdu: Annotated[int, Field(ge=0)] = DEFAULT_MAX_PDU  # 0: unlimited, memory as well
    network_timeout_seconds: Annotated[float, Field(gt=0)] = 60.0
    min_free_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    allow_missing_patient_id: bool = False
    tls: TlsSettings = TlsSettings()

    @property
    def listener_processes(self) -> int:
        """How many processes receive: what `listeners` says, else one per core, at most four."""
        return self.listeners or min(4, len(os.sched_getaffinity(0)))

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


class DestinationSettings(Section):
    """One receiver of results."""

    name: DestinationName
    ae_title: AETitle
    host: HostName
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
    # STOW-RS (https://), HL7 v2 over MLLP (hl7://, hl7s://) or FHIR (fhir+https://) instead of
    # C-STORE; then ae_title, host, port and tls follow from it.
    url: str | None = None
    headers_file: Path | None = None  # more HTTP headers, one `Name: value` per line
    headers_variable: str | None = None  # the same from the environment variable of this name
    # HL7 and FHIR: a message also where nothing in the study was analysed, with the reasons.
    not_analysed: Wanted = "never"
    receiving_application: MessageText = ""  # HL7: MSH-5
    receiving_facility: MessageText = ""  # HL7: MSH-6

    @property
    def protocol(self) -> Protocol | Literal["dicom"]:
        """What the destination speaks."""
        return "dicom" if self.url is None else WebAddress.parse(self.url).protocol

    @property
    def takes_messages(self) -> bool:
        """Whether it gets the result as a message, and no DICOM object."""
        return self.protocol in {"hl7", "fhir"}

    @model_validator(mode="before")
    @classmethod
    def _address_follows_from_url(cls, values: object) -> object:
        if isinstance(values, Mapping) and values.get("url") is not None:
            return filled_from_url(values)
        return values

    @model_validator(mode="after")
    def _web_settings_belong_to_a_url(self) -> Self:
        if self.url is not None and self.commitment:
            msg = f"destination {self.name} has a url: there is no commitment over it, leave it out"
            raise ValueError(msg)
        if self.url is None and (self.headers_file or self.headers_variable):
            msg = f"destination {self.name} has HTTP headers and no url: give it one"
            raise ValueError(msg)
        if (self.headers_variable or "").startswith("DICOM_NODE_"):
            msg = "headers_variable must not begin with DICOM_NODE_: that is for settings"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _settings_fit_what_it_speaks(self) -> Self:
        def changed(names: tuple[str, ...]) -> str:
            fields = type(self).model_fields
            return ", ".join(each for each in names if getattr(self, each) != fields[each].default)

        if self.takes_messages and (wrong := changed(_OF_OBJECTS)):
            msg = f"destination {self.name} gets messages and no DICOM object: leave out {wrong}"
            raise ValueError(msg)
        if not self.takes_messages and (wrong := changed(("not_analysed",))):
            msg = (
                f"destination {self.name} gets no message: {wrong} is for hl7:// and fhir+https://"
            )
            raise ValueError(msg)
        if self.protocol != "hl7" and (wrong := changed(_OF_ENVELOPES)):
            msg = f"destination {self.name} speaks no HL7 v2: leave out {wrong}"
            raise ValueError(msg)
        if self.protocol == "hl7" and (self.headers_file or self.headers_variable):
            msg = f"destination {self.name} speaks HL7 v2: leave its HTTP headers out"
            raise ValueError(msg)
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `AET@HOST:PORT` or a URL, as `--pacs` takes it.

        Raises ValueError with the wanted form.
        """
        if "://" in text:
            return cls.model_validate({"name": short_name(text), "url": text})
        ae_title, at, address = text.partition("@")
        host, colon, port = address.rpartition(":")
        if not (at and colon and host and port.isascii() and port.isdigit()):
            msg = (
                f"{text!r} is not a destination: write AET@HOST:PORT, e.g. ORTHANC@10.0.0.5:4242, "
                "or the URL of a DICOM Web server, an HL7 or a FHIR receiver"
            )
            raise ValueError(msg)
        return cls(name=short_name(text), ae_title=ae_title, host=host.strip("[]"), port=int(port))


class DispatchSettings(Section):
    """Settling, queueing, leases."""

    poll_seconds: Annotated[float, Field(gt=0)] = 0.25
    settle_seconds: Annotated[float, Field(ge=0)] = 10.0
    settle_seconds_by_calling_ae: dict[str, float] = Field(default_factory=dict)
    republish_seconds: Annotated[float, Field(gt=0)] = 30.0
    orphan_seconds: Annotated[float, Field(gt=0)] = 300.0
    max_attempts: Annotated[int, Field(ge=1)] = 3
    stat_calling_aets: tuple[AETitle, ...] = ()


class DeliverySettings(Section):
    """Sending results to their destinations."""

    calling_aet: AETitle | None = None  # default: dicom.ae_title
    poll_seconds: Annotated[float, Field(gt=0)] = 0.5
    lease_seconds: Annotated[float, Field(gt=0)] = 120.0
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    backoff_seconds: Annotated[float, Field(gt=0)] = 2.0
    backoff_cap_seconds: Annotated[float, Field(gt=0)] = 900.0
    max_attempts: Annotated[int, Field(ge=1)] = 1000  # ten days at the cap of the back-off
    circuit_failures: Annotated[int, Field(ge=1)] = 3  # then a destination is paused as a whole
    circuit_cap_seconds: Annotated[float, Field(gt=0)] = 300.0  # longest such pause
    batch: Annotated[int, Field(ge=1)] = 50
    commitment_delay_seconds: Annotated[float, Field(ge=0)] = 5.0  # between sending and asking
    commitment_hold_seconds: Annotated[float, Field(ge=0)] = 5.0  # for an answer on the same line
    commitment_timeout_seconds: Annotated[float, Field(gt=0)] = 3600.0  # then asked again
    commitment_keep_days: Days = 30.0  # old questions; 0: for good


class RemoteAESettings(Section):
    """An AE that we call for others: for a Storage Commitment answer, or as a Move Destination."""

    ae_title: AETitle
    host: str
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: bool = False  # as for destinations

    def __str__(self) -> str:
        return f"{self.ae_title}@{self.host}:{self.port}"


class CommitmentProviderSettings(Section):
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


class QueryRetrieveSettings(Section):
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


class StorageSettings(Section):
    """Folders that are to be on other disks than `data_dir`; with `storage_url` they are caches."""

    spool: Path | None = None  # default: `spool` in data_dir
    artifacts: Path | None = None  # default: `artifacts` in data_dir
    cache_bytes: Annotated[int, Field(ge=0)] = 10 << 30  # of each folder, where it is a cache
    cache_hours: Annotated[float, Field(gt=0)] = 24.0  # since a cached file was last used

    @model_validator(mode="after")
    def _folders_are_two(self) -> Self:
        spool, artifacts = self.spool, self.artifacts
        if spool and artifacts and spool.resolve() == artifacts.resolve():
            msg = "storage.spool and storage.artifacts must be two folders: results are not images"
            raise ValueError(msg)
        return self


class RetentionSettings(Section):
    """What the node may delete by itself; without a value here it deletes nothing."""

    images_days: Days | None = None  # None: kept for ever
    results_days: Days | None = None  # None: kept for ever
    floor_bytes: Annotated[int, Field(ge=0)] = 0  # 0: off
    states: tuple[PurgeableState, ...] = ("analysed", "not_analysed", "withdrawn", "superseded")
    purge_promised: bool = False
    interval_seconds: Annotated[float, Field(gt=0)] = 60.0
    warn_days: Annotated[float, Field(ge=0)] = 14.0

    @property
    def is_on(self) -> bool:
        """Whether anything is ever deleted."""
        wanted = (self.images_days, self.results_days, self.floor_bytes or None)
        return any(each is not None for each in wanted)
