"""One frozen settings tree for the node and the worker, read once at the start of a process.

Both processes read the same `node.toml`, so both must refuse the same typing error: that is why the
tree lives here and not once in each package. Order of precedence: command-line values passed as
arguments, environment (`DICOM_NODE_…`, nested by `__`), files of secrets, `node.toml`, defaults.
"""

from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from models.analysis_sections import (
    AnalysisSettings,
    DecodeSettings,
    ObjectSettings,
    RuleSettings,
    ShadowSettings,
    WorkerSettings,
)
from models.broker import Broker, BrokerSettings
from models.fields import Captures
from models.message_sections import MessageSettings, RouteSettings
from models.monitoring_sections import LogSettings, MonitoringSettings
from models.people_sections import AuditSettings, WebSettings, WorklistSettings
from models.secret_files import SecretFilesSource
from models.sections import (
    CommitmentProviderSettings,
    DeliverySettings,
    DestinationSettings,
    DicomSettings,
    DispatchSettings,
    QueryRetrieveSettings,
    RemoteAESettings,
    RetentionSettings,
    StorageSettings,
)
from models.storage import Store, store_of


class Settings(BaseSettings):
    """The whole tree. Build it with `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix="DICOM_NODE_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    data_dir: Path = Path("dicom-node-data")
    database_url: str | None = None
    broker_url: str | None = None
    storage_url: str | None = None  # s3://BUCKET/PREFIX: hosts share it; None: folders of this one
    broker: BrokerSettings = BrokerSettings()
    dicom: DicomSettings = DicomSettings()
    destinations: tuple[DestinationSettings, ...] = ()
    routes: tuple[RouteSettings, ...] = ()  # empty: every result to every destination
    messages: MessageSettings = MessageSettings()
    dispatch: DispatchSettings = DispatchSettings()
    delivery: DeliverySettings = DeliverySettings()
    commitment_provider: CommitmentProviderSettings = CommitmentProviderSettings()
    query_retrieve: QueryRetrieveSettings = QueryRetrieveSettings()
    web: WebSettings = WebSettings()
    audit: AuditSettings = AuditSettings()
    worklist: WorklistSettings = WorklistSettings()
    decode: DecodeSettings = DecodeSettings()
    analysis: AnalysisSettings = AnalysisSettings()
    rules: tuple[RuleSettings, ...] = ()
    shadow: ShadowSettings = ShadowSettings()
    worker: WorkerSettings = WorkerSettings()
    objects: ObjectSettings = ObjectSettings()
    storage: StorageSettings = StorageSettings()
    retention: RetentionSettings = RetentionSettings()
    log: LogSettings = LogSettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    _toml: ClassVar[Path | None] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003  no .env file is read
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  nor a secrets folder
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then environment, then files of secrets, then `node.toml`."""
        toml = TomlConfigSettingsSource(settings_cls, cls._toml)
        return (init_settings, env_settings, SecretFilesSource(settings_cls), toml)

    @model_validator(mode="after")
    def _broker_is_one_that_can_be_spoken_to(self) -> Self:
        if self.broker_url is not None:
            Broker.parse(self.broker_url, self.broker)
        elif self.broker != BrokerSettings():
            msg = "the section broker says how to reach broker_url: set that too"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _destinations_have_names_of_their_own(self) -> Self:
        names = [destination.name for destination in self.destinations]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            msg = f"destinations must differ in their names; repeated: {', '.join(repeated)}"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Self:
        names = [route.name for route in self.routes]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            msg = f"routes must differ in their names; repeated: {', '.join(repeated)}"
            raise ValueError(msg)
        known = {destination.name for destination in self.destinations}
        for route in self.routes:
            if unknown := sorted(set(route.send_to) - known):
                msg = f"route {route.name} sends to {unknown[0]}, which is no destination"
                raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _receivers_over_tls_can_be_verified(self) -> Self:
        receivers: tuple[DestinationSettings | RemoteAESettings, ...] = (
            *self.destinations,
            *self.commitment_provider.peers,
            *self.query_retrieve.move_destinations,
            *self.worklist.ups.receivers,
            *self.worklist.ups.managers,
        )
        titles = [
            each.name if isinstance(each, DestinationSettings) and each.url else each.ae_title
            for each in receivers
            if each.tls
        ]
        if self.audit.repository.host is not None and self.audit.repository.tls:
            titles.append("audit.repository")
        if titles and self.dicom.tls.trusted_cas is None:
            msg = f"{titles[0]} has tls: set dicom.tls.trusted_cas to know its certificate"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _shadow_has_something_to_compare(self) -> Self:
        if self.shadow.model is not None and self.models == (self.shadow.model,):
            msg = f"shadow.model {self.shadow.model} is the model that analyses everything already"
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _storage_is_shared_whole(self) -> Self:
        url = urlsplit(self.storage_url or "s3://unused")
        if url.scheme != "s3" or not url.netloc or url.username or url.query or url.fragment:
            msg = (
                "storage_url must be s3://BUCKET or s3://BUCKET/PREFIX, with credentials in the "
                "AWS_... variables; for a folder that hosts share set storage.spool and "
                "storage.artifacts"
            )
            raise ValueError(msg)
        if self.storage_url and self.retention.floor_bytes:
            msg = (
                "retention.floor_bytes is about a disk, and storage_url has none: "
                "delete by retention.images_days"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _retention_acts_before_the_node_is_closed(self) -> Self:
        if 0 < self.retention.floor_bytes <= self.dicom.min_free_bytes:
            msg = (
                "retention.floor_bytes must be above dicom.min_free_bytes, below which nothing is "
                "received: raise the one or lower the other"
            )
            raise ValueError(msg)
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """Every model whose results are sent, the default one first."""
        named = [self.analysis.model, *(rule.model for rule in self.rules)]
        return tuple(dict.fromkeys(named))

    @property
    def makes_captures(self) -> bool:
        """Whether some destination may want the Secondary Capture of an image."""
        return any(destination.captures != "never" for destination in self.destinations)

    @property
    def makes_presentation_states(self) -> bool:
        """Whether some destination wants the presentation state of an image."""
        return any(each.presentation_states == "always" for each in self.destinations)

    @property
    def makes_documents(self) -> bool:
        """Whether some destination wants the report as a PDF."""
        return any(each.documents == "always" for each in self.destinations)

    @property
    def makes_hl7(self) -> bool:
        """Whether some destination wants the report as an HL7 v2 message."""
        return any(each.protocol == "hl7" for each in self.destinations)

    @property
    def makes_fhir(self) -> bool:
        """Whether some destination wants the report as FHIR resources."""
        return any(each.protocol == "fhir" for each in self.destinations)

    @property
    def tells_not_analysed(self) -> bool:
        """Whether some destination wants a message of a study without any analysed image."""
        return any(each.not_analysed == "always" for each in self.destinations)

    def destinations_by_captures(self, captures: Captures) -> frozenset[str]:
        """Return the names of the destinations with this value of `captures`."""
        return frozenset(each.name for each in self.destinations if each.captures == captures)

    @property
    def destinations_with_notes(self) -> frozenset[str]:
        """Return the names of the destinations that get our rejection notes."""
        return frozenset(
            each.name
            for each in self.destinations
            if each.rejection_notes == "always" and not each.takes_messages
        )

    @property
    def destinations_over_web(self) -> dict[str, DestinationSettings]:
        """Return the destinations with a URL, by name."""
        return {each.name: each for each in self.destinations if each.url is not None}

    @property
    def destinations_with_commitment(self) -> frozenset[str]:
        """Return the names of the destinations that are asked for Storage Commitment."""
        return frozenset(each.name for each in self.destinations if each.commitment)

    def model_for(self, calling_aet: str) -> str:
        """Return the model of the first rule for that sender, else the default."""
        chosen = (rule.model for rule in self.rules if rule.calling_aet == calling_aet)
        return next(chosen, self.analysis.model)

    @property
    def effective_database_url(self) -> str:
        """The configured URL, or SQLite in the data directory."""
        return self.database_url or f"sqlite:///{self.data_dir / 'node.db'}"

    @property
    def redis_socket(self) -> Path:
        """Unix socket of the embedded Redis."""
        return self.data_dir / "redis" / "redis.sock"

    @property
    def effective_broker_url(self) -> str:
        """The configured URL, or the embedded Redis of the data directory."""
        return self.effective_broker.url

    @property
    def effective_broker(self) -> Broker:
        """The broker with everything that says how to reach it."""
        if self.broker_url is None:
            return Broker.on_socket(self.redis_socket)
        return Broker.parse(self.broker_url, self.broker)

    @property
    def spool_dir(self) -> Path:
        """Folder of received objects; with `storage_url` this host's part of them."""
        return (self.storage.spool or self.data_dir / "spool").absolute()

    @property
    def artifact_dir(self) -> Path:
        """Folder of SEG, SR and pictures; with `storage_url` this host's part of them."""
        return (self.storage.artifacts or self.data_dir / "artifacts").absolute()

    @property
    def image_store(self) -> Store:
        """Where received objects live."""
        return self._store(self.spool_dir, "images")

    @property
    def artifact_store(self) -> Store:
        """Where SEG, SR and pictures live."""
        return self._store(self.artifact_dir, "artifacts")

    def _store(self, root: Path, name: str) -> Store:
        url = self.storage_url and f"{self.storage_url.rstrip('/')}/{name}"
        return store_of(root, url, self.storage.cache_bytes, self.storage.cache_hours)


def load_settings(
    config: Path | None = None,
    **overrides: Any,  # noqa: ANN401  a top-level key each, checked by the tree
) -> Settings:
    """Read the tree once. `overrides` are top-level keys; None values are ignored.

    Raises pydantic.ValidationError (a ValueError) that names each wrong key, and FileNotFoundError
    when `config` does not exist.
    """
    if config is not None and not config.is_file():
        msg = f"configuration file {config} does not exist"
        raise FileNotFoundError(msg)
    source = type("Settings", (Settings,), {"_toml": config, "__doc__": Settings.__doc__})
    chosen = {key: value for key, value in overrides.items() if value is not None}
    settings: Settings = source(**chosen)
    return settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
