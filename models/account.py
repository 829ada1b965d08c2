"""Accounts, their sessions and tokens: who may see and do what on the web side of the node.

Of every secret only a hash is stored.
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column, relationship

from models.base import Base, Primary, Sha256, Timestamp, UtcDateTime, enum_column, utc_now


class Role(StrEnum):
    """What an account may do; each may do what those before it may."""

    VIEWER = "viewer"  # see results, claim and read studies, give feedback
    OPERATOR = "operator"  # see deliveries and the system, retry, see the audit
    ADMIN = "admin"  # accounts and tokens, export of the audit


class Scope(StrEnum):
    """What an API token may be limited to."""

    RESULTS = "results"  # studies, images, figures
    WORKLIST = "worklist"  # claim, read, feedback
    DELIVERIES = "deliveries"
    AUDIT = "audit"
    SYSTEM = "system"  # ledger, destinations, workers
    ACCOUNTS = "accounts"
    STORE = "store"  # objects in, by STOW-RS


class Account(Base):
    """A person or a program with a name, from here or from an identity provider.

    `password_hash` is argon2's; None: no password works (an identity provider vouches, or only
    tokens are used). `issuer` and `subject` are those of OpenID Connect. Never deleted, only
    disabled: the audit names it.
    """

    __tablename__ = "account"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    id: Mapped[Primary]
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[Role] = mapped_column(enum_column(Role))
    password_hash: Mapped[str | None] = mapped_column(String(200))
    issuer: Mapped[str | None] = mapped_column(String(255))
    subject: Mapped[str | None] = mapped_column(String(255))
    is_disabled: Mapped[bool] = mapped_column(default=False, server_default=false())
    failures: Mapped[int] = mapped_column(default=0, server_default="0")
    locked_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    last_login_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class LoginSession(Base):
    """One browser in which somebody is logged in."""

    __tablename__ = "login_session"
    __table_args__ = (Index("ix_login_session_expires_at", "expires_at"),)

    id: Mapped[Primary]
    token_sha256: Mapped[Sha256] = mapped_column(unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    last_seen_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    expires_at: Mapped[Timestamp]

    account: Mapped[Account] = relationship()


class ApiToken(Base):
    """A token for programs. It may do what its role and scopes both allow, until it expires."""

    __tablename__ = "api_token"

    id: Mapped[Primary]
    name: Mapped[str] = mapped_column(String(64))
    token_sha256: Mapped[Sha256] = mapped_column(unique=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    scopes: Mapped[list[Any]] = mapped_column(JSON, default=list)
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    expires_at: Mapped[Timestamp]
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    account: Mapped[Account] = relationship()


class Invitation(Base):
    """A link that makes one account, once.

    `is_first`: the first administrator's, made at a start; it works while nobody has an account.
    """

    __tablename__ = "invitation"

    id: Mapped[Primary]
    token_sha256: Mapped[Sha256] = mapped_column(unique=True)
    role: Mapped[Role] = mapped_column(enum_column(Role))
    is_first: Mapped[bool] = mapped_column(default=False, server_default=false())
    created_at: Mapped[Timestamp] = mapped_column(default=utc_now)
    expires_at: Mapped[Timestamp]
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
