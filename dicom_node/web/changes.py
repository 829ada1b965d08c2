"""Live pages: tells open pages that something changed, by server-sent events, and never what.

The audit is the source: every act writes an event in its own transaction. One task per process asks
for new ones while somebody listens. Ids may be committed out of their order (PostgreSQL), so a
change can be missed, and what time makes late is no event: pages look for themselves once a minute.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakSet

from anyio import to_thread
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from models.audit import AuditAction, AuditEvent
from models.session import Database

log = logging.getLogger(__name__)

MOST_STREAMS: Final = 100
MOST_OF_ONE: Final = 8  # of one account: windows of a browser
_LOOK_SECONDS: Final = 2.0
_TICK_SECONDS: Final = 0.5  # how soon a stream sees that the node ends
_BEAT_SECONDS: Final = 15.0  # below the time for which proxies let a connection rest
_LONGEST_SECONDS: Final = 900.0  # then the browser asks again, and must be allowed again
_AT_ONCE: Final = 1000
_A = AuditAction

# Table: which pages an event changes. What people read is an event too, and changes none.
_TOPICS: Final[dict[str, frozenset[AuditAction]]] = {
    "worklist": frozenset(
        {
            *(_A.INSTANCE_STORED, _A.INSTANCE_RECOVERED, _A.INSTANCE_ANALYSED, _A.REPORT_STORED),
            *(_A.INSTANCE_WITHDRAWN, _A.INSTANCE_COMPARED, _A.QUARANTINE_ENDED),
            *(_A.STUDY_REPLAYED, _A.PATIENT_MERGED, _A.STUDY_CLAIMED, _A.STUDY_RELEASED),
            *(_A.STUDY_READ, _A.READING_REOPENED),
        }
    ),
    "deliveries": frozenset(
        {
            *(_A.DELIVERIES_PLANNED, _A.ARTIFACT_SENT, _A.DELIVERIES_DUE_AGAIN),
            *(_A.DESTINATION_CIRCUIT, _A.ARTIFACT_COMMITTED),
        }
    ),
    "quarantine": frozenset({_A.INSTANCE_STORED, _A.INSTANCE_COMPARED, _A.QUARANTINE_ENDED}),
}


class TooManyStreamsError(Exception):
    """Nobody more can listen now."""


@dataclass(eq=False)
class _Listener:
    who: str
    topics: set[str] = field(default_factory=set)
    position: int = 0  # the newest event that it was told of, or was there at its beginning


class Changes:
    """The streams of one process. All but `close` runs in the event loop."""

    def __init__(self, database: Database, look_seconds: float = _LOOK_SECONDS) -> None:
        self._database = database
        self._look_seconds = look_seconds
        # Weak, so that a stream whose reader went before it began counts no more.
        self._listeners: WeakSet[_Listener] = WeakSet()
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def close(self) -> None:
        """End every stream soon, and let no new one begin. For signal handlers, too."""
        self._is_closed = True

    def listen(
        self, who: str, is_gone: Callable[[], Awaitable[bool]], since: int | None = None
    ) -> AsyncIterator[bytes]:
        """Return the stream of one page, until its reader is gone.

        `since` is the newest event when the page was made: what came after it is told at once.
        Raises TooManyStreamsError.
        """
        of_one = sum(1 for each in self._listeners if each.who == who)
        if self._is_closed or len(self._listeners) >= MOST_STREAMS or of_one >= MOST_OF_ONE:
            raise TooManyStreamsError
        listener = _Listener(who)
        self._listeners.add(listener)
        return self._stream(listener, is_gone, since)

    async def _stream(
        self, listener: _Listener, is_gone: Callable[[], Awaitable[bool]], since: int | None
    ) -> AsyncIterator[bytes]:
        began = said = time.monotonic()
        self._look_on()
        try:
            yield b"retry: 5000\n\n"
            if since is not None:
                newest, actions = await self._ask(since)
                listener.position = newest or 0
                listener.topics |= _topics(actions)
            while not self._is_closed and time.monotonic() - began < _LONGEST_SECONDS:
                await asyncio.sleep(_TICK_SECONDS)
                if await is_gone():
                    break
                if listener.topics:
                    topics, listener.topics = sorted(listener.topics), set()
                    yield _message(topics, listener.position)
                elif time.monotonic() - said >= _BEAT_SECONDS:
                    yield b": still here\n\n"
                else:
                    continue
                said = time.monotonic()
        finally:
            self._listeners.discard(listener)

    def _look_on(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        """Ask for new events while somebody listens."""
        last: int | None = None
        while self._listeners and not self._is_closed:
            last, actions = await self._ask(last)
            topics = _topics(actions)
            for listener in self._listeners:
                listener.topics |= topics
                listener.position = max(listener.position, last or 0)
            await asyncio.sleep(self._look_seconds)

    async def _ask(self, since: int | None) -> tuple[int | None, list[AuditAction]]:
        """Return the newest event, and what happened since; without the database: `since`."""
        try:
            return await to_thread.run_sync(self._read, since)
        except SQLAlchemyError as error:
            log.warning("live pages without the database: %s", type(error).__name__)
            return since, []

    def _read(self, since: int | None) -> tuple[int, list[AuditAction]]:
        with self._database.read() as session:
            if since is None:
                return newest_event(session), []
            query = select(AuditEvent.id, AuditEvent.action).where(AuditEvent.id > since)
            rows = session.execute(query.order_by(AuditEvent.id).limit(_AT_ONCE)).all()
        return (rows[-1].id if rows else since), [row.action for row in rows]


def newest_event(session: Session) -> int:
    """Return the id of the newest event: where a page stands that is made now."""
    return session.scalar(select(func.max(AuditEvent.id))) or 0


def _topics(actions: Sequence[AuditAction]) -> set[str]:
    """Return the kinds of pages that changed: all of them after very many events."""
    if len(actions) >= _AT_ONCE:
        return set(_TOPICS)
    return {name for name, wanted in _TOPICS.items() if not wanted.isdisjoint(actions)}


def _message(topics: Sequence[str], position: int) -> bytes:
    """Return what is sent. A browser that comes back says the id of the last one it got."""
    return f"id: {position}\nevent: changed\ndata: {' '.join(topics)}\n\n".encode()
