"""A node whose objects are in S3: intake, analysis, ledger, scrub and retention on several hosts.

Each host here is a data folder of its own; only database, broker and bucket are common.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from builders import chest_dataset
from flow import phantom, running_flow
from pydantic import ValidationError
from rows import instances
from s3_server import S3Server
from senders import store
from sqlalchemy import update

from dicom_node.demo.pacs import StoragePacs
from dicom_node.doctor import examine_storage
from dicom_node.ledger import compute
from dicom_node.recovery import OrphanSweep
from dicom_node.retention import Retention
from dicom_node.scrub import Fault, Scrub, ScrubFilter
from dicom_node.spool import Spool
from models.base import utc_now
from models.files import HEADERS
from models.imaging import Instance, Study
from models.settings import Settings, load_settings
from models.states import InstanceState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind: what is asked here is not about the database."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture
def front(listen: Listen, bucket: str) -> Any:
    """The host that listens."""
    return listen(sections={"storage_url": f"{bucket}/node"})


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[StoragePacs]:
    """Who gets the results."""
    with closing(StoragePacs(tmp_path / "pacs", "PACS")) as made:
        yield made


def _on(host: Path, settings: Settings) -> Settings:
    """Return the settings of another host."""
    return settings.model_copy(update={"data_dir": host})


def _held(s3: S3Server, bucket: str, folder: str) -> list[str]:
    begin = f"node/{folder}/"
    keys = s3.keys(bucket.removeprefix("s3://"))
    return [key.removeprefix(begin) for key in keys if key.startswith(begin)]


def _lose_caches(*hosts: Settings) -> None:
    for settings in hosts:
        for folder in (settings.spool_dir, settings.artifact_dir):
            shutil.rmtree(folder, ignore_errors=True)


def test_success_means_that_the_storage_has_it(front: Any, s3: S3Server, bucket: str) -> None:
    assert store(front.port, chest_dataset(PatientID="P1")) == 0x0000
    (instance,) = instances(front.database)
    assert _held(s3, bucket, "images") == [instance.storage_key]
    assert front.incoming == []
    assert all(line.balanced for line in compute(front.database, front.settings))


def test_a_study_goes_through_hosts_that_share_nothing_else(
    front: Any, pacs: StoragePacs, redis_server: str, tmp_path: Path
) -> None:
    assert store(front.port, phantom(PatientID="P1")) == 0x0000
    back, third = (_on(tmp_path / name, front.settings) for name in ("back", "third"))
    with running_flow(front.database, back, redis_server, pacs) as flow:
        flow.run()
        assert flow.unbalanced() == []
        assert {str(ds.Modality) for ds in flow.at_pacs().values()} == {"SEG", "SR"}
    _lose_caches(front.settings, back)
    assert all(line.balanced for line in compute(front.database, third))


@pytest.mark.parametrize("fault", ["frozen", "bucket"])
def test_without_the_storage_a_sender_is_told(
    front: Any, s3: S3Server, bucket: str, fault: str
) -> None:
    name = bucket.removeprefix("s3://")
    if fault == "frozen":
        s3.freeze()
    else:
        s3.client.delete_bucket(Bucket=name)
    try:
        assert store(front.port, chest_dataset(PatientID="P1")) == 0xA700
    finally:
        s3.thaw()
    assert (instances(front.database), front.incoming) == ([], [])
    if fault == "bucket":
        s3.make_bucket(name)
    assert store(front.port, chest_dataset(PatientID="P1")) == 0x0000
    assert len(instances(front.database)) == 1


def test_a_job_waits_for_the_storage_and_loses_no_attempt(
    front: Any, s3: S3Server, bucket: str, redis_server: str, tmp_path: Path
) -> None:
    assert store(front.port, phantom(PatientID="P1")) == 0x0000
    name, (key,) = bucket.removeprefix("s3://"), _held(s3, bucket, "images")
    back = _on(tmp_path / "back", front.settings)
    kept = s3.client.get_object(Bucket=name, Key=f"node/images/{key}")["Body"].read()
    s3.client.delete_object(Bucket=name, Key=f"node/images/{key}")
    s3.client.delete_bucket(Bucket=name)
    with running_flow(front.database, back, redis_server) as flow:
        with pytest.raises(OSError, match="cannot be used"):
            flow.run()
        (instance,) = instances(front.database)
        assert instance.state is InstanceState.QUEUED
        s3.make_bucket(name)
        s3.client.put_object(Bucket=name, Key=f"node/images/{key}", Body=kept)


def test_what_a_dead_listener_left_in_the_storage_gets_its_row(
    front: Any, s3: S3Server, bucket: str, tmp_path: Path
) -> None:
    assert store(front.port, chest_dataset(PatientID="P1")) == 0x0000
    (key,) = _held(s3, bucket, "images")
    name = bucket.removeprefix("s3://")
    begin, _, rest = key.partition("/")
    copy = f"{begin}/{begin}{'0' * 30}.{rest.split('.', 1)[1]}"
    s3.client.copy_object(
        Bucket=name, Key=f"node/images/{copy}", CopySource=f"{name}/node/images/{key}"
    )
    other = _on(tmp_path / "other", front.settings)
    quick = other.dispatch.model_copy(update={"orphan_seconds": 0.01})
    other = other.model_copy(update={"dispatch": quick})
    time.sleep(1.1)  # S3 tells whole seconds
    sweep = OrphanSweep(front.database, other, Spool(other.image_store, 0))
    assert sweep.run() == 1
    assert _held(s3, bucket, "images") == [key]  # the same bytes again: nothing new
    assert sweep.run() == 0


def test_a_scrub_reads_the_storage_and_not_the_cache(front: Any, s3: S3Server, bucket: str) -> None:
    assert store(front.port, chest_dataset(PatientID="P1")) == 0x0000
    (key,) = _held(s3, bucket, "images")
    name = bucket.removeprefix("s3://")
    s3.client.put_object(Bucket=name, Key=f"node/images/{key}", Body=b"\0" * 500)
    (found,) = Scrub(front.settings, front.database, ScrubFilter()).run()
    assert (found.fault, found.path) == (Fault.DAMAGED, f"{bucket}/node/images/{key}")


def test_an_image_that_comes_again_takes_the_place_of_a_lost_one(
    front: Any, s3: S3Server, bucket: str
) -> None:
    ds = chest_dataset(PatientID="P1")
    assert store(front.port, ds) == 0x0000
    (key,) = _held(s3, bucket, "images")
    s3.client.delete_object(Bucket=bucket.removeprefix("s3://"), Key=f"node/images/{key}")
    assert store(front.port, ds) == 0x0000
    (now,) = _held(s3, bucket, "images")
    assert now != key
    assert all(line.balanced for line in compute(front.database, front.settings))


def test_retention_takes_the_pixels_out_of_the_storage_and_leaves_the_header(
    front: Any, pacs: StoragePacs, s3: S3Server, bucket: str, redis_server: str, tmp_path: Path
) -> None:
    assert store(front.port, phantom(PatientID="P1")) == 0x0000
    (key,) = _held(s3, bucket, "images")
    wanted = front.settings.retention.model_copy(update={"images_days": 30})
    back = _on(tmp_path / "back", front.settings).model_copy(update={"retention": wanted})
    with running_flow(front.database, back, redis_server, pacs) as flow:
        flow.run()
        then = utc_now() - timedelta(days=31)
        with front.database.write() as session:
            session.execute(update(Instance).values(received_at=then))
            session.execute(update(Study).values(last_received_at=then))
        retention = Retention(flow.settings, front.database)
        assert list(retention.run()) == []
        flow.run()  # a worker says what the pixels were
        assert len(list(retention.run())) == 1
        assert flow.unbalanced() == []
    assert _held(s3, bucket, "images") == [f"{HEADERS}/{key}"]
    _lose_caches(front.settings, back)
    (instance,) = instances(front.database)
    kept = front.settings.image_store.path_of(key, instance.purged_at)
    assert 0 < kept.stat().st_size < instance.size_bytes / 10


def test_check_tries_the_storage(front: Any, s3: S3Server, bucket: str) -> None:
    def of_storage() -> dict[str, str]:
        return {each.detail: each.name for each in examine_storage(front.settings) if each.ok}

    assert of_storage() == {
        f"{bucket}/node/images/": "storage of images",
        f"{bucket}/node/artifacts/": "storage of artifacts",
    }
    s3.client.delete_bucket(Bucket=bucket.removeprefix("s3://"))
    assert of_storage() == {}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"storage_url": "/mnt/pacs"}, "set storage.spool and storage.artifacts"),
        ({"storage_url": "s3://key:secret@bucket"}, "credentials in the AWS_... variables"),
        (
            {"storage_url": "s3://bucket", "retention": {"floor_bytes": 1 << 40}},
            "delete by retention.images_days",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        load_settings(None, **values)
