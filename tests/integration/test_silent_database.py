"""A PostgreSQL host that is there and says nothing: every wait for it ends, and soon."""

import socket
import time
from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from models.session import Database


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never answers, as a frozen machine does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_host_that_does_not_answer_is_given_up(silent_port: int) -> None:
    """A heartbeat that hangs for minutes loses its lease, and a listener its senders."""
    database = Database(f"postgresql://node@127.0.0.1:{silent_port}/node")
    started = time.monotonic()
    with pytest.raises(OperationalError), database.read() as session:
        session.execute(text("SELECT 1"))
    assert time.monotonic() - started < 60
    database.dispose()


def test_a_connection_that_goes_dead_is_noticed_by_the_kernel(postgres_url: str) -> None:
    """Without these a query on a cut line waits a quarter of an hour."""
    database = Database(postgres_url)
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        parameters = driver.info.get_parameters()
    database.dispose()
    assert {name: parameters[name] for name in ("tcp_user_timeout", "keepalives_idle")} == {
        "tcp_user_timeout": "30000",
        "keepalives_idle": "10",
    }


def test_the_url_has_the_last_word(postgres_url: str) -> None:
    database = Database(f"{postgres_url}{'&' if '?' in postgres_url else '?'}tcp_user_timeout=7000")
    with database.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["tcp_user_timeout"] == "7000"
    database.dispose()
