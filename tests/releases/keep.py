"""Keeps what a release leaves on disk, for the tests that upgrade it: run once per release.

    python tests/releases/keep.py CHECKOUT --commit abc1234

CHECKOUT is that release's tree (`git worktree add`). Its own node runs with the libraries of this
environment and takes drawn radiographs, until it holds what it can hold: analysed, not analysed,
set aside, waiting for its study, for a worker, delivered, and due at a receiver that is away. Then
its database and its files become `tests/releases/REVISION.tar.xz`:

    release.json         commit and revision
    sqlite.sql           the database as the node left it
    postgresql.sql       the same rows in the tables that the release makes on PostgreSQL
    data/                spool, artifacts, and the audit's key and anchor where it has them

Pictures (PNG) are left out: they would be most of it. The host's name is taken out of the rows.
"""

import argparse
import contextlib
import io
import json
import os
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import servers
from builders import chest_dataset, write_part10
from nodes import FAST, store
from pydicom.uid import generate_uid
from scipy import ndimage
from servers import free_port, wait_until

from dicom_node.demo.node import NodeProcess
from dicom_node.demo.pacs import StoragePacs
from worker.training.phantom import make_phantom

_HERE = Path(__file__).resolve().parent
_SECONDS = 400.0
# No row says that a release will still decide on an image with another one's UID.
_PAUSE_SECONDS = 8.0
_KEPT = ("spool", "artifacts", "audit.key", "audit-anchor.log")
# Run by the release's own code.
_COPY = """
import sys
from sqlalchemy import insert, select, text
from migrations import schema
from models.session import METADATA, Database

source, target = (Database(url) for url in sys.argv[1:])
schema.upgrade(target)
with source.read() as session, target.engine.begin() as connection:
    for table in METADATA.sorted_tables:
        rows = [dict(row._mapping) for row in session.execute(select(table))]
        if rows:
            connection.execute(insert(table), rows)
        if "id" in table.c and table.c.id.autoincrement and rows:
            last = max(row["id"] for row in rows)
            connection.execute(text(f"SELECT setval('{table.name}_id_seq', {last})"))
"""
_SETTLED = """
SELECT NOT EXISTS (SELECT 1 FROM study JOIN series ON series.study_id = study.id
                   JOIN instance ON instance.series_id = series.id
                   WHERE study.calling_aet <> 'SLOW' AND study.state IN ('open', 'settled')
                   AND instance.state <> 'quarantined')
  AND NOT EXISTS (SELECT 1 FROM job WHERE state IN ('pending', 'leased'))
  AND NOT EXISTS (SELECT 1 FROM delivery JOIN destination ON destination_id = destination.id
                  WHERE destination.ae_title = 'KEPT' AND delivery.state NOT IN ('sent', 'dead'))
  AND (SELECT count(*) FROM instance) >= ?
"""


def _image(path: Path, seed: int, *, is_drawn: bool = True, **attributes: object) -> Path:
    """Write a small radiograph of a study of its own, without noise: so it packs well."""
    uids = {
        name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
    }
    pixels = np.zeros((64, 64), dtype=np.uint16)
    if is_drawn:
        drawn = ndimage.gaussian_filter(make_phantom(seed, 512, 20.0).pixels.astype(float), 3.0)
        pixels = drawn[::2, ::2].astype(np.uint16) >> 10 << 2
    return write_part10(
        path, chest_dataset(pixels=pixels, bits=8, seed=seed, **(uids | attributes))
    )


def _images(folder: Path) -> dict[str, Path]:
    """Write one image per fate."""
    same = {name: generate_uid() for name in ("StudyInstanceUID", "SOPInstanceUID")}
    return {
        "analysed": _image(folder / "1.dcm", 1, **same),
        "corrected": _image(folder / "2.dcm", 1, **same, PatientID="P-1-CORRECTED"),
        "other": _image(folder / "3.dcm", 3, is_drawn=False, **same),
        "refused": _image(folder / "4.dcm", 4, is_drawn=False, BodyPartExamined="KNEE"),
        "nameless": _image(folder / "5.dcm", 5, is_drawn=False, PatientID=None),
        "unsettled": _image(folder / "6.dcm", 6),
        "waiting": _image(folder / "7.dcm", 7),
    }


def _ask(data_dir: Path, query: str, *values: object) -> bool:
    database = f"file:{data_dir / 'node.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(database, uri=True, timeout=30)) as connection:
        return bool(connection.execute(query, values).fetchone()[0])


def _send(port: int, *paths: Path, calling_aet: str = "TESTSCU") -> None:
    if any(statuses := store(port, *paths, calling_aet=calling_aet)):
        raise SystemExit(f"the release answered {statuses}")  # noqa: EM102, TRY003  for a person


