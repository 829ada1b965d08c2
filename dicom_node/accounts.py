"""Accounts, invitations and tokens in the rows: made, changed, listed, each change in the audit."""

import hashlib
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.errors import AccountError
from models.account import Account, ApiToken, Invitation, LoginSession, Role
from models.audit import AuditAction, record
from models.base import utc_now

TOKEN_PREFIX: Final = "dnt_"  # noqa: S105  how a token begins, so that scanners of secrets know it
INVITATION_HOURS: Final = 24
TOKEN_DAYS: Final = 90
MAX_TOKEN_DAYS: Final = 3650
_NAME_LENGTH: Final = 64
_NAME_SIGNS: Final = frozenset("._@+-")


@dataclass(frozen=True)
class Actor:
    """Who changes something, and from where: an account, or a user of the operating system."""

    name: str | None
    peer: str | None = None


def new_secret(prefix: str = "") -> str:
    """Return 256 random bits as text that fits into a URL, a header and a cookie."""
    return prefix + secrets.token_urlsafe(32)


def sha256_of(secret: str) -> str:
    """Return what is stored of a secret. It is random, so a fast hash cannot be guessed back."""
    return hashlib.sha256(secret.encode()).hexdigest()


def account_name(text: str) -> str:
    """Return the name as it is stored: small letters, so that nobody is there twice.

    Raises AccountError when it cannot be a name.
    """
    name = unicodedata.normalize("NFKC", text).strip().casefold()
    if not 0 < len(name) <= _NAME_LENGTH or not all(
        each.isalnum() or each in _NAME_SIGNS for each in name
    ):
        msg = f"an account's name has 1 to {_NAME_LENGTH} letters, digits and . _ @ + -"
        raise AccountError(msg)
    return name


def named(session: Session, name: str) -> Account:
    """Return the account of this name. Raises AccountError when there is none."""
    found = session.scalar(select(Account).where(Account.name == account_name(name)))
    if found is None:
        msg = f"no account is named {name!r}: `dicom-node account list` names them all"
        raise AccountError(msg)
    return found


def has_accounts(session: Session) -> bool:
    """Say whether anybody has an account."""
    return session.scalar(select(Account.id).limit(1)) is not None


def add(
    session: Session,
    name: str,
    role: Role,
    actor: Actor,
    *,
    password_hash: str | None = None,
    issuer: str | None = None,
    subject: str | None = None,
) -> Account:
    """Make an account. Raises AccountError when the name is taken or cannot be one."""
    wanted = account_name(name)
    taken = f"there is an account named {wanted} already: take another name"
    if session.scalar(select(Account.id).where(Account.name == wanted)) is not None:
        raise AccountError(taken)
    account = Account(
        name=wanted, role=role, password_hash=password_hash, issuer=issuer, subject=subject
    )
    session.add(account)
    try:
        session.flush()
    except IntegrityError as error:  # somebody else took it a moment ago
        raise AccountError(taken) from error
    _changed(session, account, "created", actor)
    return account


def signed_on(
    session: Session, issuer: str, subject: str, name: str, role: Role, peer: str | None
) -> Account:
    """Return the account of whom an identity provider vouches for, with the role that it gives.

    Raises AccountError when it is disabled here, or its name is that of another account: nobody
    takes over a local account by being called like it.
    """
    account = _vouched_for(session, issuer, subject)
    if account is None:
        actor = Actor(_fitting_name(name or subject), peer)
        return add(session, actor.name or "", role, actor, issuer=issuer, subject=subject)
    if account.is_disabled:
        msg = f"the account {account.name} is disabled: ask an administrator"
        raise AccountError(msg)
    if account.role != role:
        account.role = role
        _changed(session, account, "role_changed", Actor(account.name, peer))
    return account


def without_role(session: Session, issuer: str, subject: str, peer: str | None) -> None:
    """End the sessions and tokens of whom the provider knows, but gives no role any more."""
    account = _vouched_for(session, issuer, subject)
    if account is None:
        return
    end_sessions(session, account)
    _end_tokens(session, account)
    _changed(session, account, "without_role", Actor(account.name, peer))


def _vouched_for(session: Session, issuer: str, subject: str) -> Account | None:
    """Return the account, which nobody disables before this transaction has ended."""
    return session.scalar(
        select(Account)
        .where(Account.issuer == issuer, Account.subject == subject)
        .with_for_update()
        .execution_options(populate_existing=True)
    )


