"""The base URL of a DICOM Web server (PS3.18 8.3.1), and what a destination takes from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

WEB_AE_TITLE: Final = "DICOMWEB"  # a web server has none; it stands where the rows want one
_PORTS: Final = {"http": 80, "https": 443}
_NAME_MAX: Final = 64  # as the column


@dataclass(frozen=True)
class WebAddress:
    """Where a DICOM Web server is; `path` has no slash at its end."""

    is_secure: bool
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read a base URL. Raises ValueError that says what is wrong, without the URL's secrets."""
        try:
            parts = urlsplit(url.strip())
            port = parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError as error:
            msg = f"the url of a destination is none ({error})"
            raise ValueError(msg) from error
        if parts.scheme not in _PORTS or not parts.hostname:
            msg = "the url of a destination must be like https://pacs.example/dicom-web"
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
        return cls(parts.scheme == "https", parts.hostname, port, parts.path.rstrip("/"))


def filled_from_url(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a destination with what its url says about host, port and TLS.

    Raises ValueError when they say something else.
    """
    address = WebAddress.parse(str(values["url"]))
    said = {
        "ae_title": WEB_AE_TITLE,
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
