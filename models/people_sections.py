"""The sections of the settings tree about people: web page, worklist, audit (`models.settings`)."""

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from models.fields import AETitle, Description, HostName, Network, Port, Priority, Section
from models.sections import RemoteAESettings
from models.web_address import is_safe_address, is_site


class OidcSettings(Section):
    """Login by an identity provider (OpenID Connect, authorization code with PKCE)."""

    issuer: str | None = None  # None: off
    client_id: str | None = None
    client_secret_file: Path | None = None  # without file and variable: a public client
    client_secret_variable: str | None = None
    scopes: tuple[str, ...] = ("openid", "profile")
    name_claim: str = "preferred_username"
    roles_claim: str = "groups"
    roles: dict[str, Literal["viewer", "operator", "admin"]] = Field(
        default_factory=dict
    )  # value of the claim: role
    label: Annotated[str, Field(min_length=1, max_length=64)] = "Single sign-on"
    timeout_seconds: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _what_a_login_needs_is_there(self) -> Self:
        if self.issuer is None:
            return self
        if not is_safe_address(self.issuer):
            msg = f"web.oidc.issuer {self.issuer} must be https:// (http:// on this host only)"
            raise ValueError(msg)
        if not self.client_id or not self.roles or "openid" not in self.scopes:
            msg = "web.oidc.issuer needs client_id, roles and the scope openid: nobody could log in"
            raise ValueError(msg)
        if self.client_secret_file and self.client_secret_variable:
            msg = "web.oidc has client_secret_file and client_secret_variable: leave one out"
            raise ValueError(msg)
        if (self.client_secret_variable or "").startswith("DICOM_NODE_"):
            msg = "web.oidc.client_secret_variable must not begin with DICOM_NODE_: so do settings"
            raise ValueError(msg)
        return self


