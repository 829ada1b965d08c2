"""Who is logged in: sessions of browsers, tokens of programs, and attempts with a password.

A row of time that lies further ahead than the settings can make it was written before the clock was
put back, and counts as past.
"""

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Self

from sqlalchemy import ColumnElement, delete, or_, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, joinedload

from dicom_node.accounts import account_name, new_secret, sha256_of
from dicom_node.errors import AccountError, BusyError
from dicom_node.passwords import Passwords
from models.account import Account, ApiToken, LoginSession, Role
from models.audit import AuditAction, record
from models.base import utc_now
from models.people_sections import WebSettings
from models.session import Database

FAILURES: Final = 5  # wrong passwords in a row; then the account waits
_FIRST_LOCK: Final = timedelta(seconds=30)
_LONGEST_LOCK: Final = timedelta(minutes=15)
_SEEN_EVERY: Final = timedelta(minutes=1)  # a row is not written at each request
_SLACK: Final = timedelta(minutes=1)
_AT_ONCE: Final = 2  # passwords that are checked at the same time: each takes 64 MiB
_PATIENCE_SECONDS: Final = 20.0
_NOTE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Identity:
    """Whom a secret belongs to. `scopes` is None for a browser's session."""

    account_id: int
    name: str
    role: Role
    scopes: frozenset[str] | None = None
    token_id: int | None = None


@dataclass(frozen=True)
class Lifetimes:
    """How long a session lasts: without use, and at most."""

    idle: timedelta
    absolute: timedelta

    @classmethod
    def of(cls, settings: WebSettings) -> Self:
        """Return those of the settings."""
        return cls(timedelta(minutes=settings.idle_minutes), timedelta(hours=settings.login_hours))


def open_session(session: Session, account: Account, lifetimes: Lifetimes) -> str:
    """Return the secret of a new session; sessions that are over go."""
    now = utc_now()
    session.execute(delete(LoginSession).where(LoginSession.expires_at <= now))
    secret = new_secret()
    session.add(
        LoginSession(
            token_sha256=sha256_of(secret),
            account_id=account.id,
            expires_at=now + lifetimes.absolute,
        )
    )
    account.last_login_at = now
    return secret


def session_identity(
    database: Database, secret: str, lifetimes: Lifetimes, *, is_activity: bool = True
) -> Identity | None:
    """Return whose session this is; None when it is over or none.

    `is_activity`: whether the idle time begins anew.
    """
    now = utc_now()
    with database.read() as session:
        found = session.scalar(
            select(LoginSession)
            .where(LoginSession.token_sha256 == sha256_of(secret))
            .options(joinedload(LoginSession.account))
        )
    if found is None or found.account.is_disabled:
        return None
    is_over = not now < found.expires_at <= now + lifetimes.absolute + _SLACK
    if is_over or now - found.last_seen_at > lifetimes.idle:
        return None
    if is_activity and abs(now - found.last_seen_at) >= _SEEN_EVERY:
        _note(database, LoginSession, found.id, last_seen_at=now)
    return Identity(found.account_id, found.account.name, found.account.role)


def end_session(session: Session, secret: str) -> None:
    """Log out."""
    session.execute(delete(LoginSession).where(LoginSession.token_sha256 == sha256_of(secret)))


def token_identity(database: Database, secret: str) -> Identity | None:
    """Return whose token this is; None when it does not work (any more)."""
    now = utc_now()
    with database.read() as session:
        found = session.scalar(
            select(ApiToken)
            .where(ApiToken.token_sha256 == sha256_of(secret))
            .options(joinedload(ApiToken.account))
        )
    if found is None or found.revoked_at is not None or found.account.is_disabled:
        return None
    if found.expires_at <= now:
        return None
    if found.last_used_at is None or abs(now - found.last_used_at) >= _SEEN_EVERY:
        _note(database, ApiToken, found.id, last_used_at=now)
    account = found.account
    return Identity(account.id, account.name, account.role, frozenset(found.scopes), found.id)


def _note(
    database: Database, table: type[LoginSession | ApiToken], row_id: int, **at: datetime
) -> None:
    """Write when a row was used, unless that would have the request wait for other writers."""
    with contextlib.suppress(OperationalError), database.write(_NOTE_SECONDS) as session:
        session.execute(update(table).where(table.id == row_id).values(**at))


