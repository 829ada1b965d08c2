"""Logging in by password: what is right, what is wrong, how often, and for how long."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from argon2 import PasswordHasher
from rows import outcomes
from sqlalchemy import func, select, update
from web_accounts import ACTOR, browser
from web_served import PAGE, QUICK, migrated, served, web_settings

from dicom_node import accounts
from dicom_node.logins import FAILURES, Lifetimes, PasswordLogin
from dicom_node.passwords import Passwords
from dicom_node.web.access.login import REFUSED, safe_path
from models.account import Account, LoginSession, Role
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.session import Database

PASSWORD = "correct horse battery"  # noqa: S105  of a test
WRONG = "wrong horse battery"


@dataclass(frozen=True)
class Node:
    """A served node with one operator, `ada`."""

    database: Database
    client: httpx.Client

    def log_in(self, name: str = "ada", password: str = PASSWORD, **headers: str) -> httpx.Response:
        given = {"name": name, "password": password, "next": "/deliveries"}
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.post("/login", data=given, headers={**PAGE, **sent})

    def account(self) -> Account:
        with self.database.read() as session:
            return accounts.named(session, "ada")

    def shift(self, column: str, by: timedelta) -> None:
        """Move a time of every session by so much."""
        with self.database.write() as session:
            for row in session.scalars(select(LoginSession)):
                setattr(row, column, getattr(row, column) + by)

    def is_in(self, **headers: str) -> bool:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return self.client.get("/api/v1/destinations", headers=sent).status_code == 200


def _add(database: Database, name: str = "ada", role: Role = Role.OPERATOR) -> None:
    with database.write() as session:
        accounts.add(session, name, role, ACTOR, password_hash=QUICK.hash(PASSWORD))


@contextmanager
def _node(folder: Path, database_url: str | None = None) -> Iterator[Node]:
    with served(web_settings(folder, database_url)) as (database, client):
        _add(database)
        yield Node(database, client)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with _node(tmp_path) as made:
        yield made


@pytest.fixture
def each_node(database_url: str, tmp_path: Path) -> Iterator[Node]:
    """The same on both kinds of database."""
    with _node(tmp_path, database_url) as made:
        yield made


def test_whoever_logs_in_has_a_session_and_goes_on(node: Node) -> None:
    assert not node.is_in()
    answer = node.log_in()
    assert (answer.status_code, answer.headers["location"]) == (303, "/deliveries")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("dicom-node-session=")
    assert {"HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert node.is_in()
    secret = node.client.cookies["dicom-node-session"]
    assert len(secret) >= 43  # 256 bits
    with node.database.read() as session:
        stored = session.scalars(select(LoginSession.token_sha256)).all()
    assert stored == [hashlib.sha256(secret.encode()).hexdigest()]
    assert outcomes(node.database, AuditAction.LOGIN) == ["password"]


def test_over_tls_the_cookie_belongs_to_this_host_alone(tmp_path: Path) -> None:
    with served(web_settings(tmp_path, behind_proxy=True)) as (database, client):
        _add(database)
        cookie = Node(database, client).log_in().headers["set-cookie"]
    assert cookie.startswith("__Host-dicom-node-session=")
    assert "Secure" in cookie.split("; ")


def test_whatever_is_wrong_the_answer_is_the_same(each_node: Node) -> None:
    node = each_node
    _add(node.database, "grace")
    with node.database.write() as session:
        accounts.disable(session, accounts.named(session, "grace"), ACTOR)
        accounts.add(session, "signed-on", Role.VIEWER, ACTOR)  # has no password
    tried = [("ada", WRONG), ("nobody", WRONG), ("grace", PASSWORD), ("signed-on", PASSWORD)]
    tried += [(" ", WRONG), ("no name\x07", WRONG)]
    answers = [node.log_in(*each) for each in tried]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.text for answer in answers}) == 1
    assert REFUSED in answers[0].text
    assert "set-cookie" not in answers[0].headers
    with node.database.read() as session:
        failed = select(AuditEvent.outcome, AuditEvent.actor, AuditEvent.details).where(
            AuditEvent.action == AuditAction.LOGIN_FAILED
        )
        found = [tuple(row) for row in session.execute(failed.order_by(AuditEvent.id))]
    assert found[:3] == [
        ("wrong_password", "ada", {}),
        ("unknown_account", None, {}),
        ("shut_out", "grace", {}),
    ]


def test_an_unknown_name_takes_as_long_as_a_wrong_password(tmp_path: Path) -> None:
    settings = web_settings(tmp_path)
    with migrated(settings) as database:
        dear = Passwords(PasswordHasher(time_cost=2, memory_cost=32768, parallelism=1))
        login = PasswordLogin(database, dear, Lifetimes.of(settings.web))
        with database.write() as session:
            hashed = login.passwords.hash(PASSWORD)
            accounts.add(session, "ada", Role.VIEWER, ACTOR, password_hash=hashed)

        def quickest(name: str) -> float:
            taken = []
            for _ in range(4):
                start = time.perf_counter()
                assert login.attempt(name, WRONG, None) is None
                taken.append(time.perf_counter() - start)
            return min(taken)

        known, unknown = quickest("ada"), quickest("nobody")
    assert 0.4 < unknown / known < 2.5


def test_an_account_waits_after_wrong_passwords_and_longer_each_time(each_node: Node) -> None:
    node = each_node
    for _ in range(FAILURES - 1):
        node.log_in(password=WRONG)
    assert node.account().locked_until is None
    pauses = []
    for _ in range(3):
        node.log_in(password=WRONG)
        until = node.account().locked_until
        assert until is not None
        pauses.append(round((until - utc_now()).total_seconds(), -1))
        assert node.log_in().status_code == 403  # the right password, too early; it counts nothing
        with node.database.write() as session:
            session.execute(update(Account).values(locked_until=utc_now()))
    assert pauses == [30, 60, 120]
    assert node.log_in().status_code == 303
    assert (node.account().failures, node.account().locked_until) == (0, None)


def test_a_pause_that_a_clock_put_back_made_endless_is_over(node: Node) -> None:
    with node.database.write() as session:
        session.execute(update(Account).values(locked_until=utc_now() + timedelta(days=300)))
    assert node.log_in().status_code == 303


def test_an_address_waits_after_many_failures_whatever_the_name(tmp_path: Path) -> None:
    """Behind a proxy each client counts for itself, if the proxy is one of the settings."""
    with served(web_settings(tmp_path, behind_proxy=True)) as (database, client):
        node = Node(database, client)
        _add(database)
        first = [
            node.log_in(f"name{number}", WRONG, X_Forwarded_For="192.0.2.7").status_code
            for number in range(21)
        ]
        assert first == [403] * 20 + [429]
        assert node.log_in(X_Forwarded_For="192.0.2.7").status_code == 429
        assert node.log_in(X_Forwarded_For="192.0.2.8").status_code == 303


def test_a_direct_client_cannot_say_that_it_is_another(node: Node) -> None:
    node.log_in(X_Forwarded_For="192.0.2.7")
    with node.database.read() as session:
        login = select(AuditEvent.peer).where(AuditEvent.action == AuditAction.LOGIN)
        assert session.scalars(login).all() == ["127.0.0.1"]


def test_a_hash_of_other_parameters_is_made_anew(tmp_path: Path) -> None:
    with served(web_settings(tmp_path), passwords=None) as (database, client):
        _add(database)
        _rehashed(Node(database, client))


def _rehashed(node: Node) -> None:
    before = node.account().password_hash
    node.log_in()
    after = node.account().password_hash
    assert before is not None
    assert after is not None
    assert "m=8,t=1,p=1" in before
    assert not Passwords().is_outdated(after)
    assert node.log_in().status_code == 303
    assert node.account().password_hash == after


def test_a_login_comes_from_our_own_page(node: Node) -> None:
    assert node.log_in(Sec_Fetch_Site="cross-site").status_code == 403
    assert node.log_in(Sec_Fetch_Site="same-site").status_code == 403
    bare = {"name": "ada", "password": PASSWORD}
    host = node.client.base_url.netloc.decode()
    for origin, code in (
        (f"http://{host}", 303),
        ("http://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
    ):
        answer = node.client.post("/login", data=bare, headers={"Origin": origin})
        assert answer.status_code == code, origin
    assert node.client.post("/login", data=bare).status_code == 403


def test_logging_out_ends_the_session_everywhere(node: Node) -> None:
    node.log_in()
    secret = node.client.cookies["dicom-node-session"]
    page = node.client.get("/account", headers=PAGE)
    token = page.text.split('name="csrf_token" value="')[1].split('"')[0]
    refused = node.client.post("/logout", headers=PAGE, data={"csrf_token": "0" * 64})
    assert refused.status_code == 403
    answer = node.client.post("/logout", headers=PAGE, data={"csrf_token": token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert "dicom-node-session" not in node.client.cookies
    assert not node.is_in(Cookie=f"dicom-node-session={secret}")
    assert outcomes(node.database, AuditAction.LOGOUT) == ["asked"]


def test_a_new_login_of_the_same_browser_replaces_the_old_one(node: Node) -> None:
    node.log_in()
    node.log_in()
    with node.database.read() as session:
        assert session.scalar(select(func.count()).select_from(LoginSession)) == 1


def test_a_session_ends_without_use_and_at_its_longest(each_node: Node) -> None:
    node = each_node
    node.log_in()
    node.shift("last_seen_at", -timedelta(minutes=59))
    assert node.is_in()  # and is seen now
    node.shift("last_seen_at", -timedelta(minutes=59))
    assert node.is_in()
    node.shift("last_seen_at", -timedelta(minutes=61))
    assert not node.is_in()
    node.log_in()
    node.shift("expires_at", -timedelta(hours=12))
    assert not node.is_in()
    node.log_in()
    node.shift("expires_at", timedelta(hours=2))  # longer than the settings make it
    assert not node.is_in()


def test_a_page_that_reads_by_itself_keeps_nobody_logged_in(node: Node) -> None:
    node.log_in()
    node.shift("last_seen_at", -timedelta(minutes=59))
    assert node.is_in(Sec_Fetch_Dest="empty")
    node.shift("last_seen_at", -timedelta(minutes=2))
    assert not node.is_in(Sec_Fetch_Dest="empty")


def test_a_disabled_account_is_out_at_once(node: Node) -> None:
    node.log_in()
    with node.database.write() as session:
        accounts.disable(session, accounts.named(session, "ada"), ACTOR)
    assert not node.is_in()


def test_who_is_not_logged_in_is_sent_to_the_login_and_back(node: Node) -> None:
    answer = node.client.get("/account?patient_id=P1", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/account")
    assert node.client.get("/account").status_code == 401
    page = node.client.get("/login?next=/account", headers=PAGE)
    assert 'name="next" value="/account"' in page.text
    node.log_in()
    answer = node.client.get("/login?next=//evil.example/", headers=PAGE)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/studies/1.2.3", "/studies/1.2.3"),
        ("/audit?page=2", "/audit?page=2"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/\t/evil.example", "/"),
        ("https://evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("evil", "/"),
        ("", "/"),
        ("/a\r\nSet-Cookie: x=1", "/"),
        ("/\u20ac", "/"),
        (f"/{'x' * 2047}", f"/{'x' * 2047}"),
        (f"/{'x' * 2048}", "/"),
    ],
)
def test_one_goes_on_only_within_this_site(text: str, path: str) -> None:
    assert safe_path(text) == path


def test_a_session_of_another_browser_does_not_help_a_foreign_token(node: Node) -> None:
    """A CSRF token belongs to one session."""
    first, second = browser(node.database, Role.ADMIN), browser(node.database, Role.ADMIN)
    mixed = first.headers | {"X-CSRF-Token": second.headers["X-CSRF-Token"]}
    path = "/accounts/invitations"
    answer = node.client.post(path, headers=mixed, data={"role": "viewer"})
    assert answer.status_code == 403
    assert answer.headers["content-type"] == "application/problem+json"
    answer = node.client.post(path, headers=first.headers, data={"role": "viewer"})
    assert answer.status_code == 200
