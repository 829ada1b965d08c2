"""A real listener in this process, over every kind of database."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pydicom.config
import pynetdicom.association
import pytest
from message_peers import FhirPeer, MllpPeer
from rows import open_database
from s3_server import S3Server, s3_server
from sqlalchemy import create_engine, text

from dicom_node.listener import Listener
from models.session import METADATA, Database
from models.settings import Settings, load_settings
from worker.sandbox import Sandbox


@dataclass(frozen=True)
class RunningListener:
    """A listener and what it writes to."""

    port: int
    settings: Settings
    database: Database
    listener: Listener

    @property
    def spooled(self) -> list[Path]:
        """Complete files."""
        return sorted(self.settings.spool_dir.glob("??/*.dcm"))

    @property
    def incoming(self) -> list[Path]:
        """Unfinished files."""
        return list((self.settings.spool_dir / "incoming").iterdir())


@pytest.fixture(autouse=True)
def _global_settings() -> Iterator[None]:
    """Put back what a listener sets for its whole process."""
    values = pydicom.config.settings
    saved = (values.reading_validation_mode, values.writing_validation_mode)
    services = vars(pynetdicom.association)["uid_to_service_class"]
    yield
    values.reading_validation_mode, values.writing_validation_mode = saved
    vars(pynetdicom.association)["uid_to_service_class"] = services


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database without anything that works on it."""
    with open_database(database_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def _kept_postgres(_postgres_server: str) -> Iterator[Database]:
    name = f"kept_{uuid4().hex}"
    admin = create_engine(f"{_postgres_server}/postgres", isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    with open_database(f"{_postgres_server}/{name}") as opened:
        yield opened
    admin.dispose()


@pytest.fixture
def emptied_postgres(_kept_postgres: Database) -> Database:
    """A PostgreSQL that all tests of the session share, emptied: for files with many short ones."""
    with _kept_postgres.engine.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
        restart = "SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"
        connection.execute(text(restart))
    return _kept_postgres


@pytest.fixture(params=["sqlite", "postgresql"])
def emptied_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database of each kind without rows; see `emptied_postgres`."""
    if request.param == "postgresql":
        yield request.getfixturevalue("emptied_postgres")
        return
    with open_database(f"sqlite:///{tmp_path / 'node.db'}") as opened:
        yield opened


@pytest.fixture
def listen(tmp_path: Path, database_url: str) -> Iterator[Callable[..., RunningListener]]:
    """Start a listener; keyword arguments are settings of the section `dicom`.

    `sections` are other sections of the settings by name.
    """
    with ExitStack() as stack:

        def start(
            data_dir: Path | None = None,
            objects: dict[str, Any] | None = None,
            sections: dict[str, Any] | None = None,
            **dicom: Any,
        ) -> RunningListener:
            settings = load_settings(
                None,
                data_dir=data_dir or tmp_path / "data",
                database_url=database_url,
                objects=objects,
                dicom={"host": "127.0.0.1", "port": 0, "min_free_bytes": 0} | dicom,
                **(sections or {}),
            )
            database = stack.enter_context(open_database(database_url))
            listener = Listener(settings, database)
            stack.callback(listener.stop)
            return RunningListener(listener.port, settings, database, listener)

        yield start


@pytest.fixture(scope="session")
def _s3_server() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """A running S3 server that this process knows of."""
    for name, value in _s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return _s3_server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """The URL of an empty bucket."""
    return s3.make_bucket(f"b{uuid4().hex}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB that really fills."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The child process that decodes, for all tests of a file."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def ris() -> Iterator[MllpPeer]:
    """A receiver of HL7 messages."""
    with MllpPeer().running() as peer:
        yield peer


@pytest.fixture
def ehr() -> Iterator[FhirPeer]:
    """A receiver of FHIR transactions."""
    with FhirPeer().running() as peer:
        yield peer
