"""What an open page does by itself, in a real browser whose clock the test moves."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from readings import add_study
from web_accounts import browser as logged_in
from web_served import served, web_settings

from dicom_node.web.access.cookies import SESSION
from models.account import Role

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def test_a_page_with_a_stream_still_looks_once_a_minute(browser: Browser, tmp_path: Path) -> None:
    """Nothing tells of a result that is late by now, nor of a change that the stream missed."""
    with served(web_settings(tmp_path)) as (database, client):
        url = str(client.base_url)
        context = browser.new_context(locale="en-GB")
        secret = logged_in(database, Role.VIEWER).secret
        context.add_cookies([{"name": SESSION, "value": secret, "url": url}])
        page = context.new_page()
        page.clock.install()
        asked: list[str] = []
        page.on("request", lambda it: asked.append(it.url) if it.url == f"{url}/" else None)
        page.goto(f"{url}/")
        expect(page.locator("#live")).to_have_text("Live")
        uid = add_study(database, 80.0)  # without an event
        page.clock.fast_forward(30_000)
        assert len(asked) == 1
        page.clock.fast_forward(31_000)
        expect(page.locator(f'tr[data-href="/studies/{uid}"]')).to_be_visible()
        assert len(asked) == 2
        context.close()