class WebSettings(Section):
    """The web page and the API."""

    host: str = "127.0.0.1"
    port: Port = 8080
    url: str | None = None  # how browsers reach it, without a path; default: from host and port
    certificate: Path | None = None  # PEM, with its chain; None: no TLS
    private_key: Path | None = None
    behind_proxy: bool = False  # a reverse proxy has TLS and passes on X-Forwarded-For
    proxies: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))
    hosts: tuple[str, ...] = ()  # names that requests may be for; empty: see docs/security.md
    open_metrics: bool = False  # metrics and ledger (counts) without login, from everywhere
    idle_minutes: Annotated[float, Field(gt=0)] = 60.0  # without use; then a login is over
    login_hours: Annotated[float, Field(gt=0)] = 12.0  # the longest that a login lasts
    oidc: OidcSettings = OidcSettings()
    dicomweb: bool = True  # QIDO-RS, WADO-RS and STOW-RS below /dicom-web
    dicomweb_origins: tuple[str, ...] = ()  # of viewers that are served elsewhere; none: no CORS
    stow_calling_aet: AETitle | None = None  # of what comes by STOW-RS; None: the account's name
    stow_max_bytes: Annotated[int, Field(ge=1)] = 1 << 30  # of one object

    @property
    def is_secure(self) -> bool:
        """Whether browsers come over TLS, ours or a proxy's."""
        return self.certificate is not None or self.behind_proxy

    @property
    def is_loopback(self) -> bool:
        """Whether only this host reaches it."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def base_url(self) -> str:
        """How browsers reach it: what links that are printed begin with."""
        if self.url is not None:
            return self.url.rstrip("/")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104  compared
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"

    @field_validator("dicomweb_origins")
    @classmethod
    def _origins_are_exact(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for each in origins:
            if not is_site(each) or each.endswith("/"):
                msg = f"{each} must be like https://viewer.hospital.example, without a path"
                raise ValueError(msg)
        return origins

    @model_validator(mode="after")
    def _it_is_reached_safely(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            msg = "web.certificate and web.private_key go together: set both"
            raise ValueError(msg)
        if self.certificate is not None and self.behind_proxy:
            msg = "web.behind_proxy and web.certificate exclude each other: TLS ends at one of them"
            raise ValueError(msg)
        if self.url is not None and not is_site(self.url):
            msg = f"web.url {self.url} must be like https://node.hospital.example, without a path"
            raise ValueError(msg)
        if self.oidc.issuer is not None and self.url is None:
            msg = "web.oidc needs web.url: the identity provider sends browsers back to it"
            raise ValueError(msg)
        return self


class RepositorySettings(Section):
    """The audit repository that gets the events as messages (PS3.15 A.5), by syslog over TLS."""

    host: HostName | None = None  # None: none
    port: Annotated[int, Field(ge=1, le=65535)] = 6514  # RFC 5425 4.1
    tls: bool = True  # with the files of dicom.tls; its certificate must name `host`
    timeout_seconds: Annotated[float, Field(gt=0)] = 30.0
    site: Annotated[str, Field(max_length=64)] | None = None  # AuditEnterpriseSiteID


class AuditSettings(Section):
    """Sealing and sending of audit events."""

    seal_seconds: Annotated[float, Field(gt=0)] = 10.0  # the longest that an event waits for it
    key_file: Path | None = None  # default: audit.key in data_dir
    anchor_file: Path | None = None  # default: audit-anchor.log in data_dir
    repository: RepositorySettings = RepositorySettings()


class PrioritySettings(Section):
    """How urgent the reading of a study is, by the band of its figure (PS3.3 C.30.1)."""

    severe: Priority = "HIGH"
    moderate: Priority = "HIGH"
    mild: Priority = "MEDIUM"
    none: Priority = "LOW"
    without_figure: Priority = "MEDIUM"  # nothing is known of it, so it is not put last

    def of(self, severity: str | None) -> Priority:
        """Return the priority of a band; None: the study has no figure."""
        known = {"severe": self.severe, "moderate": self.moderate, "mild": self.mild}
        return (known | {"none": self.none}).get(severity or "", self.without_figure)

    def bands(self, priority: Priority) -> list[str | None]:
        """Return the bands of this priority; None stands for studies without a figure."""
        bands = ("severe", "moderate", "mild", "none", None)
        return [band for band in bands if self.of(band) == priority]


class UpsSettings(Section):
    """Unified Procedure Steps (PS3.4 Annex CC, PS3.18 chapter 11): readings as workitems.

    `receivers` may subscribe to events by DIMSE, `web_subscribers` over a WebSocket; `managers` get
    every new workitem by N-CREATE.
    """

    enabled: bool = False
    calling_aets: tuple[AETitle, ...] = ()  # who may query and claim by DIMSE; never everybody
    web: bool = False  # UPS-RS below /ups-rs, for whoever may read the worklist
    receivers: tuple[RemoteAESettings, ...] = ()
    web_subscribers: tuple[AETitle, ...] = ()
    managers: tuple[RemoteAESettings, ...] = ()
    worklist_label: Description = "Chest radiographs"
    keep_days: Annotated[float, Field(gt=0, le=36_500)] = 30.0  # ended ones without a lock
    max_results: Annotated[int, Field(ge=1, le=10_000)] = 1000

    @model_validator(mode="after")
    def _it_is_said_who_and_where(self) -> Self:
        if self.enabled and not (self.calling_aets or self.web):
            msg = (
                "worklist.ups.enabled needs worklist.ups.calling_aets: name who may query, or set "
                "worklist.ups.web"
            )
            raise ValueError(msg)
        heard = [*(each.ae_title for each in self.receivers), *self.web_subscribers]
        managers = [each.ae_title for each in self.managers]
        for names, titles in (("receivers and web_subscribers", heard), ("managers", managers)):
            if repeated := sorted({title for title in titles if titles.count(title) > 1}):
                msg = f"worklist.ups: {names} name {repeated[0]} twice: keep one"
                raise ValueError(msg)
        return self

    @property
    def subscribers(self) -> frozenset[str]:
        """The AE titles that may subscribe, whichever way they hear."""
        return frozenset((*(each.ae_title for each in self.receivers), *self.web_subscribers))


class WorklistSettings(Section):
    """The reading worklist.

    `domains` names the sources that share their PatientIDs: `{"RIS1": ["CR1", "DX2"]}`, by calling
    AE title. A sender in none of them is a domain of its own.
    """

    ups: UpsSettings = UpsSettings()
    late_minutes: Annotated[float, Field(gt=0)] = 15.0
    priorities: PrioritySettings = PrioritySettings()
    domains: dict[str, tuple[AETitle, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _each_sender_is_in_one_domain(self) -> Self:
        titles = [title for members in self.domains.values() for title in members]
        repeated = sorted({title for title in titles if titles.count(title) > 1})
        if repeated:
            msg = f"worklist.domains names {repeated[0]} twice: a sender belongs to one domain"
            raise ValueError(msg)
        return self

    def senders_like(self, calling_aet: str) -> tuple[str, ...]:
        """Return the calling AE titles whose PatientIDs mean the same as those of this one."""
        domains = (members for members in self.domains.values() if calling_aet in members)
        return next(domains, (calling_aet,))
