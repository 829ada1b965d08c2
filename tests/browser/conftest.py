"""One node with results and one browser for all tests of this folder; a page for each person."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from absent import missing
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright
from scene import PASSWORD, Scene, running_scene

CHROMIUM: Final = Path("/usr/bin/chromium")
WIDE: Final = {"width": 1440, "height": 900}
_MILLISECONDS: Final = 20_000
_REFUSED: Final = re.compile(r"status of (403|409)")


@dataclass
class Window:
    """A page of somebody who is logged in, and what the browser complained of."""

    page: Page
    scene: Scene
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str, status: int = 200) -> Page:
        """Go to a page of the node and see that it is there."""
        answer = self.page.goto(path if path.startswith("http") else f"{self.scene.url}{path}")
        assert answer is not None
        assert answer.status == status, f"{path}: {answer.status}"
        return self.page

    def hear(self) -> None:
        """Note what broken scripts, refused styles and injected code make the browser say.

        Not that the node refused something: tests ask for what is refused.
        """

        def of_console(message: ConsoleMessage) -> None:
            if message.type in {"error", "warning"} and not _REFUSED.search(message.text):
                self.complaints.append(message.text)

        self.page.on("console", of_console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._note_dialog)

    def _note_dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()


class _Kept:
    """What the tests of the folder share, and the tests after them must not wait beside."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._scene: Scene | None = None
        self._browser: Browser | None = None
        self.logins: dict[str, Any] = {}

    def scene(self, factory: pytest.TempPathFactory) -> Scene:
        if self._scene is None:
            made = running_scene(factory.mktemp("scene"))
            self._scene = self._running.enter_context(made)
        return self._scene

    def browser(self) -> Browser:
        if self._browser is None:
            browsers = self._running.enter_context(sync_playwright())
            expect.set_options(timeout=_MILLISECONDS)
            started = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            self._browser = self._running.enter_context(closing(started))
        return self._browser

    def end(self) -> None:
        running, self._running = self._running, ExitStack()
        self._scene, self._browser, self.logins = None, None, {}
        running.close()


_KEPT: Final = _Kept()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> Iterator[None]:
    """End node and browser after the last test of the folder: a node at rest computes as well."""
    yield
    if nextitem is None or nextitem.path.parent != Path(__file__).parent:
        _KEPT.end()


@pytest.fixture
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A node after a morning's work."""
    return _KEPT.scene(tmp_path_factory)


@pytest.fixture
def browser() -> Browser:
    """Debian's Chromium."""
    if not CHROMIUM.exists():
        missing("Chromium is not installed (chromium)")
    return _KEPT.browser()


@pytest.fixture
def _logins() -> dict[str, Any]:
    return _KEPT.logins


@pytest.fixture
def window(
    browser: Browser, scene: Scene, _logins: dict[str, Any]
) -> Iterator[Callable[..., Window]]:
    """Opens a window in which somebody is logged in; at the end nothing may have complained."""
    opened: list[Window] = []

    def make(name: str, **context: Any) -> Window:
        state = _logins.get(name) or _log_in(browser, scene, name)
        _logins[name] = state
        made = browser.new_context(
            **{"storage_state": state, "viewport": WIDE, "locale": "en-GB"} | context
        )
        page = made.new_page()
        page.set_default_timeout(_MILLISECONDS)
        opened.append(Window(page, scene))
        opened[-1].hear()
        return opened[-1]

    yield make
    complaints = [each for it in opened for each in it.complaints]
    for each in opened:
        each.page.context.close()
    assert complaints == []


def _log_in(browser: Browser, scene: Scene, name: str) -> Any:
    """Log in by the page, and return the cookies."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(_MILLISECONDS)
    page.goto(f"{scene.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(f"{scene.url}/")
    state = context.storage_state()
    context.close()
    return state
