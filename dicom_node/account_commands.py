"""`dicom-node account` and `dicom-node token`: who may come in, from the command line."""

import sys
from pathlib import Path
from typing import Final

import click

from dicom_node import accounts
from dicom_node.accounts import Actor
from dicom_node.listing import Format, print_rows
from dicom_node.options import common, listing, open_database, settings_of
from dicom_node.passwords import Passwords, require_sound
from dicom_node.quarantine import Operator
from models.account import Role, Scope

_ROLES: Final = click.Choice([role.value for role in Role])
_SCOPES: Final = click.Choice([scope.value for scope in Scope])
_ACCOUNT_COLUMNS: Final = [
    ("name", "name"),
    ("role", "role"),
    ("kind", "kind"),
    ("disabled", "is_disabled"),
    ("locked", "is_locked"),
    ("last login", "last_login_at"),
]
_TOKEN_COLUMNS: Final = [
    ("id", "id"),
    ("token", "name"),
    ("account", "account"),
    ("scopes", "scopes"),
    ("state", "state"),
    ("until", "expires_at"),
    ("last used", "last_used_at"),
]


@click.group()
def account() -> None:
    """Make and change accounts of the web page and the API."""


@account.command("add")
@common
@click.argument("name")
@click.option("--role", type=_ROLES, default=Role.VIEWER.value, show_default=True)
def add(config: Path | None, data_dir: Path | None, name: str, role: str) -> None:
    """Make an account. The password is asked for, or read from a pipe."""
    database = open_database(settings_of(config, data_dir))
    wanted = accounts.account_name(name)
    hashed = _hash(wanted)
    with database.write() as session:
        made = accounts.add(session, wanted, Role(role), _actor(), password_hash=hashed)
    click.echo(f"account {made.name} made: {made.role.value}")


@account.command("list")
@common
@listing
def list_accounts(config: Path | None, data_dir: Path | None, form: str | None) -> None:
    """List the accounts."""
    with open_database(settings_of(config, data_dir)).read() as session:
        rows = accounts.listed_accounts(session)
        print_rows(rows, Format(form or Format.TABLE), _ACCOUNT_COLUMNS)


@account.command("disable")
@common
@click.argument("name")
def disable(config: Path | None, data_dir: Path | None, name: str) -> None:
    """Shut an account out at once, with its sessions and tokens."""
    with open_database(settings_of(config, data_dir)).write() as session:
        accounts.disable(session, accounts.named(session, name), _actor())
    click.echo(f"account {name} is disabled")


@account.command("enable")
@common
@click.argument("name")
def enable(config: Path | None, data_dir: Path | None, name: str) -> None:
    """Let an account in again, also one that is locked after wrong passwords."""
    with open_database(settings_of(config, data_dir)).write() as session:
        accounts.enable(session, accounts.named(session, name), _actor())
    click.echo(f"account {name} is enabled")


@account.command("role")
@common
@click.argument("name")
@click.argument("role", type=_ROLES)
def change_role(config: Path | None, data_dir: Path | None, name: str, role: str) -> None:
    """Give an account another role."""
    with open_database(settings_of(config, data_dir)).write() as session:
        accounts.change_role(session, accounts.named(session, name), Role(role), _actor())
    click.echo(f"account {name}: {role}")


@account.command("password")
@common
@click.argument("name")
def password(config: Path | None, data_dir: Path | None, name: str) -> None:
    """Give an account another password, and log it out everywhere."""
    database = open_database(settings_of(config, data_dir))
    with database.read() as session:
        found = accounts.named(session, name)
    hashed = _hash(found.name)
    with database.write() as session:
        accounts.set_password(session, accounts.named(session, name), hashed, _actor())
    click.echo(f"account {found.name} has another password")


@account.command("invite")
@common
@click.option("--role", type=_ROLES, default=Role.VIEWER.value, show_default=True)
def invite(config: Path | None, data_dir: Path | None, role: str) -> None:
    """Print a link that makes one account, once, within a day."""
    settings = settings_of(config, data_dir)
    with open_database(settings).write() as session:
        secret = accounts.invite(session, Role(role), _actor())
    click.echo(f"{settings.web.base_url}/invitations/{secret}")


@click.group()
def token() -> None:
    """Make and end API tokens for programs."""


@token.command("create")
@common
@click.option("--account", "owner", required=True, metavar="NAME", help="Whose role it has.")
@click.option("--name", required=True, help="What it is for.")
@click.option("--scope", "scopes", type=_SCOPES, multiple=True, required=True, help="Repeatable.")
@click.option(
    "--days",
    type=click.IntRange(1, accounts.MAX_TOKEN_DAYS),
    default=accounts.TOKEN_DAYS,
    show_default=True,
)
def create(
    config: Path | None,
    data_dir: Path | None,
    owner: str,
    name: str,
    scopes: tuple[str, ...],
    days: int,
) -> None:
    """Print a new token. It is stored nowhere, so it is shown this once."""
    with open_database(settings_of(config, data_dir)).write() as session:
        found = accounts.named(session, owner)
        secret = accounts.create_token(session, found, name, frozenset(scopes), _actor(), days=days)
    click.echo(secret)


@token.command("list")
@common
@listing
def list_tokens(config: Path | None, data_dir: Path | None, form: str | None) -> None:
    """List the tokens, without what is secret of them."""
    with open_database(settings_of(config, data_dir)).read() as session:
        rows = accounts.listed_tokens(session)
        print_rows(rows, Format(form or Format.TABLE), _TOKEN_COLUMNS)


@token.command("revoke")
@common
@click.argument("token_id", type=int)
def revoke(config: Path | None, data_dir: Path | None, token_id: int) -> None:
    """End a token now, by the id that `token list` shows."""
    with open_database(settings_of(config, data_dir)).write() as session:
        accounts.revoke_token(session, token_id, _actor())
    click.echo(f"token {token_id} is revoked")


def _actor() -> Actor:
    return Actor(Operator.of_this_process("").name)


def _hash(name: str) -> str:
    """Return the hash of a password that a person types twice, or that comes by a pipe."""
    if sys.stdin.isatty():
        typed = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        typed = sys.stdin.readline().rstrip("\r\n")
    require_sound(name, typed)
    return Passwords().hash(typed)