@contextlib.contextmanager
def _listening(node: NodeProcess, environment: dict[str, str], port: int) -> Iterator[None]:
    """Run the release's listener, and nothing that would work on what it takes."""
    command = [sys.executable, "-m", "dicom_node", "listen", "--data-dir", str(node.data_dir)]
    environment = {**os.environ, **environment, "DICOM_NODE_DICOM__PORT": str(port)}
    with node.stderr.open("ab") as log:
        process = subprocess.Popen(command, env=environment, stderr=log)
        try:
            wait_until(lambda: servers._answers(port), _SECONDS, "the listener")
            yield
        finally:
            servers._stop(process)


def _run(code: Path, folder: Path) -> Path:
    """Run the release on the images and return its data folder."""
    images, pacs = _images(folder / "images"), StoragePacs(folder / "pacs", ae_title="KEPT")
    environment = FAST | {
        "PYTHONPATH": str(code),
        "PYTHONSAFEPATH": "1",
        "DICOM_NODE_DISPATCH__SETTLE_SECONDS_BY_CALLING_AE": json.dumps({"SLOW": 1e6}),
    }
    port, web_port = free_port(), free_port()
    away = f"AWAY@127.0.0.1:{free_port()}"
    addresses = (f"KEPT@127.0.0.1:{pacs.port}", away)
    node = NodeProcess(
        folder / "data",
        dicom_port=port,
        web_port=web_port,
        pacs=addresses,
        settings=environment,
    )
    try:
        node.start()
        _send(port, images["analysed"], images["analysed"], images["refused"], images["nameless"])
        wait_until(lambda: _ask(node.data_dir, _SETTLED, 3), _SECONDS, "the first studies")
        _send(port, images["corrected"])
        wait_until(lambda: _ask(node.data_dir, _SETTLED, 4), _SECONDS, "the corrected image")
        time.sleep(_PAUSE_SECONDS)
        _send(port, images["other"])
        wait_until(lambda: _ask(node.data_dir, _SETTLED, 5), _SECONDS, "the other image")
        _send(port, images["unsettled"], calling_aet="SLOW")
        wait_until(lambda: _ask(node.data_dir, _SETTLED, 6), _SECONDS, "the study that is open")
    finally:
        node.stop()
        pacs.close()
    with _listening(node, environment, port):
        _send(port, images["waiting"])
    return node.data_dir


def _as_sqlite(data_dir: Path) -> str:
    with contextlib.closing(sqlite3.connect(data_dir / "node.db")) as connection:
        return "\n".join(connection.iterdump())


def _as_postgresql(code: Path, data_dir: Path) -> str:
    binaries = servers.find_postgres()
    if binaries is None:
        raise SystemExit("no PostgreSQL is installed")  # noqa: EM101, TRY003  for a person
    with servers.postgres(binaries) as server, servers.new_database(server) as url:
        command = [sys.executable, "-c", _COPY, f"sqlite:///{data_dir / 'node.db'}", url]
        environment = {**os.environ, "PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}
        subprocess.run(command, env=environment, check=True)
        command = [str(binaries / "pg_dump"), "--inserts", "--no-owner", "--no-privileges"]
        dump = subprocess.run(
            [*command, url.replace("+psycopg", "")], check=True, capture_output=True, text=True
        )
    kept = [line for line in dump.stdout.splitlines() if line and not line.startswith(("--", "\\"))]
    return "\n".join(kept)


def _revision(data_dir: Path) -> str:
    with contextlib.closing(sqlite3.connect(data_dir / "node.db")) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def main() -> None:
    """Run one release and write its archive."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("checkout", type=Path)
    arguments.add_argument("--commit", required=True)
    chosen = arguments.parse_args()
    code = chosen.checkout.resolve()
    with tempfile.TemporaryDirectory(prefix="release-") as scratch:
        data_dir = _run(code, Path(scratch))
        revision = _revision(data_dir)
        host = f"'{socket.gethostname()}:"
        texts = {
            "release.json": json.dumps({"commit": chosen.commit, "revision": revision}),
            "sqlite.sql": _as_sqlite(data_dir).replace(host, "'host:"),
            "postgresql.sql": _as_postgresql(code, data_dir).replace(host, "'host:"),
        }
        target = _HERE / f"{revision}.tar.xz"
        with tarfile.open(target, "w:xz", preset=9) as archive:
            for name, content in texts.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content.encode())
                archive.addfile(entry, io.BytesIO(content.encode()))
            for path in sorted(data_dir.rglob("*")):
                name = str(path.relative_to(data_dir))
                if path.is_file() and name.startswith(_KEPT) and path.suffix != ".png":
                    archive.add(path, f"data/{name}", filter=_without_owner)
    print(f"{target} {target.stat().st_size} bytes")  # noqa: T201  a script


def _without_owner(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    main()
