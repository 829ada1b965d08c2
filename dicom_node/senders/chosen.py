"""Which sender a destination has: STOW-RS where it has a URL, else C-STORE."""

from dicom_node.senders.base import Sender
from dicom_node.senders.cstore import CStoreSender
from dicom_node.senders.stow import StowSender
from models.settings import Settings


def sender_for(settings: Settings, name: str) -> Sender:
    """Return the sender for the destination of this name."""
    over_web = settings.destinations_over_web.get(name)
    if over_web is None:
        return CStoreSender.of(settings)
    return StowSender.of(settings, over_web)
