"""Where a destination with a URL is, and how it is reached."""

import ssl
from dataclasses import dataclass
from typing import Self

from dicom_node.tls import client_context
from models.sections import DestinationSettings, TlsSettings
from models.settings import Settings
from models.web_address import WebAddress


@dataclass(frozen=True)
class Endpoint:
    """One destination with a URL; every wait for it ends after `timeout_seconds`."""

    destination: DestinationSettings
    address: WebAddress
    timeout_seconds: float
    tls: TlsSettings

    @classmethod
    def of(cls, settings: Settings, destination: DestinationSettings) -> Self:
        """Return what the settings say of a destination with a URL."""
        address = WebAddress.parse(destination.url or "")
        return cls(destination, address, settings.delivery.timeout_seconds, settings.dicom.tls)

    def context(self) -> ssl.SSLContext | None:
        """Return what a connection over TLS needs; None without TLS. Raises StartError."""
        return client_context(self.tls) if self.address.is_secure else None

    def not_reached(self, problem: str) -> str:
        """Return the sentence that says why it cannot be reached."""
        return f"{self.address.host} cannot be reached: {problem}"
