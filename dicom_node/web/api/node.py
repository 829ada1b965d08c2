"""What the routes of the API share: one of each per application."""

from dataclasses import dataclass

from dicom_node.documents import Documents
from dicom_node.web.api.streaming import Streams
from models.session import Database
from models.settings import Settings


@dataclass(frozen=True)
class Node:
    """The node as the API sees it."""

    settings: Settings
    database: Database
    documents: Documents
    streams: Streams
