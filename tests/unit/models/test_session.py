"""How long a connection to PostgreSQL is waited for."""

import pytest
from sqlalchemy import event

from models.session import Database


class _Asked(Exception):
    """What the driver was asked for."""


@pytest.mark.parametrize(
    ("query", "wanted"),
    [("", (10, 30_000)), ("?connect_timeout=3&tcp_user_timeout=5000", ("3", "5000"))],
)
def test_a_host_that_vanished_is_not_waited_for_long(
    query: str, wanted: tuple[object, object]
) -> None:
    database = Database(f"postgresql://nobody@192.0.2.1/none{query}")

    @event.listens_for(database.engine, "do_connect")
    def _ask(_dialect: object, _record: object, _args: object, values: dict[str, object]) -> None:
        raise _Asked(values["connect_timeout"], values["tcp_user_timeout"])

    with pytest.raises(_Asked) as asked:
        database.engine.connect()
    assert asked.value.args == wanted
