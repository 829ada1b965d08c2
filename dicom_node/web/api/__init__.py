"""The REST API under `/api/v1`: one file per resource."""

from fastapi import FastAPI

from dicom_node.documents import Documents
from dicom_node.web.api import audit, deliveries, openapi, pictures, studies, system, worklist
from dicom_node.web.api.node import Node
from dicom_node.web.api.streaming import Streams
from models.session import Database
from models.settings import Settings


def install(app: FastAPI, settings: Settings, database: Database, documents: Documents) -> None:
    """Add the API to the application."""
    node = Node(settings, database, documents, Streams(database))
    for each in (studies, pictures, worklist, audit, deliveries, system):
        app.include_router(each.router(node), prefix=openapi.PREFIX)
    app.include_router(openapi.router(app), prefix=openapi.PREFIX)
