"""What the watch over a worker reads from the rows: of its own host alone."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from rows import add_instance, add_job, open_database, random_uid
from sqlalchemy import update

from models.base import utc_now
from models.job import Job
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, JobState
from worker.watch import Sample, sample_rows


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


def _jobs(database: Database, number: int) -> list[int]:
    """Add published jobs that wait."""
    ids = [
        add_job(
            database,
            add_instance(database, sop_instance_uid=random_uid(), state=InstanceState.QUEUED),
        )
        for _ in range(number)
    ]
    with database.write() as session:
        session.execute(update(Job).values(published_at=utc_now(), not_before=utc_now()))
    return ids


def _set(database: Database, job_id: int, **values: object) -> None:
    with database.write() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**values))


def _look(database: Database, settings: Settings) -> Sample:
    with database.read() as session:
        return sample_rows(session, settings, "deaf")


def test_the_work_of_another_host_is_no_sign_of_life(
    database: Database, settings: Settings
) -> None:
    """A deaf worker would never be started again as long as others do its work."""
    first, *_ = _jobs(database, 3)
    before = _look(database, settings)
    assert before.waiting
    soon = utc_now() + timedelta(seconds=30)
    leased = {"state": JobState.LEASED, "lease_owner": "busy:7", "lease_until": soon}
    _set(database, first, **leased, attempts=1)
    assert _look(database, settings) == before
    _set(database, first, state=JobState.DONE, finished_at=utc_now())
    assert _look(database, settings) == before


def test_its_own_work_is(database: Database, settings: Settings) -> None:
    first, *_ = _jobs(database, 3)
    before = _look(database, settings)
    soon = utc_now() + timedelta(seconds=30)
    leased = {"state": JobState.LEASED, "lease_owner": "deaf:7", "lease_until": soon}
    _set(database, first, **leased, attempts=1)
    assert _look(database, settings).working
    _set(database, first, state=JobState.DONE, finished_at=utc_now())
    after = _look(database, settings)
    assert (after.waiting, after.mark == before.mark) == (True, False)
