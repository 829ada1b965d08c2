"""Which sender a destination has: by the scheme of its URL; without one C-STORE."""

from dicom_node.senders.base import Sender
from dicom_node.senders.cstore import CStoreSender
from dicom_node.senders.fhir import FhirSender
from dicom_node.senders.hl7 import Hl7Sender
from dicom_node.senders.stow import StowSender
from models.settings import Settings


def sender_for(settings: Settings, name: str) -> Sender:
    """Return the sender for the destination of this name."""
    destination = settings.destinations_over_web.get(name)
    if destination is None:
        return CStoreSender.of(settings)
    if destination.protocol == "hl7":
        return Hl7Sender.of(settings, destination)
    if destination.protocol == "fhir":
        return FhirSender.of(settings, destination)
    return StowSender.of(settings, destination)
