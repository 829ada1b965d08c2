"""Files of purged objects: deleted after their row says so, and swept up where that was cut off."""

import logging
import time
from collections.abc import Iterator
from typing import Final

from sqlalchemy import select

from models.files import HEADERS
from models.imaging import Instance
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.storage import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 3600.0
_BLOCK: Final = 500


def delete_file(store: Store, key: str) -> None:
    """Delete the bytes of a purged object; what the disk refuses is left to the next sweep."""
    try:
        store.delete(key)
    except OSError as error:
        log.error("%s stays until the next sweep: %s", key, error.strerror)  # noqa: TRY400  expected


def sweep_purged(database: Database, settings: Settings) -> int:
    """Delete files whose row says that they are purged, and kept headers of no such row.

    Left by a process that was killed, by a disk that refused, or by bytes that came again.
    Returns how many files it deleted.
    """
    removed = 0
    for store, table in ((settings.image_store, Instance), (settings.artifact_store, Artifact)):
        for keys in _blocks(store):
            is_purged = _known(database, table, keys)
            removed += _delete_all(store, [key for key in keys if is_purged.get(key)])
        # A header is written before its row says purged: one of this hour may wait for that.
        for keys in _blocks(store, HEADERS, older_than_seconds=SWEEP_SECONDS):
            is_purged = _known(database, table, keys)
            # Where the file is gone too, the database is from before the purge: it is all there is.
            unused = [
                key
                for key in keys
                if key not in is_purged or (not is_purged[key] and store.exists(key))
            ]
            removed += _delete_all(store, [f"{HEADERS}/{key}" for key in unused])
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


def _delete_all(store: Store, keys: list[str]) -> int:
    for key in keys:
        delete_file(store, key)
    return len(keys)


def _blocks(store: Store, within: str = "", older_than_seconds: float = 0.0) -> Iterator[list[str]]:
    """Yield the storage keys of files of at least that age, some hundred at once."""
    limit = time.time() - older_than_seconds
    keys: list[str] = []
    for shard in store.shards(within):
        for each in store.listed(shard, within):
            if older_than_seconds and each.modified > limit:
                continue
            keys.append(each.key)
            if len(keys) == _BLOCK:
                yield keys
                keys = []
    if keys:
        yield keys
