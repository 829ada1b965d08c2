"""What two people change of accounts at the same moment, on both kinds of database."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from web_accounts import ACTOR, account

from dicom_node import accounts
from dicom_node.errors import AccountError
from models.account import Account, ApiToken, Role
from models.session import Database

ISSUER = "https://idp.example"
Change = Callable[[Session, Account], object]


def _disable(session: Session, changed: Account) -> None:
    accounts.disable(session, changed, ACTOR)


def _demote(session: Session, changed: Account) -> None:
    accounts.change_role(session, changed, Role.VIEWER, ACTOR)


def _token(session: Session, changed: Account) -> str:
    return accounts.create_token(session, changed, "night", frozenset({"results"}), ACTOR)


def _sign_on(session: Session, changed: Account) -> Account:
    name = changed.name
    return accounts.signed_on(session, ISSUER, name, name, Role.VIEWER, None)


def _while_open(database: Database, first: tuple[Change, str], second: tuple[Change, str]) -> str:
    """Begin the second change while the first one is made and not committed.

    Return how the second one ended: `made`, or what was said against it.
    """
    ended: Future[str] = Future()
    (change, name), (other_change, other_name) = first, second

    def go() -> None:
        try:
            with database.write() as session:
                other_change(session, accounts.named(session, other_name))
            ended.set_result("made")
        except AccountError as error:
            ended.set_result(str(error))

    thread = threading.Thread(target=go)
    with database.write() as session:
        change(session, accounts.named(session, name))
        session.flush()
        thread.start()
        thread.join(0.5)
        assert not ended.done()
    thread.join()
    return ended.result()


@pytest.mark.parametrize("first", [_disable, _demote])
@pytest.mark.parametrize("second", [_disable, _demote])
def test_two_administrators_who_shut_each_other_out_do_not_both_go(
    database: Database, first: Change, second: Change
) -> None:
    for name in ("ada", "grace"):
        account(database, Role.ADMIN, name)
    said = _while_open(database, (first, "grace"), (second, "ada"))
    assert said == "ada is the only administrator: make another one first"


def test_of_three_administrators_two_may_go_at_once(database: Database) -> None:
    for name in ("ada", "grace", "joan"):
        account(database, Role.ADMIN, name)
    assert _while_open(database, (_disable, "grace"), (_disable, "ada")) == "made"


def test_a_token_that_is_made_while_its_account_is_disabled_does_not_work(
    database: Database,
) -> None:
    account(database, Role.VIEWER, "robot")
    said = _while_open(database, (_disable, "robot"), (_token, "robot"))
    assert said == "the account robot is disabled: its tokens would not work"


def test_an_account_that_is_disabled_while_its_token_is_made_ends_it(database: Database) -> None:
    account(database, Role.VIEWER, "robot")
    assert _while_open(database, (_token, "robot"), (_disable, "robot")) == "made"
    with database.read() as session:
        assert session.scalars(select(ApiToken.revoked_at)).one() is not None


def test_who_signs_on_while_the_account_is_disabled_stays_out(database: Database) -> None:
    with database.write() as session:
        accounts.add(session, "ada", Role.VIEWER, ACTOR, issuer=ISSUER, subject="ada")
    said = _while_open(database, (_disable, "ada"), (_sign_on, "ada"))
    assert said == "the account ada is disabled: ask an administrator"
