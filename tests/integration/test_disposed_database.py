"""A database is closed while threads still use it: nothing of it stays open."""

from typing import Any

import pytest
from sqlalchemy import text

from models.session import Database


@pytest.fixture
def database(database_url: str) -> Database:
    return Database(database_url)


def _is_closed(connection: Any) -> bool:
    try:
        connection.execute("SELECT 1").close()
    except Exception as error:  # noqa: BLE001  each driver has its own
        return "closed" in str(error)
    return False


def test_what_is_given_back_after_the_end_is_closed(database: Database) -> None:
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        database.dispose()
        assert connection.scalar(text("SELECT 1")) == 1  # whoever works on may finish
    assert _is_closed(driver)


def test_a_straggler_leaves_nothing_open(database: Database) -> None:
    database.dispose()
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
    assert _is_closed(driver)


def test_before_the_end_connections_are_kept(database: Database) -> None:
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
    assert not _is_closed(driver)
    database.dispose()
    assert _is_closed(driver)
