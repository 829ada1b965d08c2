"""First start, login, accounts and tokens in a real browser: its cookies, its CSP, its Origin."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, expect
from web_accounts import ACTOR
from web_served import QUICK, app_of, migrated, serving, web_settings

from dicom_node import accounts
from models.account import Role
from models.session import Database

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

PASSWORD = "correct horse battery"  # noqa: S105  of a test


@dataclass
class Visit:
    """A page of a new browser on a new node."""

    page: Page
    database: Database
    url: str
    complaints: list[str] = field(default_factory=list)

    def invited(self, role: Role) -> str:
        with self.database.write() as session:
            return f"{self.url}/invitations/{accounts.invite(session, role, ACTOR)}"

    def is_sound(self) -> None:
        """No serious violation of WCAG, and nothing that the browser refused or missed."""
        found = Axe().run(self.page).response["violations"]
        grave = [each["id"] for each in found if each["impact"] in {"serious", "critical"}]
        assert (grave, self.complaints) == ([], [])


@pytest.fixture
def visit(browser: Browser, tmp_path: Path) -> Iterator[Visit]:
    settings = web_settings(tmp_path)
    with (
        migrated(settings) as database,
        serving(settings, database, app_of(settings, database)) as url,
    ):
        context = browser.new_context(base_url=url, locale="en-GB")
        made = Visit(context.new_page(), database, url)
        made.page.set_default_timeout(20_000)

        def hear(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"}:
                made.complaints.append(message.text)

        made.page.on("console", hear)
        made.page.on("pageerror", lambda error: made.complaints.append(str(error)))
        yield made
        context.close()


def _accept(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password, at least").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account").click()


def test_an_administrator_comes_in_invites_and_gives_a_token(visit: Visit) -> None:
    page = visit.page
    page.goto("/login")
    expect(page.get_by_text("Nobody has an account yet")).to_be_visible()
    visit.is_sound()
    page.goto(visit.invited(Role.ADMIN))
    visit.is_sound()
    _accept(page, "ada")
    page.wait_for_url(f"{visit.url}/")
    page.goto("/accounts")
    page.get_by_label("Invite somebody as").select_option("operator")
    page.get_by_role("button", name="Make a link").click()
    link = page.locator("code", has_text=re.compile("/invitations/")).inner_text()
    assert len(link.rsplit("/", 1)[1]) == 43
    visit.is_sound()
    page.goto("/tokens")
    page.get_by_label("Name of the token").fill("<i>nightly</i>")
    page.get_by_label("results").check()
    page.get_by_role("button", name="Make the token").click()
    expect(page.locator("code", has_text="dnt_")).to_be_visible()
    expect(page.get_by_role("rowheader", name="<i>nightly</i>")).to_be_visible()
    visit.is_sound()
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("cell", name="revoked")).to_be_visible()
    page.goto("/account")
    visit.is_sound()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(f"{visit.url}/login")
    cookies = {each["name"] for each in page.context.cookies()}
    assert "dicom-node-session" not in cookies


def test_a_session_is_hidden_from_scripts_and_ends_on_the_page_where_one_was(visit: Visit) -> None:
    page = visit.page
    page.goto(visit.invited(Role.VIEWER))
    _accept(page, "rita")
    page.wait_for_url(f"{visit.url}/")
    assert "session" not in page.evaluate("document.cookie")
    page.goto("/account")
    page.get_by_label("Current password").fill(PASSWORD)
    page.get_by_label("New password").fill(f"{PASSWORD} staple")
    page.get_by_label("The same again").fill(f"{PASSWORD} staple")
    page.get_by_role("button", name="Change it").click()
    page.wait_for_url(f"{visit.url}/account")
    page.context.clear_cookies()
    page.goto("/account")
    assert page.url == f"{visit.url}/login?next=/account"
    page.get_by_label("Name").fill("Rita")
    page.get_by_label("Password").fill(f"{PASSWORD} staple")
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{visit.url}/account")
    assert visit.complaints == []


def test_a_form_of_another_site_logs_nobody_in(visit: Visit) -> None:
    """The other site is another port: same-site, but not our origin."""
    page = visit.page
    with visit.database.write() as session:
        stored = QUICK.hash(PASSWORD)
        accounts.add(session, "mallory", Role.VIEWER, ACTOR, password_hash=stored)
    form = (
        f'<form method="post" action="{visit.url}/login">'
        f'<input name="name" value="mallory"><input name="password" value="{PASSWORD}">'
        '<input name="next" value="/"><button>Go</button></form>'
    )
    page.goto("data:text/html," + form.replace("#", "%23"))
    with page.expect_navigation() as went:
        page.get_by_role("button", name="Go").click()
    assert went.value is not None
    assert went.value.status == 403
    assert page.context.cookies() == []
