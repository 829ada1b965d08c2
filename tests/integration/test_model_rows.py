"""Workers that start at the same moment share the row of their model."""

import threading
from pathlib import Path

import sqlalchemy as sa
from rows import open_database
from servers import wait_until

from models.base import utc_now
from models.result import ModelVersion
from models.session import Database
from models.storage import Store
from worker.results import ResultStore
from worker.types import ModelIdentity

_WEIGHTS = ModelIdentity("unet", "9.9.9", "0" * 64)
_WAITS = """
    SELECT count(*) = 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_the_slower_of_two_workers_takes_the_row_of_the_faster(
    postgres_url: str, tmp_path: Path
) -> None:
    found: list[int] = []
    with open_database(postgres_url) as database:
        slower = ResultStore(database, Store(tmp_path))
        thread = threading.Thread(target=lambda: found.append(slower.register_model(_WEIGHTS, "x")))
        values = {"name": "unet", "version": "9.9.9", "sha256": "0" * 64, "created_at": utc_now()}
        faster = sa.insert(ModelVersion).values(**values).returning(ModelVersion.id)
        with database.write() as session:
            row_id = session.scalar(faster)
            thread.start()
            wait_until(lambda: _waits(database), 60, "the slower")
        thread.join(60)
        assert found == [row_id]
        with database.read() as session:
            assert session.scalars(sa.select(ModelVersion.card)).all() == ["x"]


def _waits(database: Database) -> bool:
    with database.read() as session:  # a transaction sees one state of this view
        return bool(session.scalar(sa.text(_WAITS)))
