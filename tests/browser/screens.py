"""Take docs/screens anew: every page at two widths, in light and in dark (`make screens`).

The node, its results and its people are those of the tests (scene.py): phantoms, nobody's data.
"""

import argparse
import re
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Final

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scene import PASSWORD, Scene, running_scene

_CHROMIUM: Final = "/usr/bin/chromium"
_WIDTHS: Final = (1440, 800)
_COLOURS: Final = ("dark", "light")
_TALLEST: Final = 1300
_LATE_MINUTES: Final = 15.0
_SHADES: Final = (192, 128, 96, 64, 48)  # of the picture's own palette: fewer, until it is small
_MOST_BYTES: Final = 150_000
_SETTLE_MILLISECONDS: Final = 1500


def pages(scene: Scene) -> dict[str, str]:
    """Return the address of each page by the name of its picture."""
    return {
        "worklist": "/",
        "study": scene.study("trend"),
        "study-with-doubts": scene.study("inverted"),
        "study-without-figure": scene.study("lateral"),
        "deliveries": "/deliveries",
        "quarantine": "/quarantine",
        "quarantined": f"/quarantine/{_first_quarantined(scene)}",
        "audit": "/audit",
        "system": "/system",
        "models": "/models",
        "accounts": "/accounts",
        "tokens": "/tokens",
        "account": "/account",
    }


def _first_quarantined(scene: Scene) -> int:
    with closing(sqlite3.connect(scene.node.data_dir / "node.db", timeout=30)) as database:
        query = "SELECT min(id) FROM instance WHERE state = 'quarantined'"
        return int(database.execute(query).fetchone()[0])


def live_a_morning(scene: Scene, page: Page) -> None:
    """Let a reader work, so that the pages show what work leaves."""
    _log_in(page, scene, "rita")
    page.goto(scene.study("mild"))
    page.get_by_role("button", name="Claim").click()
    page.get_by_label("Percentage that you see").fill("4.5")
    page.get_by_label("Remark").fill("The scapula was counted")
    page.get_by_role("button", name="Correct").click()
    page.goto(scene.study("clear"))
    page.get_by_role("button", name="Accept").click()
    page.get_by_role("button", name="Mark as read").click()
    page.goto(scene.study("trend"))
    page.get_by_role("button", name="Claim").click()
    with closing(sqlite3.connect(scene.node.data_dir / "node.db", timeout=30)) as database:
        database.execute(
            "UPDATE study SET last_received_at = datetime('now', '-40 minutes') || '.000000' "
            "WHERE state = 'open'"
        )
        database.commit()
    scene.node.run("audit", "verify")


def take(browser: Browser, scene: Scene, out: Path) -> None:
    """Take every picture."""
    for colours in _COLOURS:
        context = browser.new_context(color_scheme=colours, locale="en-GB")
        page = context.new_page()
        page.set_viewport_size({"width": _WIDTHS[0], "height": 900})
        page.goto(f"{scene.url}/login")
        _shoot(page, out, "login", colours)
        _log_in(page, scene, "ada")
        for name, path in pages(scene).items():
            page.goto(path if path.startswith("http") else f"{scene.url}{path}")
            while page.get_by_text("being counted").count():
                page.wait_for_timeout(_SETTLE_MILLISECONDS)
                page.reload()
            expect(page.get_by_text("Asking them")).to_have_count(0, timeout=30_000)
            _shoot(page, out, name, colours)
        context.close()


def _shoot(page: Page, out: Path, name: str, colours: str) -> None:
    for width in _WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(_SETTLE_MILLISECONDS)
        path = out / f"{name}-{width}-{colours}.png"
        page.screenshot(path=path, full_page=True)
        with Image.open(path) as picture:
            cut = picture.convert("RGB").crop((0, 0, width, min(picture.height, _TALLEST)))
        _save(cut, path)


def _save(picture: Image.Image, path: Path) -> None:
    """Write a picture with as many colours as its size allows; the rare ones are kept, too."""
    for shades in _SHADES:
        few = picture.quantize(shades, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        if path.stat().st_size <= _MOST_BYTES:
            return


def _log_in(page: Page, scene: Scene, name: str) -> None:
    page.goto(f"{scene.url}/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile(r"/$"))


def main() -> None:
    """Run the scene in a folder of its own and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the pictures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_scene(Path(scratch), _LATE_MINUTES, is_hostile=False) as scene,
        sync_playwright() as browsers,
    ):
        browser = browsers.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context()
        live_a_morning(scene, context.new_page())
        context.close()
        take(browser, scene, out)
        browser.close()
    sys.stdout.write(f"{len(list(out.glob('*.png')))} pictures in {out}\n")


if __name__ == "__main__":
    main()
