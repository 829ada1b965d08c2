"""Sends every sealed event to the audit repository, seal by seal, at least once.

After the messages of a seal comes the seal itself, as a message of its own: so the repository is an
anchor too. How far it is stands in a row, under a lease, so that of several dispatchers one sends.
"""

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, cast

from sqlalchemy import CursorResult, func, or_, select, update
from sqlalchemy.exc import IntegrityError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from dicom_node.audit.anchor import line_of
from dicom_node.audit.columns import events_by_id, newest_of
from dicom_node.audit.facts import facts_of
from dicom_node.audit.messages import Node, messages, severity_of
from dicom_node.audit.syslog import (
    AUDIT_MESSAGE,
    NOTICE,
    SEAL,
    Line,
    UnconfirmedError,
    UnreachableError,
    frame,
    repository_name,
    send,
)
from dicom_node.errors import StartError
from dicom_node.loop import run_loop
from dicom_node.tls import client_context
from models.audit import AuditAction
from models.base import utc_now
from models.seal import AuditForwarding, AuditMark, AuditSeal
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

_EVENTS: Final = 1000  # of one connection, about
_SEALS: Final = 100
_MESSAGES: Final = _EVENTS + _SEALS
_BELIEVED_AT: Final = 2
_BELIEVED_AGAIN_AT: Final = 5
_PAUSE_SECONDS, _LONGEST_PAUSE = 2.0, 120.0


@dataclass(frozen=True)
class _Batch:
    """Messages that the repository does not have yet, up to that of the seal `last`."""

    key: tuple[int, int | None]  # the position before it, and the newest redaction
    last: int
    frames: list[bytes]


