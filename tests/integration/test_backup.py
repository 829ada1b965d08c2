"""Backup while the node works, restore into an empty folder: nothing lost, nothing doubled."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest
import servers
from pydicom.uid import generate_uid
from rejection_bench import Archive, Bench, archive, image
from rows import instances
from senders import store
from sqlalchemy import make_url, text

from dicom_node.backup import backup_database
from dicom_node.errors import OperatorError
from dicom_node.queue import JobQueue
from dicom_node.retention import locked
from models.session import Database
from models.settings import Settings, load_settings
from models.states import JobKind
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py

# As docs/operations.md has them; $NODE stands for the data folder, $TO for that of the backup.
FILES = 'tar -C "$NODE" --exclude=incoming -cf "$TO/files.tar" spool artifacts || test $? = 1'
LOCK, UNLOCK = 'exec 9> "$NODE/retention.lock" && flock 9', "exec 9>&-"
SQLITE = ('dicom-node db backup --data-dir "$NODE" "$TO/node.db"', FILES)
POSTGRES = ('pg_dump --format=custom --file="$TO/node.dump" "$URL"', FILES)
RESTORE_SQLITE = 'cp "$TO/node.db" "$NODE/node.db"'
RESTORE_POSTGRES = 'pg_restore --no-owner --dbname="$URL" "$TO/node.dump"'
RESTORE_FILES = 'tar -C "$NODE" -xf "$TO/files.tar"'


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def pacs(tmp_path: Path, dcmtk: Callable[[str], Path]) -> Iterator[Archive]:
    """A PACS that accepts everything; one file per SOP Instance UID."""
    with archive(dcmtk("storescp"), tmp_path / "pacs") as made:
        yield made


@pytest.fixture
def empty_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """URL of the database to restore into: of the same kind as `database_url`, and empty."""
    if database_url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path / 'restored' / 'node.db'}"
        return
    url = make_url(database_url)
    name = f"{url.database}_restored"
    server = url.set(database="postgres").render_as_string(hide_password=False)
    _psql(server, f"CREATE DATABASE {name}")
    yield url.set(database=name).render_as_string(hide_password=False)
    _psql(server, f"DROP DATABASE {name} WITH (FORCE)")


def _psql(url: str, statement: str) -> None:
    _shell(f'psql --quiet "$URL" --command="{statement}"', Path(), Path(), url)


def _shell(script: str, node: Path, to: Path, url: str) -> None:
    """Run lines of the document, with our own programs in front."""
    binaries = [str(Path(sys.executable).parent)]
    if (postgres := servers.find_postgres()) is not None:
        binaries.append(str(postgres))
    path = os.pathsep.join([*binaries, os.environ["PATH"]])
    plain = url.replace("+psycopg", "")
    environment = os.environ | {"NODE": str(node), "TO": str(to), "URL": plain, "PATH": path}
    environment["DICOM_NODE_DATABASE_URL"] = url
    done = subprocess.run(
        ["sh", "-ec", script], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def _backup(settings: Settings, to: Path) -> None:
    """Do what the document says: the database first, the files second, retention waiting."""
    url = settings.effective_database_url
    lines = SQLITE if url.startswith("sqlite") else POSTGRES
    to.mkdir()
    _shell("\n".join((LOCK, *lines, UNLOCK)), settings.data_dir, to, url)


def _restore(to: Path, node: Path, url: str) -> None:
    node.mkdir(exist_ok=True)
    database = RESTORE_SQLITE if url.startswith("sqlite") else RESTORE_POSTGRES
    _shell(f"{database}\n{RESTORE_FILES}", node, to, url)


class Traffic:
    """A modality that sends one study after the other."""

    def __init__(self, port: int) -> None:
        self.answered: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        servers.wait_until(lambda: len(self.answered) > 2, 60, "traffic")
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.2):  # a modality takes its time, and so does what follows
            ds = study()
            if store(self._port, ds) == 0x0000:
                self.answered.append(str(ds.SOPInstanceUID))


def study() -> object:
    """One image in a study of its own."""
    return image(1, StudyInstanceUID=generate_uid(), SOPInstanceUID=generate_uid())


@pytest.fixture
def bench(redis_server: str, sandbox: Sandbox) -> Iterator[Callable[..., Bench]]:
    """Give the roles of a node beside a listener."""
    queue = JobQueue(redis_server)
    yield lambda it: Bench(it.port, it.database, it.settings, queue, sandbox)
    queue.close()


def _destination(pacs: Archive) -> str:
    return f'[{{"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": {pacs.port}}}]'


def test_a_restored_node_goes_on_where_the_backup_was_made(
    listen: Listen,
    bench: Callable[..., Bench],
    pacs: Archive,
    empty_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DICOM_NODE_DESTINATIONS", _destination(pacs))
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    running = listen()
    node = bench(running)
    done, waiting = study(), study()
    node.send(done)
    node.run()
    sent = {path: path.stat().st_mtime_ns for path in pacs.folder.iterdir()}
    assert len(sent) == 2
    node.send(waiting)  # its job is pending in the backup
    with Traffic(node.port) as traffic:
        before = list(traffic.answered)
        _backup(node.settings, tmp_path / "backup")
    node.run()  # what was pending is delivered after the backup: the PACS has it already
    running.listener.stop()
    delivered = {path.name for path in pacs.folder.iterdir()}
    assert len(delivered) == 2 * (2 + len(traffic.answered))

    restored = tmp_path / "restored"
    _restore(tmp_path / "backup", restored, empty_url)
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", empty_url)
    settings = load_settings(None, data_dir=restored, dispatch={"orphan_seconds": 0.01})
    database = Database(empty_url)
    try:
        again = bench(_Restored(settings, database))
        assert again.jobs(JobKind.ANALYSE)
        again.run()
        known = {row.sop_instance_uid for row in instances(database)}
        assert {*before, str(done.SOPInstanceUID), str(waiting.SOPInstanceUID)} <= known
        assert again.unbalanced == []
        assert all(row.state == "analysed" for row in instances(database))
    finally:
        database.dispose()
    # Whatever was sent again is the object that the PACS has, by its UID; what the backup knows
    # to be sent is not sent again.
    assert {path.name for path in pacs.folder.iterdir()} == delivered
    assert {path: path.stat().st_mtime_ns for path in sent} == sent
    command = [sys.executable, "-m", "dicom_node", "ledger", "--data-dir", str(restored)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


class _Restored:
    """The restored node, whose listener no one calls."""

    port = 0

    def __init__(self, settings: Settings, database: Database) -> None:
        self.settings, self.database = settings, database


def test_files_after_the_database_leave_orphans_and_no_loss(
    listen: Listen, bench: Callable[..., Bench], tmp_path: Path
) -> None:
    """The order: an image that comes in between has a file and no row, and is swept in."""
    node = bench(listen())
    node.send(study())
    target = tmp_path / "copy.db"
    if not node.database.is_sqlite:
        with pytest.raises(OperatorError, match="pg_dump"):
            backup_database(node.database, target)
        return
    size = backup_database(node.database, target)
    assert size == target.stat().st_size
    node.send(study())
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM instance").fetchone() == (1,)
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert [path.name for path in tmp_path.glob(".copy*")] == []
    with pytest.raises(OperatorError, match="exists"):
        backup_database(node.database, target)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "a b#c"
    database = Database(f"sqlite:///{folder / 'node.db'}")
    with database.write() as session:
        session.execute(text("CREATE TABLE t (c)"))
    try:
        backup_database(database, folder / "copy.db")
    finally:
        database.dispose()
    with closing(sqlite3.connect(folder / "copy.db")) as copy:
        assert copy.execute("SELECT name FROM sqlite_master").fetchall() == [("t",)]


def test_what_is_not_there_is_not_backed_up(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(OperatorError, match="there is no database"):
        backup_database(database, tmp_path / "copy.db")
    database.dispose()
    assert not (tmp_path / "copy.db").exists()


def test_a_backup_keeps_retention_waiting(tmp_path: Path) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    with locked(settings) as is_ours:
        assert is_ours
    held = subprocess.Popen(["flock", tmp_path / "retention.lock", "cat"], stdin=subprocess.PIPE)

    def is_held() -> bool:
        with locked(settings) as is_ours:
            return not is_ours

    servers.wait_until(is_held, 20, "flock has it")
    held.communicate()
    with locked(settings) as is_ours:
        assert is_ours


def test_the_document_has_these_commands(repository: Path) -> None:
    document = (repository / "docs" / "operations.md").read_text()
    for lines in (SQLITE, POSTGRES):
        assert "\n".join((LOCK, *lines, UNLOCK)) in document
    for line in (RESTORE_SQLITE, RESTORE_POSTGRES, RESTORE_FILES):
        assert line in document
