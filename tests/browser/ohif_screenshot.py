"""A phantom study through a node into Orthanc, every series of it opened in OHIF, one picture.

`make ohif` runs it: not in the gate, because it wants Chromium, npm and minutes. Prints one line
per series with what the browser's console said; ends with 1 unless CR and SC are shown.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dicomweb import WebOrthanc
from nodes import make_node, store, wait_for_results
from ohif_page import serving
from PIL import Image
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

from dicom_node.demo.node import running
from dicom_node.demo.pacs import find_orthanc

_SIZE: Final = {"width": 1400, "height": 860}
_SWITCHES: Final = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_THUMBNAILS: Final = (
    '[data-cy="study-browser-thumbnail"], [data-cy="study-browser-thumbnail-no-image"]'
)
_CANVAS: Final = "canvas.cornerstone-canvas"
_MODALITIES: Final = ("CR", "OT", "SR", "SEG")  # SEG last: it may take the whole page with it
_CAPTURE: Final = "OT"  # Modality of our Secondary Capture
_MILLISECONDS: Final = 300_000
_RENDERING_SECONDS: Final = 15
_COLOURS: Final = 128


@dataclass
class _Opened:
    """What became of one series."""

    errors: list[str] = field(default_factory=list)
    page_lives: bool = False
    is_drawn: bool = False

    def __str__(self) -> str:
        empty = "nothing is drawn" if self.page_lives else "the whole page is empty"
        return "; ".join(["drawn" if self.is_drawn else empty, *self.errors])


def fill(pacs: WebOrthanc, folder: Path) -> str:
    """Send one phantom to a node and to `pacs`; return the study's UID when all results are in."""
    program = Path(sys.executable).with_name("dicom-worker")
    subprocess.run([program, "phantom", "--out", folder / "in"], check=True, capture_output=True)
    image = next((folder / "in" / "PHANTOM-0001").glob("*.dcm"))
    destination = {
        "name": "ohif",
        "ae_title": pacs.ae_title,
        "host": "127.0.0.1",
        "port": pacs.port,
        "captures": "always",
    }
    with running(
        make_node(folder / "node", DICOM_NODE_DESTINATIONS=json.dumps([destination]))
    ) as node:
        store(node.dicom_port, image)
        store(pacs.port, image)
        (result,) = wait_for_results(node, 1)
        deadline = time.monotonic() + 60
        while len(pacs.objects()) < len(_MODALITIES) and time.monotonic() < deadline:
            time.sleep(1)
    return result.study_instance_uid


def open_series(page: Page, modality: str) -> _Opened:
    """Open the series of one modality in the viewer and listen to the browser's console."""
    opened = _Opened()

    def hear(message: ConsoleMessage) -> None:
        if message.type == "error":
            opened.errors.append(message.text.splitlines()[0])

    page.on("console", hear)
    thumbnails = page.query_selector_all(_THUMBNAILS)
    wanted = (each for each in thumbnails if each.inner_text().split()[0] == modality)
    if (thumbnail := next(wanted, None)) is not None:
        thumbnail.dblclick(timeout=_MILLISECONDS)
        time.sleep(_RENDERING_SECONDS)
        opened.page_lives = bool(page.inner_text("body").strip())
        opened.is_drawn = page.locator(f"{_CANVAS}:visible").count() > 0
    page.remove_listener("console", hear)
    return opened


def photograph(url: str, out: Path) -> dict[str, _Opened]:
    """Open every series, one after the other; the picture is of the Secondary Capture."""
    found = {}
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path="/usr/bin/chromium", args=_SWITCHES)
        page = browser.new_page(viewport=_SIZE, locale="en-GB")
        page.goto(url, timeout=_MILLISECONDS)
        page.wait_for_selector(_CANVAS, timeout=_MILLISECONDS)
        page.get_by_text("Skip all").click(timeout=_MILLISECONDS)  # the tour of a first visit
        for modality in _MODALITIES:
            found[modality] = open_series(page, modality)
            if modality == _CAPTURE:
                page.screenshot(path=out)
        browser.close()
    with Image.open(out) as picture:
        picture.convert("RGB").quantize(_COLOURS).save(out, optimize=True)
    return found


def main() -> None:
    """Run it all in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ohif", type=Path, required=True, help="`dist` of the package @ohif/app")
    parser.add_argument("--out", type=Path, required=True, help="the picture, PNG")
    options = parser.parse_args()
    orthanc = find_orthanc()
    if orthanc is None:
        sys.exit("Orthanc is not installed: apt-get install orthanc orthanc-dicomweb")
    with tempfile.TemporaryDirectory() as scratch:
        pacs = WebOrthanc(orthanc, Path(scratch) / "orthanc")
        try:
            study = fill(pacs, Path(scratch))
            with serving(options.ohif, pacs.http_port) as url:
                found = photograph(f"{url}/viewer?StudyInstanceUIDs={study}", options.out)
        finally:
            pacs.close()
    for modality, opened in found.items():
        sys.stdout.write(f"{modality}: {opened}\n")
    sys.exit(0 if found["CR"].is_drawn and found[_CAPTURE].is_drawn else 1)


if __name__ == "__main__":
    main()
