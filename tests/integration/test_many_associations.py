"""More senders at once than a default SCP takes: all are stored, none twice, the limit is kept."""

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from builders import CR, chest_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import func, select

from dicom_node.listener import Listener
from dicom_node.mended import MENDED
from models.imaging import Instance
from models.job import Job
from models.sections import DicomSettings
from models.session import METADATA, Database
from models.settings import Settings

pytestmark = pytest.mark.timeout(290)

_SENDERS = 120


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'node.db'}")
    METADATA.create_all(database.engine)
    yield database
    database.dispose()


@pytest.fixture
def listener(
    tmp_path: Path, database: Database, request: pytest.FixtureRequest
) -> Iterator[Listener]:
    """A listener with the association limit that the test asks for, by default the product's."""
    limit = getattr(request, "param", DicomSettings().max_associations)
    dicom = DicomSettings(
        host="127.0.0.1",
        port=0,
        max_associations=limit,
        min_free_bytes=0,
        network_timeout_seconds=240,  # the first sender waits for the last, all in one process
    )
    listener = Listener(Settings(data_dir=tmp_path, dicom=dicom), database)
    yield listener
    listener.stop()


def _associate(port: int) -> Association:
    ae = AE("TESTSCU")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 240
    ae.add_requested_context(CR, ExplicitVRLittleEndian)
    return ae.associate("127.0.0.1", port, ae_title="NODE", evt_handlers=[MENDED])


def _send(port: int, number: int, together: threading.Barrier) -> int | None:
    """Hold an association open until every sender has one, then store one image."""
    assoc = _associate(port)
    together.wait(240)
    if not assoc.is_established:
        return None
    try:
        return assoc.send_c_store(chest_dataset(seed=f"many-{number}")).get("Status")
    finally:
        assoc.release()


def test_120_associations_at_once_are_all_stored(listener: Listener, database: Database) -> None:
    together = threading.Barrier(_SENDERS)
    with ThreadPoolExecutor(_SENDERS) as pool:
        work = [pool.submit(_send, listener.port, n, together) for n in range(_SENDERS)]
        answers = Counter(each.result() for each in work)
    assert answers == {0x0000: _SENDERS}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == _SENDERS
        assert session.scalar(select(func.count()).select_from(Job)) == _SENDERS


def test_one_object_sent_by_120_at_once_is_stored_once(
    listener: Listener, database: Database
) -> None:
    together = threading.Barrier(_SENDERS)
    with ThreadPoolExecutor(_SENDERS) as pool:
        work = [pool.submit(_send, listener.port, 1, together) for _ in range(_SENDERS)]
        answers = Counter(each.result() for each in work)
    assert answers == {0x0000: _SENDERS}
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(Instance)) == 1
        assert session.scalar(select(func.count()).select_from(Job)) == 1


@pytest.mark.parametrize("listener", [12], indirect=True)
def test_the_association_beyond_the_limit_is_refused_as_transient(listener: Listener) -> None:
    held = [_associate(listener.port) for _ in range(12)]
    try:
        assert all(each.is_established for each in held)
        refused = _associate(listener.port)
        assert refused.is_rejected
        answer = refused.acceptor.primitive
        assert answer is not None
        # PS3.8 9.3.4: rejected transient, service provider (presentation), local limit exceeded
        assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 2)
    finally:
        for each in held:
            each.release()
