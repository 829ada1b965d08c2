"""Invitations, accounts, tokens and one's own password, as people use them in a browser."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from rows import outcomes
from sqlalchemy import func, select, update
from web_accounts import ACTOR, account, bearer, browser
from web_served import PAGE, QUICK, migrated, served, web_settings

from dicom_node import accounts
from dicom_node.errors import AccountError
from dicom_node.web.serve import Upkeep
from models.account import Account, Invitation, Role, Scope
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.session import Database
from models.settings import Settings

PASSWORD = "correct horse battery"  # noqa: S105  of a test
OTHER = "staple battery horse"


@dataclass(frozen=True)
class Node:
    """A served node and a browser."""

    settings: Settings
    database: Database
    client: httpx.Client

    def post(self, path: str, **form: str) -> httpx.Response:
        """Send a form of the page, with the CSRF token that pages have."""
        shown = self.client.get("/account", headers=PAGE)
        token = re.search(r'name="csrf_token" value="(\w+)"', shown.text)
        data = {**form, "csrf_token": token[1] if token else ""}
        return self.client.post(path, data=data, headers=PAGE)

    def accept(self, link: str, name: str = "ada", password: str = PASSWORD) -> httpx.Response:
        data = {"name": name, "password": password, "repeated": password}
        return self.client.post(link, data=data, headers=PAGE)

    def link(self, role: Role = Role.VIEWER) -> str:
        with self.database.write() as session:
            return f"/invitations/{accounts.invite(session, role, ACTOR)}"

    def become(self, role: Role, name: str | None = None) -> None:
        """Log the browser in, without a form."""
        self.client.cookies.set("dicom-node-session", browser(self.database, role, name).secret)

    def first_link(self, capsys: pytest.CaptureFixture[str]) -> str | None:
        """Start as `dicom-node web` does, and return the path of the link that it prints."""
        Upkeep(self.settings, self.database, None).look()
        said = capsys.readouterr().out
        found = re.search(r"http://127\.0\.0\.1:8080(/invitations/\S{43})$", said.strip())
        assert found or not said
        return found[1] if found else None


@contextmanager
def _node(folder: Path, database_url: str | None = None) -> Iterator[Node]:
    settings = web_settings(folder, database_url)
    with served(settings) as (database, client):
        yield Node(settings, database, client)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with _node(tmp_path) as made:
        yield made


def _count(database: Database) -> int:
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Account)) or 0


def test_the_first_start_makes_an_administrator_once(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    link = node.first_link(capsys)
    assert link is not None
    assert "<strong>admin</strong>" in node.client.get(link, headers=PAGE).text
    answer = node.accept(link)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert node.client.get("/accounts", headers=PAGE).status_code == 200
    assert node.accept(link, "second").status_code == 404
    assert node.first_link(capsys) is None
    assert _count(node.database) == 1
    assert outcomes(node.database, AuditAction.ACCOUNT_CHANGED) == ["invited", "created"]
    assert outcomes(node.database, AuditAction.LOGIN) == ["invitation"]


def test_a_restart_without_any_account_makes_another_link(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = node.first_link(capsys), node.first_link(capsys)
    assert first is not None
    assert second is not None
    assert node.client.get(first, headers=PAGE).status_code == 404
    assert node.client.get(second, headers=PAGE).status_code == 200


def test_the_first_link_is_void_when_somebody_has_an_account(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    link = node.first_link(capsys)
    assert link is not None
    account(node.database, Role.VIEWER)
    assert node.client.get(link, headers=PAGE).status_code == 404
    assert node.accept(link).status_code == 404


def test_a_database_that_is_away_at_the_start_is_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = web_settings(tmp_path)
    empty = Database(f"sqlite:///{tmp_path / 'empty.db'}")
    upkeep = Upkeep(settings, empty, None)
    upkeep.look()
    assert capsys.readouterr().out == ""
    with _node(tmp_path) as made:
        upkeep.database = made.database
        upkeep.look()
        upkeep.look()
    assert capsys.readouterr().out.count("/invitations/") == 1
    empty.dispose()


@pytest.mark.parametrize("is_one_link", [True, False], ids=["one link", "one name"])
def test_what_is_used_twice_at_once_makes_one_account(
    database_url: str, tmp_path: Path, *, is_one_link: bool
) -> None:
    with migrated(web_settings(tmp_path, database_url)) as database:
        with database.write() as session:
            links = [accounts.invite(session, Role.VIEWER, ACTOR) for _ in range(6)]
        hashed = QUICK.hash(PASSWORD)
        told: list[str] = []

        def use(number: int) -> None:
            link, name = (links[0], f"name{number}") if is_one_link else (links[number], "ada")
            try:
                with database.write() as session:
                    accounts.accept(session, link, name, hashed, None)
                told.append("made")
            except AccountError:
                told.append("refused")

        threads = [threading.Thread(target=use, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(told) == ["made"] + ["refused"] * 5
        assert _count(database) == 1


def test_an_old_or_invented_link_makes_nothing(node: Node) -> None:
    link = node.link()
    with node.database.write() as session:
        session.execute(update(Invitation).values(expires_at=utc_now()))
    for wrong in (link, "/invitations/invented"):
        assert node.client.get(wrong, headers=PAGE).status_code == 404
        assert node.accept(wrong).status_code == 404
    assert _count(node.database) == 0


_UNFIT = (
    ("ada", "tiny", "tiny", "too short"),
    ("ada", PASSWORD, OTHER, "the two passwords differ"),
    ("Ada.Lovelace", "ada.LOVELACE", "ada.LOVELACE", "is the name of the account"),
    ("taken", PASSWORD, PASSWORD, "there is an account named taken already"),
    ("a b<script>", PASSWORD, PASSWORD, "letters, digits and . _ @ + -"),
    ("x" * 65, PASSWORD, PASSWORD, "1 to 64 letters"),
    ("ada", "y" * 1025, "y" * 1025, "too long"),
)


def test_what_cannot_be_an_account_is_said_and_the_link_still_works(node: Node) -> None:
    account(node.database, Role.VIEWER, "taken")
    link = node.link()
    for name, password, repeated, sentence in _UNFIT:
        data = {"name": name, "password": password, "repeated": repeated}
        answer = node.client.post(link, data=data, headers=PAGE)
        assert answer.status_code == 400, sentence
        assert sentence in answer.text
        assert password not in answer.text
        assert "<script>" not in answer.text
    assert node.accept(link).status_code == 303


def test_an_administrator_invites_changes_and_disables(node: Node) -> None:
    node.become(Role.ADMIN)
    shown = node.post("/accounts/invitations", role="operator")
    found = re.search(r"http://127\.0\.0\.1:8080(/invitations/[\w-]{43})<", shown.text)
    assert found is not None
    assert found[1] not in node.client.get("/accounts", headers=PAGE).text
    with httpx.Client(base_url=node.client.base_url) as other:
        Node(node.settings, node.database, other).accept(found[1], "grace")
        with node.database.read() as session:
            grace = accounts.named(session, "grace")
        assert grace.role == Role.OPERATOR
        assert node.post(f"/accounts/{grace.id}", to="viewer").status_code == 303
        assert other.get("/api/v1/destinations").status_code == 403
        assert node.post(f"/accounts/{grace.id}", to="disable").status_code == 303
        assert other.get("/account").status_code == 401
    assert "disabled" in node.client.get("/accounts", headers=PAGE).text
    assert node.post(f"/accounts/{grace.id}", to="enable").status_code == 303
    assert node.post("/accounts/999", to="enable").status_code == 404
    assert node.post(f"/accounts/{grace.id}", to="emperor").status_code == 422
    with node.database.read() as session:
        query = select(AuditEvent.outcome, AuditEvent.actor).order_by(AuditEvent.id)
        changed = query.where(AuditEvent.action == AuditAction.ACCOUNT_CHANGED)
        assert [tuple(row) for row in session.execute(changed)][1:] == [
            ("invited", "admin"),
            ("created", "grace"),
            ("role_changed", "admin"),
            ("disabled", "admin"),
            ("enabled", "admin"),
        ]


def test_the_last_administrator_stays(node: Node) -> None:
    node.become(Role.ADMIN)
    admin = account(node.database, Role.ADMIN)
    for change in ("disable", "viewer"):
        answer = node.post(f"/accounts/{admin.id}", to=change)
        assert (answer.status_code, "only administrator" in answer.text) == (409, True)
    second = account(node.database, Role.ADMIN, "second")
    assert node.post(f"/accounts/{second.id}", to="viewer").status_code == 303


def test_a_token_is_made_shown_once_used_and_revoked(node: Node) -> None:
    node.become(Role.ADMIN)
    made = node.post("/tokens", account="admin", name="<b>robot</b>", scopes="system", days="7")
    secret = re.search(r"dnt_[\w-]{43}", made.text)
    assert secret is not None
    headers = {"Authorization": f"Bearer {secret[0]}"}
    program = httpx.Client(base_url=node.client.base_url, headers=headers)
    with program:
        assert program.get("/api/v1/destinations").status_code == 200
        assert program.get("/api/v1/deliveries").status_code == 403
        listed = node.client.get("/tokens", headers=PAGE).text
        assert secret[0] not in listed
        assert "&lt;b&gt;robot&lt;/b&gt;" in listed
        assert node.post("/tokens/1/revoke").status_code == 303
        assert program.get("/api/v1/destinations").status_code == 401
    assert node.post("/tokens/9/revoke").status_code == 409
    assert "name at least one" in node.post("/tokens", account="admin", name="n", days="7").text
    assert node.post("/tokens", account="admin", name="n", days="0").status_code == 422
    assert "no account is named" in node.post("/tokens", account="x", name="n").text
    assert outcomes(node.database, AuditAction.TOKEN_CREATED) == ["created"]
    assert outcomes(node.database, AuditAction.TOKEN_REVOKED) == ["revoked"]
    assert outcomes(node.database, AuditAction.ACCESS_DENIED) == ["scope", "unknown_token"]


@pytest.mark.parametrize(
    ("path", "form"),
    [
        ("/accounts/invitations", {"role": "admin"}),
        ("/accounts/1", {"to": "viewer"}),
        ("/tokens", {"account": "admin", "name": "forever", "scopes": "store", "days": "3650"}),
    ],
)
def test_a_token_makes_nothing_that_outlives_it(
    node: Node, path: str, form: dict[str, str]
) -> None:
    headers = bearer(node.database, Role.ADMIN, Scope.ACCOUNTS)
    answer = node.client.post(path, data=form, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "a token makes no credentials: log in",
    )
    assert outcomes(node.database, AuditAction.ACCESS_DENIED) == ["person"]
    assert node.client.get("/tokens", headers=headers).status_code == 200
    assert node.client.post("/tokens/1/revoke", headers=headers).status_code == 303
    assert node.client.get("/tokens", headers=headers).status_code == 401


def test_a_token_is_out_when_it_expires_or_its_account_is_disabled(node: Node) -> None:
    headers = bearer(node.database, Role.OPERATOR)

    def code() -> int:
        return node.client.get("/api/v1/destinations", headers=headers).status_code

    assert code() == 200
    with node.database.read() as session:
        assert accounts.listed_tokens(session)[0]["last_used_at"] is not None
    with node.database.write() as session:
        accounts.disable(session, accounts.named(session, "operator"), ACTOR)
    assert code() == 401
    with node.database.write() as session:
        accounts.enable(session, accounts.named(session, "operator"), ACTOR)
    assert code() == 401  # a token that ended does not come back
    headers = bearer(node.database, Role.OPERATOR)
    assert code() == 200
    with node.database.write() as session:
        session.execute(update(accounts.ApiToken).values(expires_at=utc_now() - timedelta(1)))
    assert code() == 401


def test_what_is_no_token_is_nobody_even_with_a_session(node: Node) -> None:
    node.become(Role.ADMIN)
    for wrong in ("Bearer dnt_invented", "Bearer", "Basic YWRhOmFkYQ==", "dnt_x", ""):
        answer = node.client.get("/api/v1/destinations", headers={"Authorization": wrong})
        assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"] == "Bearer"
    with node.database.read() as session:
        refused = select(AuditEvent.details).where(AuditEvent.action == AuditAction.ACCESS_DENIED)
        hashed = ["sha256" in each for each in session.scalars(refused.order_by(AuditEvent.id))]
    assert hashed == [True, True, False, False, False]  # a hash of a password could be guessed back


def test_refused_tokens_cannot_fill_the_audit(node: Node) -> None:
    for number in range(70):
        headers = {"Authorization": f"Bearer dnt_{number}"}
        node.client.get("/api/v1/destinations", headers=headers)
    assert len(outcomes(node.database, AuditAction.ACCESS_DENIED)) == 60


def test_somebody_takes_another_password(node: Node) -> None:
    node.accept(node.link())
    with httpx.Client(base_url=node.client.base_url) as other:
        elsewhere = Node(node.settings, node.database, other)
        elsewhere.client.post("/login", data={"name": "ada", "password": PASSWORD}, headers=PAGE)
        assert other.get("/account").status_code == 200
        change, name = "/account/password", "ada"
        refused = node.post(change, current=OTHER, password=OTHER, repeated=OTHER)
        assert (refused.status_code, "current password is wrong" in refused.text) == (400, True)
        refused = node.post(change, current=PASSWORD, password=name, repeated=name)
        assert (refused.status_code, "too short" in refused.text) == (400, True)
        done = node.post(change, current=PASSWORD, password=OTHER, repeated=OTHER)
        assert (done.status_code, done.headers["location"]) == (303, "/account")
        assert node.client.get("/account").status_code == 200
        assert other.get("/account").status_code == 401
    with node.database.read() as session:
        ada = accounts.named(session, "ada")
    assert QUICK.verify(ada.password_hash, OTHER)
    assert outcomes(node.database, AuditAction.LOGIN_FAILED) == ["wrong_password"]
