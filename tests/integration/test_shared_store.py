"""Stored objects in S3, with the folder of a host as a cache: what a host may rely on."""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from s3_server import S3Server

from models.files import HEADERS
from models.storage import SharedStore, StorageError, store_of
from models.storage_cache import Cache

KEY = "ab/ab12.dcm"
Host = Callable[..., SharedStore]


@pytest.fixture
def host(bucket: str, tmp_path: Path) -> Host:
    """Make the store of a host of that name."""

    def make(name: str, cache_bytes: int = 1 << 30, hours: float = 24.0) -> SharedStore:
        store = store_of(tmp_path / name, f"{bucket}/images", cache_bytes, hours)
        assert isinstance(store, SharedStore)
        return store

    return make


def test_another_host_has_the_bytes_that_one_wrote(host: Host) -> None:
    host("one").write(KEY, b"bytes")
    path = host("two").path(KEY)
    assert path.read_bytes() == b"bytes"
    assert "/two/" in str(path)
    assert host("two").size(KEY) == 5


def test_a_received_file_is_in_the_storage_when_it_is_taken_in(host: Host, tmp_path: Path) -> None:
    part = tmp_path / "one" / "incoming" / "x.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"received")
    assert host("one").take_in(part, KEY).read_bytes() == b"received"
    assert not part.exists()
    assert host("two").path(KEY).read_bytes() == b"received"


def test_what_is_lost_is_a_path_without_a_file(host: Host) -> None:
    store = host("one")
    assert not store.path(KEY).exists()
    assert not store.exists(KEY)
    with pytest.raises(FileNotFoundError):
        store.size(KEY)
    with pytest.raises(FileNotFoundError):
        store.stamp(KEY)


def test_bytes_are_deleted_and_deleting_twice_is_fine(host: Host) -> None:
    store = host("one")
    store.write(KEY, b"bytes")
    store.delete(KEY)
    store.delete(KEY)
    assert not store.exists(KEY)
    assert not store.path(KEY).exists()


def test_reading_again_brings_what_the_storage_has(host: Host) -> None:
    store = host("one")
    store.write(KEY, b"right")
    store.path(KEY).write_bytes(b"wrong")
    assert store.read_again(KEY).read_bytes() == b"right"


def test_listings_name_what_the_storage_has(host: Host) -> None:
    host("one").write(KEY, b"image")
    host("one").write(f"{HEADERS}/{KEY}", b"header")
    two = host("two")
    listed = [each for shard in two.shards() for each in two.listed(shard)]
    assert [each.key for each in listed] == [KEY]
    assert abs(listed[0].modified - time.time()) < 600
    kept = [each.key for shard in two.shards(HEADERS) for each in two.listed(shard, HEADERS)]
    assert kept == [KEY]


def test_what_is_set_aside_is_out_of_sight_and_not_gone(
    host: Host, s3: S3Server, bucket: str
) -> None:
    store = host("one")
    store.write(KEY, b"damaged")
    store.set_aside(KEY, "damaged")
    assert not store.exists(KEY)
    assert s3.keys(bucket.removeprefix("s3://")) == ["images/damaged/ab12.dcm"]


def test_a_stamp_changes_with_the_bytes(host: Host) -> None:
    host("one").write(KEY, b"bytes")
    first = host("two").stamp(KEY)
    assert first[1] == 5
    assert host("two").stamp(KEY) == first


def test_a_storage_that_is_frozen_is_an_error_in_time(host: Host, s3: S3Server) -> None:
    """A C-STORE must get its refusal before its sender gives up."""
    store = host("one")
    store.write(KEY, b"bytes")
    s3.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(StorageError, match=r"the storage s3://\S+ cannot be used"):
            store.write("cd/cd34.dcm", b"bytes")
        assert time.monotonic() - began < 60
        assert store.path(KEY).read_bytes() == b"bytes"  # what is here needs nobody
    finally:
        s3.thaw()
    assert host("two").path(KEY).read_bytes() == b"bytes"


def test_a_bucket_that_does_not_exist_says_where_to_look(tmp_path: Path, s3: S3Server) -> None:
    assert s3.is_up()
    store = store_of(tmp_path, "s3://nowhere/images", 1, 1.0)
    with pytest.raises(StorageError, match="AWS_ENDPOINT_URL"):
        store.write(KEY, b"bytes")


def test_threads_share_a_store(host: Host) -> None:
    one, two = host("one"), host("two")
    keys = [f"{number:02x}/{number:02x}.dcm" for number in range(32)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: one.write(key, key.encode()), keys))
        found = list(pool.map(lambda key: two.path(key).read_bytes(), keys * 2))
    assert found == [key.encode() for key in keys * 2]


def test_a_forked_child_asks_for_itself(host: Host) -> None:
    store = host("one")
    store.write(KEY, b"bytes")
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if host("two").path(KEY).read_bytes() == b"bytes" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.exists(KEY)


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def _cached(root: Path, name: str, seconds: float, size: int = 10) -> Path:
    path = root / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    _age(path, seconds)
    return path


def test_a_cache_lets_go_of_what_nobody_used(tmp_path: Path) -> None:
    old, young = _cached(tmp_path, "ab1", 7200), _cached(tmp_path, "ab2", 1800)
    kept_header = _cached(tmp_path / HEADERS, "ab3", 7200)
    arriving = tmp_path / "incoming" / "x.part"
    arriving.parent.mkdir()
    arriving.touch()
    _age(arriving, 7200)
    Cache(tmp_path, 1 << 30, 3600.0).make_room()
    assert (old.exists(), young.exists(), kept_header.exists()) == (False, True, False)
    assert arriving.exists()


def test_a_cache_keeps_to_its_size_but_never_takes_what_is_in_use(tmp_path: Path) -> None:
    paths = [_cached(tmp_path, f"ab{age}", age) for age in (900, 800, 700, 10)]
    Cache(tmp_path, 20, 3600.0).make_room()
    assert [path.exists() for path in paths] == [False, False, True, True]
    Cache(tmp_path, 0, 3600.0).make_room()
    assert [path.exists() for path in paths] == [False, False, False, True]


def test_a_cache_is_looked_at_once_a_minute(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 1 << 30, 3600.0)
    cache.make_room()
    late = _cached(tmp_path, "ab1", 7200)
    cache.make_room()
    assert late.exists()


def test_use_keeps_a_file_in_the_cache(host: Host) -> None:
    store = host("one")
    store.write(KEY, b"bytes")
    _age(store.path(KEY), 7200)
    assert time.time() - store.path(KEY).stat().st_mtime < 600
