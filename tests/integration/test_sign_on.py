"""Login by an identity provider: a real one on a port of its own, and a browser's steps."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from identity_provider import IdentityProvider, new_key
from joserfc import jwt
from joserfc.jwk import KeySet, OctKey
from rows import outcomes
from servers import free_port
from sqlalchemy import select
from web_accounts import ACTOR
from web_served import PAGE, app_of, listening, migrated, serving, web_settings

from dicom_node import accounts
from dicom_node.errors import SignOnError, StartError
from dicom_node.web.access import oidc
from models.account import Account, LoginSession, Role
from models.audit import AuditAction
from models.people_sections import OidcSettings
from models.session import Database
from models.settings import Settings

ADA = {"sub": "u-1", "preferred_username": "Ada", "groups": ["staff", "radiology"]}
ROLES = {"radiology": "viewer", "pacs": "operator", "it": "admin"}


@dataclass
class Bench:
    """A node and its provider, both on real ports."""

    settings: Settings
    database: Database
    provider: IdentityProvider
    url: str

    def browser(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=PAGE, timeout=20)

    def go(self, client: httpx.Client, next_path: str = "/account") -> str:
        """Go to the provider and return the address that it sends the browser back to."""
        away = client.get("/sign-on", params={"next": next_path})
        assert away.status_code == 303, away.text
        back = httpx.get(away.headers["location"], timeout=20)
        return str(back.headers["location"])

    def sign_on(self, client: httpx.Client) -> httpx.Response:
        return client.get(self.go(client))

    def account(self) -> Account:
        with self.database.read() as session:
            found = session.scalars(select(Account)).all()
        assert len(found) == 1
        return found[0]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with _bench(tmp_path, monkeypatch) as made:
        yield made


@contextmanager
def _bench(folder: Path, monkeypatch: pytest.MonkeyPatch, **oidc_settings: Any) -> Iterator[Bench]:
    port, provider_port = free_port(), free_port()
    issuer, url = f"http://127.0.0.1:{provider_port}", f"http://127.0.0.1:{port}"
    provider = IdentityProvider(issuer, redirect_uri=f"{url}/sign-on/callback", person=ADA)
    monkeypatch.setenv("NODE_OIDC_SECRET", provider.client_secret or "")
    wanted = {
        "issuer": issuer,
        "client_id": "node",
        "client_secret_variable": "NODE_OIDC_SECRET",
        "roles": ROLES,
        **oidc_settings,
    }
    settings = web_settings(folder, url=url, port=port, oidc=wanted)
    with (
        migrated(settings) as database,
        listening(provider.app(), port=provider_port),
        serving(settings, database, app_of(settings, database), port=port),
    ):
        yield Bench(settings, database, provider, url)


def test_whom_the_provider_vouches_for_is_logged_in_with_the_role_of_the_group(
    bench: Bench,
) -> None:
    with bench.browser() as client:
        assert ">Single sign-on<" in client.get("/login").text
        back = bench.go(client)
        answer = client.get(back)
        assert (answer.status_code, answer.headers["location"]) == (303, "/account")
        assert "by the identity provider" in client.get("/account").text
        assert "dicom-node-sign-on" not in client.cookies
        again = client.get(back)  # the code is used up, and the cookie gone
        assert again.status_code == 403
    account = bench.account()
    assert (account.name, account.role, account.password_hash) == ("ada", Role.VIEWER, None)
    assert (account.issuer, account.subject) == (bench.provider.issuer, "u-1")
    assert outcomes(bench.database, AuditAction.LOGIN) == ["sign_on"]


def test_the_way_there_has_pkce_state_and_nonce_that_differ_each_time(bench: Bench) -> None:
    with bench.browser() as client:
        asked = [
            parse_qs(urlsplit(client.get("/sign-on").headers["location"]).query) for _ in range(2)
        ]
    for key in ("state", "nonce", "code_challenge"):
        values = {each[key][0] for each in asked}
        assert len(values) == 2, key
        assert all(len(value) >= 43 for value in values)
    assert asked[0]["code_challenge_method"] == ["S256"]
    assert asked[0]["scope"] == ["openid profile"]


def test_the_role_follows_the_groups_at_each_login(bench: Bench) -> None:
    with bench.browser() as client:
        bench.sign_on(client)
        bench.provider.person = ADA | {"groups": ["it", "radiology"]}
        bench.sign_on(client)
        assert bench.account().role == Role.ADMIN
        bench.provider.person = ADA | {"groups": "pacs", "preferred_username": "renamed"}
        bench.sign_on(client)
        assert (bench.account().role, bench.account().name) == (Role.OPERATOR, "ada")


def test_who_is_in_no_group_any_more_is_out(bench: Bench) -> None:
    with bench.browser() as client:
        bench.sign_on(client)
        with bench.database.write() as session:
            account = accounts.named(session, "ada")
            accounts.create_token(session, account, "own", frozenset({"results"}), ACTOR)
        bench.provider.person = ADA | {"groups": ["staff"]}
        answer = bench.sign_on(client)
        assert answer.status_code == 403
        assert "none of your groups" in answer.text
        assert client.get("/account").status_code == 303
        with bench.database.read() as session:
            assert session.scalars(select(LoginSession)).all() == []
            assert [each["state"] for each in accounts.listed_tokens(session)] == ["revoked"]
        assert outcomes(bench.database, AuditAction.LOGIN_FAILED) == ["sign_on"]
        bench.provider.person = ADA
        assert bench.sign_on(client).status_code == 303


def test_groups_that_only_userinfo_tells(bench: Bench) -> None:
    bench.provider.hidden = ("groups",)
    with bench.browser() as client:
        assert bench.sign_on(client).status_code == 303
    assert "userinfo" in bench.provider.asked


def test_a_claim_inside_another_and_a_secret_in_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _bench(tmp_path, monkeypatch, roles_claim="realm_access.roles") as bench:
        bench.provider.is_posted = True
        bench.provider.person = {"sub": "u-2", "realm_access": {"roles": ["pacs"]}}
        with bench.browser() as client:
            assert bench.sign_on(client).status_code == 303
        assert (bench.account().name, bench.account().role) == ("u-2", Role.OPERATOR)


def test_a_local_account_is_not_taken_over_by_its_name(bench: Bench) -> None:
    with bench.database.write() as session:
        accounts.add(session, "ada", Role.ADMIN, ACTOR)
    with bench.browser() as client:
        answer = bench.sign_on(client)
        assert answer.status_code == 403
        assert "there is an account named ada already" in answer.text
    assert bench.account().issuer is None


def test_a_disabled_account_stays_out(bench: Bench) -> None:
    with bench.browser() as client:
        bench.sign_on(client)
        with bench.database.write() as session:
            accounts.disable(session, accounts.named(session, "ada"), ACTOR)
        answer = bench.sign_on(client)
        assert answer.status_code == 403
        assert "disabled" in answer.text


def test_the_way_back_works_only_in_the_browser_that_went(bench: Bench) -> None:
    with bench.browser() as attacker, bench.browser() as victim:
        address = bench.go(attacker)
        assert victim.get(address).status_code == 403  # without any cookie
        bench.go(victim)
        assert victim.get(address).status_code == 403  # with the cookie of another login
        assert victim.get("/account").status_code == 303


def test_an_id_token_that_is_not_for_this_login_is_refused(bench: Bench) -> None:
    refused: list[dict[str, Any]] = [
        {"nonce": "another"},
        {"aud": "another"},
        {"iss": "http://127.0.0.1:1"},
        {"exp": 1_000_000},
        {"sub": None},
    ]
    with bench.browser() as client:
        for claims in refused:
            bench.provider.claims = claims
            answer = bench.sign_on(client)
            assert answer.status_code == 403, claims
            assert "cannot be verified" in answer.text
    assert outcomes(bench.database, AuditAction.LOGIN) == []


def test_an_id_token_of_a_foreign_key_is_refused(bench: Bench) -> None:
    bench.provider.published_keys = [new_key()]
    with bench.browser() as client:
        assert bench.sign_on(client).status_code == 403
    assert outcomes(bench.database, AuditAction.LOGIN) == []


def test_a_key_that_the_provider_changed_is_read_anew(bench: Bench) -> None:
    with bench.browser() as client:
        assert bench.sign_on(client).status_code == 303
        bench.provider.key = new_key()
        assert bench.sign_on(client).status_code == 303
    assert bench.provider.asked.count("keys") == 2
    assert bench.provider.asked.count("configuration") == 1


def test_a_signature_by_a_shared_secret_is_none(bench: Bench) -> None:
    """Whoever can verify one can make one: the client's secret, or a public key taken for one."""
    found = oidc.IdentityProvider.of(bench.settings.web.oidc, bench.url)
    assert found is not None
    key = OctKey.generate_key(256, {"kid": "shared"})
    found._keys = KeySet([key])
    now = int(time.time())
    claims = {"iss": bench.provider.issuer, "aud": "node", "sub": "u-1", "nonce": "n"}
    claims |= {"iat": now, "exp": now + 60}
    forged = jwt.encode({"alg": "HS256", "kid": "shared"}, claims, key, algorithms=["HS256"])
    with pytest.raises(SignOnError, match="cannot be verified"):
        found._claims({"id_token": forged}, "n")