def _fitting_name(text: str) -> str:
    """Return the nearest name that an account can have: `DOMAIN/user` has a sign too many."""
    name = unicodedata.normalize("NFKC", text).strip().casefold()
    return "".join(each if each.isalnum() or each in _NAME_SIGNS else "-" for each in name)[
        :_NAME_LENGTH
    ]


def change_role(session: Session, account: Account, role: Role, actor: Actor) -> None:
    """Give an account another role. Raises AccountError for the last administrator."""
    if account.role == role:
        return
    if role != Role.ADMIN:
        _require_another_admin(session, account)
    account.role = role
    _changed(session, account, "role_changed", actor)


def disable(session: Session, account: Account, actor: Actor) -> None:
    """Shut an account out at once, with its sessions and tokens. Raises AccountError as above."""
    if account.is_disabled:
        return
    _require_another_admin(session, account)
    account.is_disabled = True
    session.flush()  # a login or a new token either ended before this, or finds it
    end_sessions(session, account)
    _end_tokens(session, account)
    _changed(session, account, "disabled", actor)


def enable(session: Session, account: Account, actor: Actor) -> None:
    """Let an account in again, also one that is locked after wrong passwords.

    The tokens that it had when it was disabled stay ended.
    """
    account.is_disabled, account.failures, account.locked_until = False, 0, None
    _changed(session, account, "enabled", actor)


def set_password(session: Session, account: Account, password_hash: str, actor: Actor) -> None:
    """Give an account another password; whoever is logged in with the old one is not any more."""
    account.password_hash = password_hash
    account.failures, account.locked_until = 0, None
    end_sessions(session, account)
    _changed(session, account, "password_set", actor)


def end_sessions(session: Session, account: Account) -> None:
    """Log an account out everywhere."""
    session.execute(delete(LoginSession).where(LoginSession.account_id == account.id))


def _end_tokens(session: Session, account: Account) -> None:
    session.execute(
        update(ApiToken)
        .where(ApiToken.account_id == account.id, ApiToken.revoked_at.is_(None))
        .values(revoked_at=utc_now())
    )


def invite(session: Session, role: Role, actor: Actor, *, hours: float = INVITATION_HOURS) -> str:
    """Return the secret of a new link that makes one account of this role, once."""
    secret = new_secret()
    session.add(
        Invitation(
            token_sha256=sha256_of(secret), role=role, expires_at=utc_now() + timedelta(hours=hours)
        )
    )
    _record(session, AuditAction.ACCOUNT_CHANGED, "invited", actor, role=role.value)
    return secret


def invite_first(session: Session) -> str | None:
    """Return the secret of the first administrator's link; None when there are accounts.

    An earlier one is void from now on.
    """
    if has_accounts(session):
        return None
    session.execute(delete(Invitation).where(Invitation.is_first))
    secret = invite(session, Role.ADMIN, Actor(None))
    session.execute(
        update(Invitation).where(Invitation.token_sha256 == sha256_of(secret)).values(is_first=True)
    )
    return secret


def invitation(session: Session, secret: str) -> Invitation | None:
    """Return the invitation of a link that still works.

    The first administrator's works only while nobody has an account.
    """
    found = session.scalar(
        select(Invitation).where(
            Invitation.token_sha256 == sha256_of(secret),
            Invitation.used_at.is_(None),
            Invitation.expires_at > utc_now(),
        )
    )
    if found is not None and found.is_first and has_accounts(session):
        return None
    return found


def accept(
    session: Session, secret: str, name: str, password_hash: str, peer: str | None
) -> Account:
    """Use an invitation and return the account that it makes.

    One conditional UPDATE decides, so that a link that is used twice at once makes one account.
    Raises AccountError when the link does not work (any more), or the name cannot be had.
    """
    found = invitation(session, secret)
    used = found is not None and session.scalar(
        update(Invitation)
        .where(Invitation.id == found.id, Invitation.used_at.is_(None))
        .values(used_at=utc_now())
        .returning(Invitation.id)
    )
    if found is None or not used:
        msg = "this invitation was used, is too old, or is none: ask for another one"
        raise AccountError(msg)
    return add(
        session, name, found.role, Actor(account_name(name), peer), password_hash=password_hash
    )