class Forwarder:
    """One sender; `step` sends one batch, or a part of it."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        name: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._database, self._name = settings, database, name
        self._repository = settings.audit.repository
        self._node = Node(socket.gethostname(), settings.dicom.ae_title, self._repository.site)
        self._owner = f"{self._node.host[:60]}:{secrets.token_hex(8)}"
        self._lease = timedelta(seconds=60 + 3 * self._repository.timeout_seconds)
        self._monotonic = monotonic
        self._next_try, self._pause = 0.0, _PAUSE_SECONDS
        self._confirms, self._unconfirmed = False, 0
        self._begun: _Batch | None = None
        self._most = _MESSAGES

    def step(self) -> bool:
        """Send what is sealed and not sent; return whether there was anything."""
        if self._monotonic() < self._next_try:
            return False
        position = self._claim()
        if position is None:
            return False
        try:
            return self._send_after(position)
        except (OSError, StartError) as error:
            self._fail(str(error) or type(error).__name__)
            return False
        except (OperationalError, InterfaceError):
            raise  # without the database nothing could be noted
        except Exception as error:
            self._fail(f"its messages cannot be made ({type(error).__name__})")
            raise

    def _send_after(self, position: int) -> bool:
        """Send some of what follows a position. Raises OSError, StartError.

        A repository that was too slow for a batch gets half of it next time, then more again.
        """
        batch = self._batch_after(position)
        if batch is None:
            return False
        part = batch.frames[: self._most]
        try:
            self._send(part)
        except UnreachableError:
            raise
        except OSError:
            self._most = max(1, len(part) // 2)
            raise
        self._most = min(2 * self._most, _MESSAGES)
        del batch.frames[: len(part)]
        self._begun = batch if batch.frames else None
        self._done(position if batch.frames else batch.last)
        return True

    def _batch_after(self, position: int) -> _Batch | None:
        """Return what is left of a batch that was begun, or the next one; None: all is sent.

        It is made anew after a redaction: what is gone from the audit is not sent any more.
        """
        with self._database.read() as session:
            redaction = newest_of(session, AuditAction.AUDIT_REDACTED)
            newest = session.scalar(select(func.max(AuditSeal.number))) or 0
            batch, key = self._begun, (position, redaction)
            if batch is None or batch.key != key:
                seals = _next_seals(session, position)
                frames = list(self._frames(session, seals))
                batch = _Batch(key, seals[-1].number, frames) if seals else None
        if newest < position:
            self._begin_again(position, newest)
        return batch

    def _send(self, frames: Sequence[bytes]) -> None:
        """Send messages. Raises OSError, StartError unless the repository has them.

        One that never confirms what it has read is believed at the second time, and one that did
        and does not any more at the fifth.
        """
        try:
            send(self._line(), frames)
        except UnconfirmedError:
            self._unconfirmed += 1
            believed_at = _BELIEVED_AGAIN_AT if self._confirms else _BELIEVED_AT
            if self._unconfirmed < believed_at:
                raise
            if self._unconfirmed == believed_at:
                log.warning("the audit repository %s sends no closure alerts", self._name)
            return
        self._confirms, self._unconfirmed = self._repository.tls, 0

    def _line(self) -> Line:
        """Return where to send, with certificates as they are now. Raises StartError."""
        context = client_context(self._settings.dicom.tls) if self._repository.tls else None
        host, port = self._repository.host or "", self._repository.port
        return Line(host, port, self._repository.timeout_seconds, context)

    def _claim(self) -> int | None:
        """Take the lease and return the last seal that was sent; None: another one has it."""
        with contextlib.suppress(IntegrityError), self._database.write() as session:
            if session.get(AuditForwarding, self._name) is None:
                session.add(AuditForwarding(repository=self._name))
        now = utc_now()
        is_free = or_(
            AuditForwarding.lease_owner.is_(None),
            AuditForwarding.lease_owner == self._owner,
            AuditForwarding.lease_until < now,
            AuditForwarding.lease_until > now + 2 * self._lease,  # a clock was put back
        )
        with self._database.write() as session:
            if not self._update(session, is_free, lease_until=now + self._lease):
                return None
            return session.get_one(AuditForwarding, self._name).seal_number

    def _update(self, session: Session, condition: object, **values: object) -> bool:
        statement = update(AuditForwarding).where(AuditForwarding.repository == self._name)
        statement = statement.where(condition).values(lease_owner=self._owner, **values)  # type: ignore[arg-type]  # a clause
        return cast("CursorResult[object]", session.execute(statement)).rowcount == 1

    def _frames(self, session: Session, seals: Sequence[AuditSeal]) -> Iterator[bytes]:
        """Yield the messages of each seal, then the seal."""
        host = self._node.host
        for seal in seals:
            of_seal = select(AuditMark.event_id).where(AuditMark.seal_number == seal.number)
            ids = session.scalars(of_seal.order_by(AuditMark.event_id)).all()
            rows = events_by_id(session, ids)
            events = [row for each in ids if (row := rows.get(each)) is not None]
            for message in messages(events, facts_of(session, events), self._node):
                severity = severity_of(message)
                yield frame(message.xml(), AUDIT_MESSAGE, severity, utc_now(), host)
            yield frame(line_of(seal).encode(), SEAL, NOTICE, seal.sealed_at, host)

    def _begin_again(self, position: int, newest: int) -> None:
        """Go back to the first seal: nobody knows which of those that are there were sent."""
        log.error(
            "seal %d was sent to the audit repository %s, and the database ends with seal %d: rows "
            "were deleted, or an older back-up was restored; everything is sent again",
            *(position, self._name, newest),
        )
        with self._database.write() as session:
            self._update(session, AuditForwarding.lease_owner == self._owner, seal_number=0)

    def _done(self, number: int) -> None:
        mine = AuditForwarding.lease_owner == self._owner
        with self._database.write() as session:
            failed_since = session.get_one(AuditForwarding, self._name).failing_since
            self._update(
                session,
                mine,
                seal_number=number,
                sent_at=utc_now(),
                failing_since=None,
                error=None,
                lease_until=utc_now() + self._lease,
            )
        if failed_since is not None:
            log.info("the audit repository %s takes messages again", self._name)
        self._next_try, self._pause = 0.0, _PAUSE_SECONDS

    def _fail(self, text: str) -> None:
        """Note the failure, say it once, and wait longer and longer."""
        with self._database.write() as session:
            row = session.get_one(AuditForwarding, self._name)
            if row.failing_since is None:
                log.warning("the audit repository %s gets nothing: %s", self._name, text)
            since = row.failing_since or utc_now()
            self._update(
                session,
                AuditForwarding.lease_owner == self._owner,
                failing_since=since,
                error=text[:400],
                lease_until=utc_now(),  # another host may reach it
            )
        self._next_try = self._monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _next_seals(session: Session, after: int) -> list[AuditSeal]:
    """Return the next seals, with some thousand events together at most."""
    query = select(AuditSeal).where(AuditSeal.number > after).order_by(AuditSeal.number)
    chosen: list[AuditSeal] = []
    for seal in session.scalars(query.limit(_SEALS)):
        if chosen and sum(each.events for each in chosen) + seal.events > _EVENTS:
            break
        chosen.append(seal)
    return chosen


@contextmanager
def forwarding(settings: Settings, database: Database, stop: threading.Event) -> Iterator[None]:
    """Send in a thread while the block runs, if a repository is configured. `stop` ends it."""
    name = repository_name(settings.audit.repository)
    if name is None:
        yield
        return
    forwarder = Forwarder(settings, database, name)
    thread = threading.Thread(
        target=run_loop,
        args=(forwarder.step, stop, settings.audit.seal_seconds),
        name="audit-forwarding",
    )
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