def test_an_access_token_goes_nowhere_without_tls(bench: Bench) -> None:
    bench.provider.hidden = ("groups",)
    bench.provider.userinfo = "http://idp.example/userinfo"
    with bench.browser() as client:
        answer = client.get("/sign-on")
        assert (answer.status_code, "addresses without TLS" in answer.text) == (403, True)


def test_codes_that_let_nobody_in_are_passed_on_to_the_provider_so_often(bench: Bench) -> None:
    with bench.browser() as client:
        back = urlsplit(bench.go(client))
        cookies = {"Cookie": f"dicom-node-sign-on={client.cookies['dicom-node-sign-on']}"}
        state = parse_qs(back.query)["state"][0]
        codes = [
            client.get(back.path, params={"code": f"{number}", "state": state}, headers=cookies)
            for number in range(62)
        ]
        assert [each.status_code for each in codes] == [403] * 60 + [429] * 2
        assert "too many failed logins" in codes[-1].text.lower()
    assert bench.provider.asked.count("token") == 60


def test_the_page_to_go_on_to_fits_into_a_cookie(bench: Bench) -> None:
    with bench.browser() as client:
        for path in ("/\u20ac", f"/{'x' * 5000}"):
            back = bench.go(client, path)
            assert client.get(back).headers["location"] == "/"


