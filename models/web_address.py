"""The URL of a destination, and what follows from it: DICOM Web (PS3.18 8.3.1), HL7 v2, FHIR."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

Protocol = Literal["stow", "hl7", "fhir"]

# Such a receiver has none; it stands where the rows want one.
AE_TITLES: Final[dict[Protocol, str]] = {"stow": "DICOMWEB", "hl7": "HL7", "fhir": "FHIR"}
_PORTS: Final = {"http": 80, "https": 443}
# Protocol, TLS, port; 2575 is registered for HL7.
_SCHEMES: Final[dict[str, tuple[Protocol, bool, int]]] = {
    "http": ("stow", False, 80),
    "https": ("stow", True, 443),
    "hl7": ("hl7", False, 2575),
    "hl7s": ("hl7", True, 2575),
    "fhir+http": ("fhir", False, 80),
    "fhir+https": ("fhir", True, 443),
}
_NAME_MAX: Final = 64  # as the column


@dataclass(frozen=True)
class WebAddress:
    """Where a server is and what it speaks; `path` has no slash at its end."""

    protocol: Protocol
    is_secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a URL. Raises ValueError that says what is wrong, without the URL's secrets."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port
        except ValueError as error:
            msg = f"the url of a destination is none ({error})"
            raise ValueError(msg) from error
        if parts.scheme not in _SCHEMES or not parts.hostname:
            msg = (
                "the url of a destination must be like https://pacs.example/dicom-web, "
                "hl7://ris.example:2575 or fhir+https://ehr.example/fhir"
            )
            raise ValueError(msg)
        if parts.username is not None or parts.password is not None:
            msg = "the url of a destination must hold no password: use headers_file"
            raise ValueError(msg)
        if parts.query or parts.fragment or not url.strip().isprintable() or " " in url.strip():
            msg = "the url of a destination must end with its path: no ?, no #, no space"
            raise ValueError(msg)
        if not url.isascii():
            msg = "the url of a destination must be ASCII: write its host in punycode"
            raise ValueError(msg)
        protocol, is_secure, default_port = _SCHEMES[parts.scheme]
        path = parts.path.rstrip("/")
        if protocol == "hl7" and path:
            msg = (
                "the url of an HL7 destination is host and port alone, like hl7://ris.example:2575"
            )
            raise ValueError(msg)
        return cls(protocol, is_secure, parts.hostname, port or default_port, path)


def filled_from_url(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a destination with what its url says about host, port and TLS.

    Raises ValueError when they say something else.
    """
    address = WebAddress.parse(str(values["url"]))
    said = {
        "ae_title": AE_TITLES[address.protocol],
        "host": address.host,
        "port": address.port,
        "tls": address.is_secure,
    }
    differing = [
        key for key, value in said.items() if key != "ae_title" and values.get(key, value) != value
    ]
    if differing:
        msg = f"its url says {', '.join(differing)}: leave that out"
        raise ValueError(msg)
    return {**said, **values}


def short_name(address: str) -> str:
    """Return a name for a destination that has none: its address, cut where it is too long."""
    if len(address) <= _NAME_MAX:
        return address
    return f"{address[: _NAME_MAX - 9]}-{hashlib.sha256(address.encode()).hexdigest()[:8]}"


def is_site(url: str) -> bool:
    """Say whether this is the address of a web site alone: scheme, host, port, nothing else."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment, parts.username, parts.password)
    return parts.scheme in _PORTS and bool(parts.hostname) and not any(rest)


def is_safe_address(url: str) -> bool:
    """Say whether what is said to this URL cannot be read on the way: TLS, or this very host."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "http":
            return parts.hostname == "localhost" or ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False
    return parts.scheme == "https" and bool(parts.hostname)
