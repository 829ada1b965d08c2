"""What all tables share: naming, column types, the clock, and `advance`."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Protocol, cast

from sqlalchemy import CursorResult, DateTime, Dialect, Enum, MetaData, String, update
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column
from sqlalchemy.types import TypeDecorator
from typing_extensions import override

from models.states import ReadingState, State, check_transition

Uid = Annotated[str, mapped_column(String(64))]  # PS3.5 9.1
AETitle = Annotated[str, mapped_column(String(16))]  # PS3.5 6.2
Sha256 = Annotated[str, mapped_column(String(64))]
Key = Annotated[str, mapped_column(String(120))]
Primary = Annotated[int, mapped_column(primary_key=True)]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    @override
    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            msg = "a naive datetime cannot be stored: say which zone it is in"
            raise ValueError(msg)
        return value.astimezone(UTC)

    @override
    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


Timestamp = Annotated[datetime, mapped_column(UtcDateTime)]


def enum_column(kind: type[StrEnum]) -> Enum:
    """Store an enum by its value, as text: readable in SQL, and new members need no ALTER TYPE."""
    return Enum(
        kind,
        values_callable=lambda members: [member.value for member in members],
        native_enum=False,
        create_constraint=False,
        length=40,
    )


class Base(DeclarativeBase):
    """Base of all tables; constraint names are fixed so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Stateful(Protocol):
    """A row with an id and a state column."""

    id: Any  # Mapped[int] on the class, int on the row
    state: Any


def utc_now() -> datetime:
    """Return the current time; the only clock of the rows."""
    return datetime.now(UTC)


# A study has two states: how far it is, and how far its reading is.
_COLUMNS: Final[dict[type[State], str]] = {ReadingState: "reading_state"}


def advance(session: Session, row: Stateful, to: State, **values: object) -> bool:
    """Move `row` to state `to` and set `values`, unless somebody else moved it first.

    One conditional UPDATE decides, so two processes can never both win. Returns False (and leaves
    the row expired, so the next read shows the truth) when the row had moved on.
    Raises IllegalTransitionError when the table forbids the change.
    """
    column = _COLUMNS.get(type(to), "state")
    old: State = getattr(row, column)
    check_transition(old, to)
    session.flush()
    model = type(row)
    result = session.execute(
        update(model)
        .where(model.id == row.id, getattr(model, column) == old)
        .values({column: to, **values})
        .execution_options(synchronize_session=False)
    )
    session.expire(row)
    return cast("CursorResult[object]", result).rowcount == 1
