"""Files of purged objects: deleted after their row says so, and swept up where that was cut off."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sqlalchemy import select

from models.files import HEADERS
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 3600.0
_BLOCK: Final = 500


def delete_file(path: Path) -> None:
    """Delete the bytes of a purged object; what the disk refuses is left to the next sweep."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.error("%s stays until the next sweep: %s", path.name, error.strerror)  # noqa: TRY400  expected


def sweep_purged(database: Database, settings: Settings) -> int:
    """Delete files whose row says that they are purged, and kept headers of no such row.

    Left by a process that was killed, by a disk that refused, or by bytes that came again.
    Returns how many files it deleted.
    """
    removed = 0
    for root, table in ((settings.spool_dir, Instance), (settings.artifact_dir, Artifact)):
        for keys in _blocks(root):
            is_purged = _known(database, table, keys)
            removed += _delete_all(root, [key for key in keys if is_purged.get(key)])
        # A header is written before its row says purged: one of this hour may wait for that.
        for keys in _blocks(root / HEADERS, older_than_seconds=SWEEP_SECONDS):
            is_purged = _known(database, table, keys)
            # Where the file is gone too, the database is from before the purge: it is all there is.
            unused = [
                key
                for key in keys
                if key not in is_purged or (not is_purged[key] and (root / key).exists())
            ]
            removed += _delete_all(root / HEADERS, unused)
    if removed:
        log.info("%d files of purged objects deleted", removed)
    return removed


def _known(
    database: Database, table: type[Instance] | type[Artifact], keys: list[str]
) -> dict[str, bool]:
    """Return which of the keys have a row, and whether it is purged."""
    query = select(table.storage_key, table.purged_at).where(table.storage_key.in_(keys))
    with database.read() as session:
        return {key: purged_at is not None for key, purged_at in session.execute(query)}


def _delete_all(root: Path, keys: list[str]) -> int:
    for key in keys:
        delete_file(root / key)
    return len(keys)


def _blocks(root: Path, older_than_seconds: float = 0.0) -> Iterator[list[str]]:
    """Yield the storage keys of files of at least that age below a folder, some hundred at once."""
    limit = time.time() - older_than_seconds
    keys: list[str] = []
    for shard in sorted(root.glob("[0-9a-f][0-9a-f]")):
        for entry in os.scandir(shard):
            if older_than_seconds and entry.stat().st_mtime > limit:
                continue
            keys.append(f"{shard.name}/{entry.name}")
            if len(keys) == _BLOCK:
                yield keys
                keys = []
    if keys:
        yield keys
