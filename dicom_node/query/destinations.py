"""Whom C-MOVE may send to, and the sender that does it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from dicom_node.errors import UnknownDestinationError
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender
from models.sections import DestinationSettings, RemoteAESettings
from models.settings import Settings


@dataclass(frozen=True)
class MoveDestinations:
    """The receivers by AE title; `sender` speaks TLS to those that want it."""

    receivers: Mapping[str, Receiver]
    sender: CStoreSender

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the receivers of results, and those that are set for C-MOVE.

        One set for C-MOVE takes the place of a receiver with its title; the first of two receivers
        of results counts.
        """
        every: list[DestinationSettings | RemoteAESettings] = [
            *(each for each in reversed(settings.destinations) if each.url is None),
            *settings.query_retrieve.move_destinations,
        ]
        chosen = {each.ae_title: each for each in every}
        with_tls = frozenset(title for title, each in chosen.items() if each.tls)
        return cls(
            {title: Receiver(title, title, each.host, each.port) for title, each in chosen.items()},
            replace(CStoreSender.of(settings), tls_receivers=with_tls),
        )

    def receiver(self, ae_title: str) -> Receiver:
        """Return where to send. Raises UnknownDestinationError when no setting says it."""
        try:
            return self.receivers[ae_title]
        except KeyError:
            msg = "query_retrieve.move_destinations has no such AE title"
            raise UnknownDestinationError(msg) from None
