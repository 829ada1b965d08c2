"""The broker: what `broker_url` and the section `broker` say, as Celery wants to hear it.

Redis is reached alone (`redis://`, `rediss://`, a unix socket) or by Sentinels that know which of
several is the master (`sentinel://`); RabbitMQ by AMQP 0-9-1 (`amqp://`, `amqps://`).
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import Field, model_validator

from models.fields import Section

Kind = Literal["redis", "socket", "sentinel", "amqp"]

# Scheme: what it is, whether it is TLS by itself, the port where none is given.
_SCHEMES: Final[dict[str, tuple[Kind, bool, int]]] = {
    "redis": ("redis", False, 6379),
    "rediss": ("redis", True, 6379),
    "redis+socket": ("socket", False, 0),
    "sentinel": ("sentinel", False, 26379),
    "amqp": ("amqp", False, 5672),
    "amqps": ("amqp", True, 5671),
}
_FORMS: Final = (
    "redis://HOST:6379/0, rediss://HOST:6379/0, sentinel://HOST:26379/0;sentinel://HOST:26379/0, "
    "amqp://USER:PASSWORD@HOST:5672/VHOST or amqps://USER:PASSWORD@HOST:5671/VHOST"
)


class BrokerFileError(ValueError):
    """A file of the section `broker` cannot be used."""


class BrokerSettings(Section):
    """What of a broker does not fit into `broker_url`. PEM files; none: as the system trusts."""

    master_name: str | None = None  # sentinel://: how the Sentinels call the master
    sentinel_username: str | None = None
    sentinel_password: str | None = Field(default=None, repr=False)  # that of the URL is Redis's
    tls: bool = False  # sentinel://: to Redis and Sentinels; rediss:// and amqps:// are TLS
    trusted_cas: Path | None = None  # who may have signed the broker's certificate
    certificate: Path | None = None  # ours, where the broker asks for one
    private_key: Path | None = None

    @model_validator(mode="after")
    def _files_belong_together(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            msg = "broker.certificate and broker.private_key go together: set both"
            raise ValueError(msg)
        return self


@dataclass(frozen=True)
class Broker:
    """One broker, checked. Make it with `parse`."""

    url: str
    kind: Kind
    is_secure: bool
    addresses: tuple[str, ...]  # HOST:PORT, without anything secret
    section: BrokerSettings

    @classmethod
    def on_socket(cls, path: Path) -> Self:
        """Return the Redis that listens on a unix socket of this host."""
        return cls(f"redis+socket://{path}", "socket", False, (str(path),), BrokerSettings())

    @classmethod
    def parse(cls, url: str, section: BrokerSettings) -> Self:
        """Check a URL against its section.

        Raises ValueError that says what to write, without the URL's secrets.
        """
        parts = [_split(each) for each in url.split(";")]
        schemes = {each.scheme for each in parts}
        if len(schemes) > 1 or (len(parts) > 1 and schemes != {"sentinel"}):
            msg = "broker_url names several servers: only sentinel://…;sentinel://… may do that"
            raise ValueError(msg)
        kind, is_secure, default_port = _SCHEMES[schemes.pop()]
        for each in parts:
            _require_place(each, kind)
        _require_section(section, kind, is_secure=is_secure, has_query=bool(parts[0].query))
        if kind == "socket":
            addresses = [parts[0].path]
        else:
            addresses = [f"{each.hostname}:{each.port or default_port}" for each in parts]
        return cls(url, kind, is_secure or section.tls, tuple(addresses), section)

    def __str__(self) -> str:
        where = ", ".join(self.addresses)
        over = " over TLS" if self.is_secure else ""
        if self.kind == "sentinel":
            return f"Redis {self.section.master_name} by Sentinel {where}{over}"
        name = "RabbitMQ" if self.kind == "amqp" else "Redis"
        return f"{name} at {where}{over}"

    @property
    def is_amqp(self) -> bool:
        """Whether it is RabbitMQ, which has priorities inside a queue, and no Redis commands."""
        return self.kind == "amqp"

    def require_files(self) -> None:
        """Read the files of the section once. Raises BrokerFileError naming the unusable one."""
        section, context = self.section, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if section.trusted_cas is not None:
                context.load_verify_locations(section.trusted_cas)
        except (OSError, ssl.SSLError) as error:
            msg = f"broker.trusted_cas {section.trusted_cas} is no PEM file to read ({_why(error)})"
            raise BrokerFileError(msg) from error
        try:
            if section.certificate is not None:
                # A key with a password would ask the terminal for it: it is refused instead.
                context.load_cert_chain(section.certificate, section.private_key, password="")
        except (OSError, ssl.SSLError) as error:
            msg = (
                f"broker.certificate {section.certificate} and broker.private_key "
                f"{section.private_key} are no readable PEM pair ({_why(error)})"
            )
            raise BrokerFileError(msg) from error

    def celery_options(self, transport_options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a Celery application, with those of the transport."""
        options: dict[str, Any] = {}
        if self.kind == "sentinel":
            timeouts = {
                key: value for key, value in transport_options.items() if key.startswith("socket_")
            }
            transport_options = transport_options | {
                "master_name": self.section.master_name,
                "sentinel_kwargs": timeouts | self._sentinel_options(),
            }
        if self.is_secure and not urlsplit(self.url).query:
            options["broker_use_ssl"] = self._amqp_tls() if self.is_amqp else self._redis_tls()
        return options | {"broker_transport_options": transport_options}

    def _sentinel_options(self) -> dict[str, Any]:
        from redis.backoff import NoBackoff  # noqa: PLC0415  only who has Sentinels needs it
        from redis.retry import Retry  # noqa: PLC0415  the same

        section = self.section
        # A Sentinel that does not answer is not asked again: the next one is.
        options: dict[str, Any] = {"retry": Retry(NoBackoff(), 0)}
        if section.tls:
            options |= {"ssl": True, **self._redis_tls()}
        if section.sentinel_username is not None:
            options["username"] = section.sentinel_username
        if section.sentinel_password is not None:
            options["password"] = section.sentinel_password
        return options

    def _redis_tls(self) -> dict[str, Any]:
        files = {
            "ssl_ca_certs": self.section.trusted_cas,
            "ssl_certfile": self.section.certificate,
            "ssl_keyfile": self.section.private_key,
        }
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            **{key: str(path) for key, path in files.items() if path is not None},
        }

    def _amqp_tls(self) -> dict[str, Any]:
        files = {
            "ca_certs": self.section.trusted_cas,
            "certfile": self.section.certificate,
            "keyfile": self.section.private_key,
        }
        return {
            "cert_reqs": ssl.CERT_REQUIRED,
            "server_hostname": None,  # kombu: the host of the URL, and it is verified
            "tls_minimum_version": ssl.TLSVersion.TLSv1_2,
            **{key: str(path) for key, path in files.items() if path is not None},
        }


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError as error:
        msg = f"broker_url is no URL ({error}): write {_FORMS}"
        raise ValueError(msg) from error
    if parts.scheme not in _SCHEMES:
        msg = f"broker_url begins with no scheme that a broker has: write {_FORMS}"
        raise ValueError(msg)
    return parts


