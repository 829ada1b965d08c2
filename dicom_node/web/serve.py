"""Run the web application until a signal ends it."""

import uvicorn

from dicom_node.web.app import create_app
from models.session import Database
from models.settings import Settings


def run(settings: Settings, database: Database) -> None:
    """Serve on `web.host`:`web.port`; uvicorn handles SIGTERM and SIGINT."""
    uvicorn.run(
        create_app(settings, database),
        host=settings.web.host,
        port=settings.web.port,
        log_config=None,
        access_log=False,
    )
