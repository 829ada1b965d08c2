"""Retention in trouble holds up nothing else, and never stops for good because of a few files."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
from rejection_bench import Bench, image
from rows import instances
from sqlalchemy import update

from dicom_node import retention
from dicom_node.kept_header import keep_header
from dicom_node.purged_files import sweep_purged
from dicom_node.queue import JobQueue
from dicom_node.retention import Retention
from models.base import utc_now
from models.files import HEADERS, new_key
from models.imaging import Instance, Study
from models.job import Job
from models.sections import RetentionSettings
from models.settings import load_settings
from models.states import JobKind, JobState
from worker.sandbox import Sandbox

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """The decoding child, started once."""
    with Sandbox(load_settings()) as child:
        yield child


@pytest.fixture
def node(
    listen: Listen, redis_server: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """A node without receivers, whose images go after thirty days."""
    monkeypatch.setenv("DICOM_NODE_DISPATCH__SETTLE_SECONDS", "0")
    with ExitStack() as stack:
        running = listen(sections={"retention": {"images_days": 30}})
        queue = JobQueue(redis_server)
        stack.callback(queue.close)
        yield Bench(running.port, running.database, running.settings, queue, sandbox)


def _old(it: Bench, *numbers: int) -> None:
    """Have images that came a month ago, and their study with them."""
    it.send(*(image(number) for number in numbers))
    it.run()
    then = utc_now() - timedelta(days=31)
    with it.database.write() as session:
        session.execute(update(Instance).values(received_at=then))
        session.execute(update(Study).values(last_received_at=then))


def test_jobs_are_published_also_when_retention_cannot_work(
    node: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    lock = node.settings.data_dir / "retention.lock"
    lock.unlink(missing_ok=True)
    lock.mkdir()  # as one that belongs to another user: it cannot be opened
    node.send(image(1))
    node.dispatcher._retention._next_look = 0.0
    node.dispatcher.step()
    (job,) = node.jobs(JobKind.ANALYSE)
    assert job.published_at is not None
    assert "retention" in caplog.text
    caplog.clear()
    node.dispatcher.step()
    assert caplog.text == ""  # it is tried again after its pause, not at once


def test_lost_files_do_not_keep_the_others_from_being_compared(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_COMPARING", 2)
    _old(node, 1, 2, 3)
    for number in (1, 2):
        (node.settings.spool_dir / node.instance(image(number)).storage_key).unlink()
    list(Retention(node.settings, node.database).run())
    node.compare()
    assert len(list(Retention(node.settings, node.database).run())) == 1
    assert node.instance(image(3)).purged_at is not None


def test_retention_that_stops_because_of_many_bad_files_says_so(
    node: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "_SKIPPED", 1)
    _old(node, 1, 2, 3)
    for number in (1, 2):
        (node.settings.spool_dir / node.instance(image(number)).storage_key).unlink()
    assert Retention(node.settings, node.database).step() == 0
    assert "2 images cannot be purged" in caplog.text


def test_an_image_that_no_worker_can_compare_is_kept_and_not_asked_about_for_ever(
    node: Bench,
) -> None:
    _old(node, 1)
    list(Retention(node.settings, node.database).run())
    with node.database.write() as session:
        given_up = update(Job).where(Job.kind == JobKind.COMPARE).values(state=JobState.DEAD)
        session.execute(given_up)
    it = Retention(node.settings, node.database)
    assert list(it.run()) == list(it.preview()) == []
    assert node.jobs(JobKind.COMPARE) == []
    assert [row.purged_at for row in instances(node.database)] == [None]


def test_a_dry_run_names_what_the_floor_takes_of_a_young_study(node: Bench) -> None:
    _old(node, 1)
    with node.database.write() as session:  # its study got another image since
        session.execute(update(Study).values(last_received_at=utc_now()))
        session.execute(update(Instance).values(pixel_sha256="0" * 64))
    wanted = node.settings.retention.model_copy(update={"floor_bytes": 1 << 60})
    settings = node.settings.model_copy(update={"retention": wanted})
    previewed = list(Retention(settings, node.database).preview())
    assert [each.cause for each in previewed] == ["floor"]
    assert list(Retention(settings, node.database).run()) == previewed


def test_an_image_whose_file_was_replaced_meanwhile_is_not_purged(
    node: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    _old(node, 1)
    row = node.instance(image(1))
    root, again = node.settings.spool_dir, new_key(".dcm")
    (root / again).parent.mkdir(exist_ok=True)

    def keep_and_replace(*args: Any) -> bool:  # as intake does when the same bytes come again
        shutil.copy(root / row.storage_key, root / again)
        with node.database.write() as session:
            session.execute(update(Instance).values(storage_key=again))
        return keep_header(*args)

    with node.database.write() as session:
        session.execute(update(Instance).values(pixel_sha256="0" * 64))
    monkeypatch.setattr(retention, "keep_header", keep_and_replace)
    assert list(Retention(node.settings, node.database).run()) == []
    assert node.instance(image(1)).purged_at is None
    assert (root / again).exists()


def test_a_header_whose_file_is_gone_is_kept_under_an_older_database(node: Bench) -> None:
    _old(node, 1)
    with node.database.write() as session:
        session.execute(update(Instance).values(pixel_sha256="0" * 64))
    assert len(list(Retention(node.settings, node.database).run())) == 1
    (header,) = (node.settings.spool_dir / HEADERS).glob("??/*")
    os.utime(header, (0, 0))
    with node.database.write() as session:  # restored from the time before the purge
        session.execute(update(Instance).values(purged_at=None))
    sweep_purged(node.database, node.settings)
    assert header.exists()


def test_what_was_sent_again_goes_last_below_the_floor(node: Bench) -> None:
    _old(node, 1, 2)
    with node.database.write() as session:  # the first came again, because somebody needs it
        session.execute(update(Instance).values(pixel_sha256="0" * 64))
        again = Instance.sop_instance_uid == str(image(1).SOPInstanceUID)
        session.execute(update(Instance).where(again).values(stored_at=utc_now()))
    wanted = RetentionSettings(floor_bytes=1 << 60)
    settings = node.settings.model_copy(update={"retention": wanted})
    previewed = list(Retention(settings, node.database).preview())
    assert [each.id for each in previewed] == [node.instance(image(n)).id for n in (2, 1)]
    assert list(Retention(settings, node.database).run()) == previewed
