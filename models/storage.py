"""Where the bytes of stored objects are: by key, in a folder, or in a store that hosts share.

A key is made by the node, names one object for ever and is never written twice; so a copy of its
bytes is either right or not there. A `Store` is one folder. A `SharedStore` keeps the truth in an
object store (S3) and uses its folder as this host's cache: `path` brings the bytes when they are
not here, `write` and `take_in` return after the object store has them.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

from models.files import HEADERS, atomic_write, fsync_directory, make_directory
from models.object_store import ObjectStore, StorageError
from models.storage_cache import Cache

__all__ = ["SharedStore", "StorageError", "Store", "Stored", "store_of"]

_SHARDS: Final = list("0123456789abcdef")  # what keys begin with


@dataclass(frozen=True)
class Stored:
    """One object of a listing. `modified` is in seconds of the epoch."""

    key: str
    modified: float


class Store:
    """The objects of one folder."""

    is_shared = False

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """Return where the bytes are on this host; there is no file when they are lost.

        Raises StorageError when a shared storage cannot be asked.
        """
        return self.root / key

    def place(self, key: str) -> Path:
        """Return where the bytes are, or will be, on this host, without a look."""
        return self.root / key

    def path_of(self, key: str, purged_at: datetime | None) -> Path:
        """Return the file of a stored object, or what retention kept of a purged one.

        That is all in front of the pixels, under the same key below `headers`.
        """
        return self.path(key if purged_at is None else f"{HEADERS}/{key}")

    def name(self, key: str) -> str:
        """Return how a person finds the object."""
        return str(self.root / key)

    def size(self, key: str) -> int:
        """Return how many bytes are stored. Raises FileNotFoundError, OSError."""
        return (self.root / key).stat().st_size

    def exists(self, key: str) -> bool:
        """Say whether the bytes are stored. Raises StorageError."""
        return (self.root / key).exists()

    def stamp(self, key: str) -> tuple[float, int]:
        """Return what changes when the bytes do. Raises FileNotFoundError, OSError."""
        found = (self.root / key).stat()
        return found.st_mtime_ns, found.st_size

    def read_again(self, key: str) -> Path:
        """Return where the bytes are, as the storage has them now and not a copy of before."""
        return self.path(key)

    def write(self, key: str, data: bytes) -> None:
        """Store bytes, durably. Raises OSError; there is then no such object."""
        atomic_write(self.root / key, data)

    def take_in(self, temporary: Path, key: str) -> Path:
        """Store a file that is durable already; return where it is now. Raises OSError."""
        final = self.root / key
        _rename(temporary, final)
        try:
            fsync_directory(final.parent)
        except OSError:
            final.unlink(missing_ok=True)
            raise
        return final

    def delete(self, key: str) -> None:
        """Delete the bytes; missing is fine. Raises OSError."""
        (self.root / key).unlink(missing_ok=True)

    def set_aside(self, key: str, folder: str) -> None:
        """Move the bytes out of sight of listings, for a person to look at. Raises OSError."""
        aside = self.root / folder
        make_directory(aside)
        (self.root / key).rename(aside / Path(key).name)

    def tidy(self) -> None:
        """Let go of what is only a copy and unused; cheap enough to be called all the time."""

    def probe(self) -> str:
        """Say where the objects are, after trying it. Raises OSError."""
        return str(self.root)

    def shards(self, within: str = "") -> list[str]:
        """Return the beginnings of keys that there are, in order."""
        return sorted(each.name for each in (self.root / within).glob("[0-9a-f][0-9a-f]"))

    def listed(self, shard: str, within: str = "") -> Iterator[Stored]:
        """Yield the objects whose keys begin with `shard`; those of `within`, e.g. `headers`."""
        for entry in os.scandir(self.root / within / shard):
            if not entry.name.startswith("."):
                with contextlib.suppress(FileNotFoundError):
                    yield Stored(f"{shard}/{entry.name}", entry.stat().st_mtime)


class SharedStore(Store):
    """The objects below a URL of an object store, with the folder `root` as a cache of them."""

    is_shared = True

    def __init__(self, root: Path, remote: ObjectStore, cache: Cache) -> None:
        super().__init__(root)
        self._remote = remote
        self._cache = cache

    def path(self, key: str) -> Path:
        """Return where the bytes are on this host, brought from the object store when needed."""
        path = self.root / key
        if path.exists():
            self._cache.used(path)
        else:
            self._bring(key, path)
        return path

    def _bring(self, key: str, path: Path) -> None:
        self._cache.make_room()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            with contextlib.suppress(FileNotFoundError):
                self._remote.get(key, temporary)
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)

    def name(self, key: str) -> str:
        """Return the URL."""
        return self._remote.url_of(key)

    def size(self, key: str) -> int:
        """Return how many bytes the object store has."""
        return self._remote.info(key).size

    def exists(self, key: str) -> bool:
        """Say whether the object store has the bytes."""
        try:
            self._remote.info(key)
        except FileNotFoundError:
            return False
        return True

    def stamp(self, key: str) -> tuple[float, int]:
        """Return what changes when the bytes do; of a listing that may be half a minute old."""
        found = self._remote.seen_lately(key)
        return found.modified, found.size

    def read_again(self, key: str) -> Path:
        """Bring the bytes again."""
        (self.root / key).unlink(missing_ok=True)
        return self.path(key)

    def write(self, key: str, data: bytes) -> None:
        """Store bytes; when this returns, the object store has them."""
        self._cache.make_room()
        self._remote.put(key, data)
        with contextlib.suppress(OSError):  # a cache
            atomic_write(self.root / key, data)

    def take_in(self, temporary: Path, key: str) -> Path:
        """Store a file; when this returns, the object store has it, and it is a cached one."""
        self._cache.make_room()
        self._remote.put_file(key, temporary)
        final = self.root / key
        try:
            _rename(temporary, final)
        except OSError:  # a cache
            temporary.unlink(missing_ok=True)
        return final

    def delete(self, key: str) -> None:
        """Delete the bytes there and here; other hosts' caches let go of them by age."""
        self._remote.delete(key)
        super().delete(key)

    def set_aside(self, key: str, folder: str) -> None:
        """Move the bytes below `folder` of the object store."""
        self._remote.move(key, f"{folder}/{Path(key).name}")
        super().delete(key)

    def tidy(self) -> None:
        """Keep the cache to its size and age."""
        self._cache.make_room()

    def probe(self) -> str:
        """Write, read and delete an object. Raises StorageError."""
        key = f"probe/{secrets.token_hex(8)}"
        self._remote.put(key, key.encode())
        size = self._remote.info(key).size
        self._remote.delete(key)
        if size != len(key):
            msg = f"{self._remote.url_of(key)} has {size} bytes instead of {len(key)}"
            raise StorageError(msg)
        return self._remote.url_of("")

    def shards(self, within: str = "") -> list[str]:  # noqa: ARG002  one listing per shard says it
        """Return all beginnings that keys can have, few: each is a question to the store."""
        return _SHARDS

    def listed(self, shard: str, within: str = "") -> Iterator[Stored]:
        """Yield the objects that the object store has below `shard`."""
        folder = f"{within}/" if within else ""
        for each in self._remote.find(f"{folder}{shard}"):
            key = each.key.removeprefix(folder)
            if key[2:3] == "/":  # else it lies in another folder, e.g. of what was set aside
                yield Stored(key, each.modified)


def _rename(path: Path, final: Path) -> None:
    try:
        path.rename(final)
    except FileNotFoundError:  # a restored backup may lack empty folders
        make_directory(final.parent)
        path.rename(final)


@cache
def store_of(root: Path, url: str | None, cache_bytes: int, cache_hours: float) -> Store:
    """Return the one store of this process at that place."""
    if url is None:
        return Store(root)
    return SharedStore(root, ObjectStore(url), Cache(root, cache_bytes, cache_hours * 3600.0))
