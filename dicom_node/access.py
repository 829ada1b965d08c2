"""Who may connect: networks for everybody, and networks to which single AE titles are bound.

Neither is authentication. An address can be taken by whoever is in the network, and an AE title is
typed in; only a certificate (`tls`) proves who a peer is.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Self

from models.fields import Network
from models.sections import DicomSettings


def address_of(text: str) -> IPv4Address | IPv6Address:
    """Return a peer's address; an IPv4 peer of an IPv6 socket (::ffff:10.0.0.1) as IPv4.

    Raises ValueError when `text` is no address.
    """
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_in(address: str, networks: tuple[Network, ...]) -> bool:
    """Say whether an address is in one of the networks."""
    peer = address_of(address)
    return any(peer in network for network in networks)


@dataclass(frozen=True)
class AllowList:
    """The networks that the settings name. Without any, everybody is admitted."""

    networks: tuple[Network, ...] = ()
    bound: tuple[tuple[str, tuple[Network, ...]], ...] = ()

    @classmethod
    def of(cls, dicom: DicomSettings) -> Self:
        """Return the lists of the settings."""
        bound = tuple((peer.ae_title, peer.addresses) for peer in dicom.peers)
        return cls(dicom.allowed_addresses, bound)

    def admits(self, address: str) -> bool:
        """Say whether a connection from this address may ask for an association."""
        return not self.networks or is_in(address, self.networks)

    def admits_as(self, calling_aet: str, address: str) -> bool:
        """Say whether this AE title may call from this address; one that is not bound may."""
        networks = dict(self.bound).get(calling_aet)
        return networks is None or is_in(address, networks)