@dataclass(frozen=True)
class PasswordLogin:
    """Logs people in by name and password. Wrong ones make an account wait, longer each time.

    Unknown, disabled and waiting accounts are answered alike, after the same work and one commit:
    neither the answer nor its time says which names there are.
    """

    database: Database
    passwords: Passwords
    lifetimes: Lifetimes
    _turns: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(_AT_ONCE)
    )

    def attempt(self, name: str, password: str, peer: str | None) -> str | None:
        """Return the secret of a new session, or None. Raises BusyError under a flood."""

        def opened(session: Session, account: Account) -> str:
            record(session, AuditAction.LOGIN, "password", actor=account.name, peer=peer)
            return open_session(session, account, self.lifetimes)

        return self._checked(name, password, peer, opened)

    def confirm(self, name: str, password: str, peer: str | None) -> bool:
        """Say whether the password is right, of somebody who is logged in. Counts like a login."""
        return self._checked(name, password, peer, lambda _session, _account: "yes") is not None

    def _checked(
        self,
        name: str,
        password: str,
        peer: str | None,
        then: Callable[[Session, Account], str],
    ) -> str | None:
        """Return what `then` says of the account if the password is right, else None."""
        if not self._turns.acquire(timeout=_PATIENCE_SECONDS):
            msg = "too many people log in at once: try again in a minute"
            raise BusyError(msg)
        try:
            account = self._account(name)
            may_try = account is not None and not account.is_disabled and not _waits(account)
            stored = account.password_hash if account is not None and may_try else None
            renewed = self._verified(stored, password)
            with self.database.write() as session:
                if account is not None and stored is not None and renewed is not None:
                    unlocked = _unlocked(session, account.id, stored)
                    if unlocked is not None:
                        unlocked.password_hash = renewed
                        return then(session, unlocked)
                _fail(session, account, peer, counts=may_try)
                return None
        finally:
            self._turns.release()

    def _verified(self, stored: str | None, password: str) -> str | None:
        """Return the hash to keep of a right password: made anew when its parameters are old."""
        if not self.passwords.verify(stored, password) or stored is None:
            return None
        return self.passwords.hash(password) if self.passwords.is_outdated(stored) else stored

    def _account(self, name: str) -> Account | None:
        try:
            wanted = account_name(name)
        except AccountError:
            wanted = ""
        with self.database.read() as session:
            return session.scalar(select(Account).where(Account.name == wanted))


def _unlocked(session: Session, account_id: int, stored: str) -> Account | None:
    """Return the account, unless it began to wait, or changed, while its password was checked."""
    account = session.scalar(
        select(Account)
        .where(Account.id == account_id, Account.password_hash == stored, _is_open(utc_now()))
        .with_for_update()
    )
    if account is not None:
        account.failures, account.locked_until = 0, None
    return account


def _is_open(now: datetime) -> ColumnElement[bool]:
    return ~Account.is_disabled & or_(
        Account.locked_until.is_(None),
        Account.locked_until <= now,
        Account.locked_until > now + _LONGEST_LOCK,
    )


def _waits(account: Account) -> bool:
    now = utc_now()
    return account.locked_until is not None and now < account.locked_until <= now + _LONGEST_LOCK


def _fail(session: Session, account: Account | None, peer: str | None, *, counts: bool) -> None:
    """Count and record a failure. What was typed as a name is not kept: it may be a password."""
    if account is not None and counts:
        failures = session.scalar(
            update(Account)
            .where(Account.id == account.id)
            .values(failures=Account.failures + 1)
            .returning(Account.failures)
        )
        if failures is not None and failures >= FAILURES:
            pause = min(_FIRST_LOCK * 2 ** min(failures - FAILURES, 10), _LONGEST_LOCK)
            session.execute(
                update(Account)
                .where(Account.id == account.id)
                .values(locked_until=utc_now() + pause)
            )
    outcome = "unknown_account" if account is None else "wrong_password" if counts else "shut_out"
    record(
        session,
        AuditAction.LOGIN_FAILED,
        outcome,
        actor=account.name if account else None,
        peer=peer,
    )
