"""The web side of a node on a real port, with the database and folders of a test."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from argon2 import PasswordHasher
from fastapi import FastAPI
from rows import open_database
from servers import free_port, wait_until
from starlette.types import ASGIApp

from dicom_node.passwords import Passwords
from dicom_node.web import serve
from dicom_node.web.app import create_app
from dicom_node.web.certificate import Certificate
from models.session import Database
from models.settings import Settings, load_settings

# As quick as argon2 goes: most tests are not about its cost.
QUICK = Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
# What a browser says with a form of our own page, and that a person is to see the answer.
PAGE = {"Sec-Fetch-Site": "same-origin", "Accept": "text/html"}


def web_settings(
    folder: Path,
    database_url: str | None = None,
    sections: Mapping[str, Any] | None = None,
    **web: Any,
) -> Settings:
    """Return settings of a node in a folder, by default with SQLite there."""
    wanted = database_url or f"sqlite:///{folder / 'node.db'}"
    given = {"data_dir": folder / "data", "database_url": wanted, "web": web}
    return load_settings(None, **given, **(sections or {}))


def app_of(settings: Settings, database: Database, passwords: Passwords | None = QUICK) -> FastAPI:
    """Return the application, by default with passwords that cost little."""
    app = create_app(settings, database)
    if passwords is not None:
        access = app.state.access
        access.passwords = passwords
        access.login = replace(access.login, passwords=passwords)
    return app


@contextmanager
def migrated(settings: Settings) -> Iterator[Database]:
    """Yield the database of the settings with the newest schema."""
    with open_database(settings.effective_database_url) as database:
        yield database


@contextmanager
def listening(app: ASGIApp, **options: Any) -> Iterator[None]:
    """Serve an application on a port of this host for a block."""
    given = {"host": "127.0.0.1", "log_config": None, "lifespan": "off", **options}
    server = uvicorn.Server(uvicorn.Config(app, **given))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started, 20, "the web application", every=0.02)
        yield
    finally:
        server.should_exit = server.force_exit = True
        thread.join()


@contextmanager
def serving(
    settings: Settings, database: Database, app: FastAPI | None = None, *, port: int | None = None
) -> Iterator[str]:
    """Serve the application as `dicom-node web` does, and yield its address."""
    where = port or free_port()
    certificate = Certificate.of(settings.web)
    application = serve.only_for(settings.web, app or create_app(settings, database))
    options = serve.options(settings.web, certificate)
    with listening(application, **{**options, "port": where}):
        yield f"http{'s' if certificate else ''}://127.0.0.1:{where}"


@contextmanager
def served(
    settings: Settings, *, passwords: Passwords | None = QUICK, **client: Any
) -> Iterator[tuple[Database, httpx.Client]]:
    """Serve a new node, and yield its database and a client of it."""
    with (
        migrated(settings) as database,
        serving(settings, database, app_of(settings, database, passwords)) as url,
        httpx.Client(base_url=url, timeout=20, **client) as opened,
    ):
        yield database, opened
