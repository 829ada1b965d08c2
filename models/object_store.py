"""An object store below one URL, through fsspec, with short waits and one kind of error.

S3 and what speaks like it (MinIO, Ceph, Garage). Credentials and endpoint come as the AWS tools
take them: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and so on, or a file or role.
"""

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

# A C-STORE waits for a write: its sender must get an answer before it gives up.
_CONNECT_SECONDS: Final = 5
_READ_SECONDS: Final = 15
_TRIES: Final = 2
# Whatever happens below: aiohttp waits for ever for the leave to send a body (100 Continue).
_WHOLE_SECONDS: Final = 20.0
_LISTING_SECONDS: Final = 600.0
_LEAST_RATE: Final = 1 << 20  # bytes per second
_FRESH_SECONDS: Final = 30.0


class StorageError(OSError):
    """The shared storage cannot be reached, or refuses. Whatever was asked is worth another try."""

    def __init__(self, problem: str) -> None:
        super().__init__(errno.EIO, problem)


@dataclass(frozen=True)
class ObjectInfo:
    """One object: its key, size in bytes, last change in seconds of the epoch."""

    key: str
    size: int
    modified: float


class ObjectStore:
    """The objects below `url`. For any number of threads, and across forks.

    Raises StorageError throughout; FileNotFoundError where an object is not there.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._bucket = urlsplit(self._url).netloc
        _client()  # its import takes a second: not in the first C-STORE
        self._seen: dict[str, tuple[float, dict[str, ObjectInfo]]] = {}

    def url_of(self, key: str) -> str:
        """Return the URL of an object."""
        return f"{self._url}/{key}"

    def put(self, key: str, data: bytes) -> None:
        """Store bytes under a key. All of them are there afterwards, or none."""
        with self._asked() as files:
            files.pipe_file(self.url_of(key), data, timeout=_patience(len(data)))

    def put_file(self, key: str, path: Path) -> None:
        """Store the bytes of a file under a key. All of them are there afterwards, or none."""
        seconds = _patience(path.stat().st_size)
        with self._asked() as files:
            files.put_file(str(path), self.url_of(key), timeout=seconds)

    def get(self, key: str, path: Path) -> None:
        """Write the bytes of an object into a file."""
        seconds = _patience(self.info(key).size)
        with self._asked() as files:
            files.get_file(self.url_of(key), str(path), timeout=seconds)

    def info(self, key: str) -> ObjectInfo:
        """Return what the store says of an object."""
        with self._asked() as files:
            found = files.info(self.url_of(key), refresh=True, timeout=_WHOLE_SECONDS)
        return self._info(found)

    def delete(self, key: str) -> None:
        """Delete an object; missing is fine."""
        with self._asked() as files:
            files.rm_file(self.url_of(key), timeout=_WHOLE_SECONDS)

    def move(self, key: str, target: str) -> None:
        """Give an object another key."""
        with self._asked() as files:
            files.cp_file(self.url_of(key), self.url_of(target), timeout=_WHOLE_SECONDS)
            files.rm_file(self.url_of(key), timeout=_WHOLE_SECONDS)

    def find(self, prefix: str) -> list[ObjectInfo]:
        """Return all objects whose keys begin with `prefix`; its last part may be half a name."""
        folder, _, begin = self.url_of(prefix).rpartition("/")
        with self._asked() as files:
            found = files.find(folder, prefix=begin, detail=True, timeout=_LISTING_SECONDS)
        return [self._info(each) for each in found.values() if each["type"] == "file"]

    def seen_lately(self, key: str) -> ObjectInfo:
        """Return what is known of an object by a listing that is at most half a minute old."""
        prefix = key[:1]
        at, found = self._seen.get(prefix, (0.0, {}))
        if not at or time.monotonic() - at > _FRESH_SECONDS:
            found = {each.key: each for each in self.find(prefix)}
            self._seen[prefix] = (time.monotonic(), found)
        return found.get(key) or self.info(key)  # it may have come since

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        """Give the file system of fsspec; whatever it raises becomes one of two errors."""
        files = _file_system()
        try:
            yield files
        except FileNotFoundError:
            self._require_bucket(files)
            raise
        except Exception as error:
            raise self._unusable(error) from error

    def _require_bucket(self, files: Any) -> None:  # noqa: ANN401  fsspec has no types
        """Raise StorageError without a bucket: nothing is found there either, and nothing lost."""
        try:
            files.call_s3("head_bucket", Bucket=self._bucket, timeout=_WHOLE_SECONDS)
        except Exception as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> StorageError:
        # The text of a client's error may hold a signed URL.
        return StorageError(
            f"the storage {self._url} cannot be used ({type(error).__name__}): is it up, "
            "does its bucket exist, do AWS_ENDPOINT_URL and the credentials fit?"
        )

    def _info(self, found: dict[str, Any]) -> ObjectInfo:
        modified = found.get("LastModified")
        return ObjectInfo(
            key=f"s3://{found['name']}".removeprefix(f"{self._url}/"),
            size=int(found["size"] or 0),
            modified=modified.timestamp() if modified is not None else 0.0,
        )


def _client() -> Any:  # noqa: ANN401  a module without types
    """Return s3fs. Raises RuntimeError where it is not installed."""
    try:
        import s3fs  # noqa: PLC0415  an extra
    except ImportError:
        msg = "storage_url needs s3fs: pip install 'dicom-node[s3]'"
        raise RuntimeError(msg) from None
    return s3fs


def _file_system() -> Any:  # noqa: ANN401  fsspec has no types
    """Return the file system of this process: fsspec keeps one, and makes another after a fork."""
    files = _client().S3FileSystem(
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": _CONNECT_SECONDS,
            "read_timeout": _READ_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": _TRIES},
            "max_pool_connections": 50,
        },
    )
    files.retries = 1  # beside those of the client below
    return files


def _patience(size: int) -> float:
    """Return for how many seconds so many bytes may travel."""
    return _WHOLE_SECONDS + size / _LEAST_RATE
