"""A phantom study through a node, opened in OHIF through the node's own DICOMweb, one picture.

`make ohif-node` runs it: not in the gate, because it wants Chromium, npm and minutes. Prints what
the browser's console said, ends with 1 unless the SEG is drawn over the radiograph.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path
from typing import Final

from nodes import make_node, store
from ohif_page import serving
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, FloatRect, Page, sync_playwright
from web_accounts import bearer

from dicom_node.demo.node import NodeProcess, running
from models.account import Role, Scope
from models.session import Database

_CONFIGURATION: Final = Path(__file__).resolve().parents[2] / "deploy" / "ohif" / "app-config.js"
_SIZE: Final = {"width": 1400, "height": 860}
_SWITCHES: Final = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_CANVAS: Final = "canvas.cornerstone-canvas"
_THUMBNAILS: Final = (
    '[data-cy="study-browser-thumbnail"], [data-cy="study-browser-thumbnail-no-image"]'
)
_MILLISECONDS: Final = 300_000
_SECONDS: Final = 300.0
_RENDERING_SECONDS: Final = 20
_COLOURS: Final = 160
_PANEL: Final = '[data-cy^="panelSegmentation"]'
_MIDDLE: Final[FloatRect] = {"x": 420, "y": 170, "width": 540, "height": 560}  # of the radiograph
_GREY: Final = 24  # the largest difference of two channels
_SOME: Final = 0.05


def fill(node: NodeProcess, folder: Path) -> str:
    """Send one phantom by C-STORE; return the study's UID when SEG and SR are made."""
    program = Path(sys.executable).with_name("dicom-worker")
    subprocess.run([program, "phantom", "--out", folder / "in"], check=True, capture_output=True)
    image = max((folder / "in").rglob("*.dcm"), key=lambda path: path.parent.name)
    assert store(node.dicom_port, image) == [0]
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        for result in node.results():
            if result.product("seg") and result.product("sr"):
                return result.study_instance_uid
        time.sleep(2)
    msg = "the node made no SEG and SR in time"
    raise TimeoutError(msg)


def photograph(browser: Browser, url: str, out: Path) -> tuple[bool, list[str]]:
    """Open the study and its SEG; say whether that coloured the radiograph, and the errors."""
    errors: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            errors.append(message.text.splitlines()[0])

    page = browser.new_page(viewport=_SIZE, locale="en-GB")
    page.on("console", hear)
    page.goto(url, timeout=_MILLISECONDS)
    page.wait_for_selector(_CANVAS, timeout=_MILLISECONDS)
    for name in ("Skip all", "Confirm and hide"):  # the tour, and what OHIF says about its use
        page.get_by_text(name, exact=True).click(timeout=_MILLISECONDS)
    page.get_by_text("SEG", exact=True).first.wait_for(timeout=_MILLISECONDS)
    time.sleep(_RENDERING_SECONDS)
    before = _colours(page)
    thumbnails = page.query_selector_all(_THUMBNAILS)
    next(each for each in thumbnails if "SEG" in each.inner_text()).dblclick()
    page.get_by_text("Yes", exact=True).click(timeout=_MILLISECONDS)  # open this Segmentation?
    page.locator(_PANEL).first.click(timeout=_MILLISECONDS)
    time.sleep(_RENDERING_SECONDS)
    after = _colours(page)
    page.screenshot(path=out)
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(out, optimize=True)
    return before < _SOME < after, errors


def _colours(page: Page) -> float:
    """Return which part of the middle of the page is no grey."""
    with Image.open(BytesIO(page.screenshot(clip=_MIDDLE))) as picture:
        data = picture.convert("RGB").resize((200, 200)).tobytes()
    pixels = list(zip(data[::3], data[1::3], data[2::3], strict=True))
    return sum(max(pixel) - min(pixel) > _GREY for pixel in pixels) / len(pixels)


def main() -> None:
    """Run it all in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ohif", type=Path, required=True, help="`dist` of the package @ohif/app")
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        node = make_node(Path(scratch) / "node")
        with running(node), sync_playwright() as browsers:
            study = fill(node, Path(scratch))
            database = Database(f"sqlite:///{node.data_dir / 'node.db'}")
            token = bearer(database, Role.VIEWER, Scope.RESULTS)
            database.dispose()
            browser = browsers.chromium.launch(executable_path="/usr/bin/chromium", args=_SWITCHES)
            with serving(options.ohif, node.web_port, _CONFIGURATION.read_text(), token) as url:
                address = f"{url}/viewer?StudyInstanceUIDs={study}"
                is_drawn, errors = photograph(browser, address, options.out)
            browser.close()
    for each in errors:
        sys.stdout.write(f"{each}\n")
    sys.stdout.write("SEG: drawn\n" if is_drawn else "SEG: nothing is drawn\n")
    sys.exit(0 if is_drawn else 1)


if __name__ == "__main__":
    main()
