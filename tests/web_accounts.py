"""Accounts for tests of the web side: an API token for programs, a logged-in browser for pages."""

from dataclasses import dataclass

from dicom_node import accounts
from dicom_node.logins import Lifetimes, open_session
from dicom_node.web.access import csrf
from dicom_node.web.access.cookies import SESSION
from dicom_node.web.auth import Scope
from models.account import Account, Role
from models.people_sections import WebSettings
from models.session import Database

ACTOR = accounts.Actor("test")


def account(database: Database, role: Role, name: str | None = None) -> Account:
    """Return the account of this name (default: the role's), made if it is not there."""
    wanted = name or role.value
    with database.write() as session:
        if wanted in {each["name"] for each in accounts.listed_accounts(session)}:
            return accounts.named(session, wanted)
        return accounts.add(session, wanted, role, ACTOR)


def bearer(
    database: Database, role: Role = Role.ADMIN, *scopes: Scope, name: str | None = None
) -> dict[str, str]:
    """Return the headers of a program with a new token; without `scopes` it has all of them."""
    owner = account(database, role, name)
    with database.write() as session:
        wanted = frozenset(each.value for each in scopes or Scope)
        secret = accounts.create_token(session, owner, "test", wanted, ACTOR)
    return {"Authorization": f"Bearer {secret}"}


@dataclass(frozen=True)
class Browser:
    """What a logged-in browser sends: its cookie, where the request is from, its CSRF token."""

    secret: str

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a script of our own page, whether the node has TLS or not."""
        return {
            "Cookie": f"{SESSION}={self.secret}; __Host-{SESSION}={self.secret}",
            "Sec-Fetch-Site": "same-origin",
            "X-CSRF-Token": csrf.token_of(self.secret),
        }


def browser(database: Database, role: Role = Role.ADMIN, name: str | None = None) -> Browser:
    """Return a new session of an account of this role."""
    owner = account(database, role, name)
    with database.write() as session:
        lifetimes = Lifetimes.of(WebSettings())
        return Browser(open_session(session, session.merge(owner), lifetimes))