def create_token(
    session: Session,
    account: Account,
    name: str,
    scopes: frozenset[str],
    actor: Actor,
    *,
    days: float = TOKEN_DAYS,
) -> str:
    """Return a new token, which stands nowhere else. Raises AccountError on unusable values."""
    wanted = name.strip()
    if not 0 < len(wanted) <= _NAME_LENGTH or not wanted.isprintable():
        msg = f"a token's name has 1 to {_NAME_LENGTH} printable characters"
        raise AccountError(msg)
    if not scopes:
        msg = "a token without a scope may do nothing: name at least one"
        raise AccountError(msg)
    if not 0 < days <= MAX_TOKEN_DAYS:
        msg = f"a token is valid for at most {MAX_TOKEN_DAYS} days"
        raise AccountError(msg)
    owner = session.get_one(Account, account.id, with_for_update=True, populate_existing=True)
    if owner.is_disabled:
        msg = f"the account {account.name} is disabled: its tokens would not work"
        raise AccountError(msg)
    secret = new_secret(TOKEN_PREFIX)
    row = ApiToken(
        name=wanted,
        token_sha256=sha256_of(secret),
        account_id=account.id,
        scopes=sorted(scopes),
        expires_at=utc_now() + timedelta(days=days),
    )
    session.add(row)
    session.flush()
    told = {"account": account.name, "token": row.id, "scopes": sorted(scopes)}
    _record(session, AuditAction.TOKEN_CREATED, "created", actor, **told)
    return secret


def revoke_token(session: Session, token_id: int, actor: Actor) -> None:
    """End a token now. Raises AccountError when there is none of this id."""
    row = session.get(ApiToken, token_id)
    if row is None:
        msg = f"there is no token {token_id}: `dicom-node token list` names them all"
        raise AccountError(msg)
    if row.revoked_at is None:
        row.revoked_at = utc_now()
        told = {"account": row.account.name, "token": row.id}
        _record(session, AuditAction.TOKEN_REVOKED, "revoked", actor, **told)


def listed_accounts(session: Session) -> list[dict[str, Any]]:
    """Return every account, JSON-ready, by name."""
    now = utc_now()
    return [
        {
            "id": each.id,
            "name": each.name,
            "role": each.role.value,
            "kind": "identity provider" if each.issuer else "local",
            "is_disabled": each.is_disabled,
            "is_locked": each.locked_until is not None and each.locked_until > now,
            "created_at": each.created_at.isoformat(timespec="seconds"),
            "last_login_at": each.last_login_at
            and each.last_login_at.isoformat(timespec="seconds"),
        }
        for each in session.scalars(select(Account).order_by(Account.name))
    ]


def listed_tokens(session: Session) -> list[dict[str, Any]]:
    """Return every token, JSON-ready, without what is secret of it, the newest first."""
    now = utc_now()
    return [
        {
            "id": each.id,
            "name": each.name,
            "account": each.account.name,
            "scopes": list(each.scopes),
            "state": "revoked"
            if each.revoked_at
            else "expired"
            if each.expires_at <= now
            else "valid",
            "created_at": each.created_at.isoformat(timespec="seconds"),
            "expires_at": each.expires_at.isoformat(timespec="seconds"),
            "last_used_at": each.last_used_at and each.last_used_at.isoformat(timespec="seconds"),
        }
        for each in session.scalars(select(ApiToken).order_by(ApiToken.id.desc()))
    ]


def _require_another_admin(session: Session, account: Account) -> None:
    """Raise AccountError for the last administrator; two who go at once come one after the other.

    The rows are locked in one order, and each is looked at again once it is had.
    """
    admins = select(Account.id).where(Account.role == Role.ADMIN, ~Account.is_disabled)
    if session.scalars(admins.order_by(Account.id).with_for_update()).all() == [account.id]:
        msg = f"{account.name} is the only administrator: make another one first"
        raise AccountError(msg)


def _changed(session: Session, account: Account, outcome: str, actor: Actor) -> None:
    told = {"account": account.name, "role": account.role.value}
    _record(session, AuditAction.ACCOUNT_CHANGED, outcome, actor, **told)


def _record(
    session: Session, action: AuditAction, outcome: str, actor: Actor, **details: object
) -> None:
    record(session, action, outcome, actor=actor.name, peer=actor.peer, details=details)