def test_who_cancels_at_the_provider_is_told(bench: Bench) -> None:
    bench.provider.refuses = True
    with bench.browser() as client:
        answer = bench.sign_on(client)
        assert (answer.status_code, "let nobody in" in answer.text) == (403, True)


def test_a_provider_that_is_away_leaves_the_other_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        _bench(
            tmp_path, monkeypatch, issuer=f"http://127.0.0.1:{free_port()}", timeout_seconds=2
        ) as bench,
        bench.browser() as client,
    ):
        answer = client.get("/sign-on")
        assert answer.status_code == 403
        assert "does not answer" in answer.text
        assert 'name="password"' in answer.text
        for _ in range(25):
            client.get("/sign-on")
        assert len(outcomes(bench.database, AuditAction.LOGIN_FAILED)) == 20
        wrong = {"name": "ada", "password": "wrong horse battery"}
        refused = client.post("/login", data=wrong)
        assert refused.status_code == 403  # not 429: passwords are counted for themselves


def test_the_secret_is_read_from_a_file_and_its_lack_ends_the_start(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    given = {"issuer": "https://idp.example", "client_id": "node", "roles": ROLES}
    settings = OidcSettings.model_validate({**given, "client_secret_file": path})
    with pytest.raises(StartError, match=r"client_secret_file .* cannot be read: No such file"):
        oidc.IdentityProvider.of(settings, "https://node.example")
    secret = secrets.token_hex(8)
    path.write_text(f"{secret}\n")
    found = oidc.IdentityProvider.of(settings, "https://node.example")
    assert found is not None
    assert found._secret == secret
    assert secret not in repr(found)
    path.write_text("\n")
    with pytest.raises(StartError, match="is empty"):
        oidc.IdentityProvider.of(settings, "https://node.example")
    variable = OidcSettings.model_validate({**given, "client_secret_variable": "NODE_NOTHING"})
    with pytest.raises(StartError, match="the environment has no NODE_NOTHING"):
        oidc.IdentityProvider.of(variable, "https://node.example")