def _require_place(parts: SplitResult, kind: Kind) -> None:
    """Raise ValueError when the URL does not say where the broker is, and what of it is ours."""
    path = unquote(parts.path.removeprefix("/"))
    if kind == "socket":
        if not path:
            msg = "broker_url names no socket: write redis+socket:///PATH/redis.sock"
            raise ValueError(msg)
        return
    if not parts.hostname:
        msg = f"broker_url names no host: write {_FORMS}"
        raise ValueError(msg)
    if kind != "amqp" and path and not (path.isascii() and path.isdigit()):
        msg = f"broker_url ends with /{path}: a database of Redis is a number, as in /0"
        raise ValueError(msg)
    if kind in {"amqp", "sentinel"} and (parts.query or parts.fragment):
        msg = "broker_url must end with its path: TLS and the rest are set in the section broker"
        raise ValueError(msg)


def _require_section(
    section: BrokerSettings, kind: Kind, *, is_secure: bool, has_query: bool
) -> None:
    """Raise ValueError when the section and the scheme contradict each other."""
    of_sentinels = ("master_name", "sentinel_username", "sentinel_password")
    if kind == "sentinel" and not section.master_name:
        msg = "broker_url is sentinel://: set broker.master_name, as in `sentinel monitor NAME …`"
        raise ValueError(msg)
    if kind != "sentinel":
        for name in of_sentinels:
            if getattr(section, name) is not None:
                msg = f"broker.{name} is for sentinel:// alone: leave it out"
                raise ValueError(msg)
        if section.tls and not is_secure:
            secure = "amqps://" if kind == "amqp" else "rediss://"
            msg = f"broker.tls is for sentinel:// alone: write broker_url with {secure}"
            raise ValueError(msg)
    has_files = section.trusted_cas is not None or section.certificate is not None
    if has_files and not (is_secure or section.tls):
        msg = (
            "broker.trusted_cas and broker.certificate are for TLS: write broker_url with "
            "rediss:// or amqps://, or set broker.tls with sentinel://"
        )
        raise ValueError(msg)
    if has_files and has_query:
        msg = "broker_url speaks of TLS after its ?, and so does the section broker: keep one"
        raise ValueError(msg)


def _why(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return error.strerror or type(error).__name__
