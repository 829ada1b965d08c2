"""The pages in a real browser, as the radiologist, the administrator and the auditor use them.

Everything they see was made by the real worker and came over real associations. The tests stand in
the order of a day: later ones see what earlier ones did.
"""

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import Window
from playwright.sync_api import Locator, Page, expect
from pydicom import dcmread
from scene import NAME_XSS, SHORT_XSS, XSS, Exam, Scene, send
from servers import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

Windows = Callable[..., Window]
_SEG, _SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
_NOTICE = "Research use only. Not a medical device."


def _rows(page: Page) -> list[str]:
    return [row.inner_text() for row in page.locator("#rows tbody tr").all()]


def _first_row(page: Page) -> str:
    page.reload()
    return _rows(page)[0]


def _row(page: Page, patient_id: str) -> Locator:
    return page.locator("#rows tbody tr").filter(has_text=patient_id)


def _percent(text: str) -> float:
    found = re.search(r"([0-9.]+)\s*%", text)
    assert found is not None, text
    return float(found[1])


# The radiologist


def test_a_reader_sees_first_what_is_late_and_then_what_is_worst(window: Windows) -> None:
    page = window("rita").open("/")
    wait_until(lambda: "PH-2245" in _first_row(page), 60, "the study becomes late")
    rows = _rows(page)
    assert "Result late" in rows[0]
    assert "read anyway" in rows[0]
    ranked = [row for row in rows if "%" in row]
    percents = [_percent(row) for row in ranked]
    assert percents == sorted(percents, reverse=True)
    assert "PH-2117" in ranked[0] or "PH-1004" in ranked[0]
    assert "severe" in ranked[0]
    assert "high priority" in ranked[0]
    expect(page.get_by_text(_NOTICE)).to_be_visible()


def test_what_has_no_figure_says_why_and_never_0_percent(window: Windows, scene: Scene) -> None:
    it = window("rita")
    page = it.open("/")
    for patient_id, reason in (("PH-2201", "lateral view"), ("PH-2230", "paediatric")):
        text = _row(page, patient_id).inner_text()
        assert "No figure" in text
        assert reason in text
        assert "%" not in text
    page = it.open(scene.study("lateral"))
    expect(page.get_by_text("The image is a lateral view.").first).to_be_visible()
    expect(page.get_by_text("That is not 0 %")).to_be_visible()
    assert page.locator(".percent").count() == 0


def test_doubts_stand_beside_the_figure(window: Windows, scene: Scene) -> None:
    it = window("rita")
    assert "inverted" in _row(it.open("/"), "PH-1560").inner_text()
    page = it.open(scene.study("inverted"))
    doubts = page.get_by_role("note").filter(has_text="Deserves a second look")
    expect(doubts).to_contain_text("The grey scale of the image was inverted")


def test_a_reader_turns_pages_and_works_the_picture_by_keys(window: Windows, scene: Scene) -> None:
    page = window("rita").open("/")
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url("**/studies/*")
    page.goto(scene.study("severe"))
    layer, radiograph = page.locator("#layer"), page.locator(".radiograph")
    size = "image => [image.naturalWidth, image.naturalHeight]"
    assert layer.evaluate(size) == radiograph.evaluate(size) != [0, 0]
    page.keyboard.press("o")
    expect(layer).to_be_hidden()
    page.keyboard.press("o")
    expect(layer).to_be_visible()
    page.keyboard.press("[")
    assert float(layer.evaluate("image => image.style.opacity")) == pytest.approx(0.9)
    page.locator("#stage").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#zoom")).to_have_text("125 %")
    assert "translate(-40px, 0px) scale(1.25)" in page.locator("#picture").get_attribute("style")
    page.keyboard.press("i")
    assert "invert(1)" in radiograph.get_attribute("style")
    page.keyboard.press("r")
    expect(page.locator("#zoom")).to_have_text("100 %")
    page.locator("#window").fill("50")
    assert "contrast(2)" in radiograph.get_attribute("style")
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()


def test_the_page_says_what_the_figure_is_worth(window: Windows, scene: Scene) -> None:
    page = window("rita").open(scene.study("trend"))
    expect(page.get_by_role("heading", level=1)).to_have_text("PHANTOM, ALDER")
    total = _percent(page.locator(".result .percent").inner_text())
    lungs = page.get_by_role("table", name="Figures of each lung")
    assert _percent(lungs.get_by_role("row", name="Both").inner_text()) == total
    assert page.locator(".trend circle").count() == 3
    priors = page.get_by_role("table", name="Other exams, newest first").locator("tbody tr")
    newest = priors.first.inner_text()
    delta = float(re.search(r"\+([0-9.]+) points", newest)[1])
    assert delta == pytest.approx(total - _percent(newest), abs=0.11)
    expect(page.locator(".change")).to_contain_text(f"+{delta} points")
    provenance = page.get_by_role("region", name="Where the figure comes from").inner_text()
    assert re.search(r"unet \d+\.\d+\.\d+", provenance)
    assert len(re.findall(r"\b[0-9a-f]{64}\b", provenance)) == 3
    assert "not corrected for magnification" in provenance
    page.get_by_role("link", name="Image 2").click()
    expect(page.get_by_text("The image is a lateral view.").first).to_be_visible()


def test_results_are_downloaded_as_dicom(window: Windows, scene: Scene, tmp_path: Path) -> None:
    page = window("rita").open(scene.study("severe"))
    for label, sop_class in (("SEG of this image", _SEG), ("SR of the study", _SR)):
        with page.expect_download() as started:
            page.get_by_role("link", name=label).click()
        path = tmp_path / started.value.suggested_filename
        started.value.save_as(path)
        ds = dcmread(path)
        assert ds.SOPClassUID == sop_class
        assert ds.StudyInstanceUID == scene.exams["severe"].study_instance_uid


def test_a_study_is_claimed_corrected_and_read(window: Windows, scene: Scene) -> None:
    page = window("rita").open(scene.study("mild"))
    page.get_by_role("button", name="Claim").click()
    expect(page.locator(".reading")).to_contain_text("claimed by rita")
    other = window("ada").open(scene.study("mild"))
    assert other.get_by_role("button", name="Mark as read").count() == 0
    expect(other.locator(".reading")).to_contain_text("claimed by rita")
    page.get_by_label("Remark").fill("less than that")
    page.get_by_role("button", name="Correct").click()
    expect(page.get_by_role("alert")).to_contain_text("needs the percentage")
    page.get_by_label("Percentage that you see").fill("4.5")
    page.get_by_role("button", name="Correct").click()
    expect(page.locator(".opinions")).to_contain_text("rita corrected to 4.5 %")
    page.get_by_role("button", name="Mark as read").click()
    expect(page.locator(".reading")).to_contain_text("read by rita")
    page.goto(f"{scene.url}/?view=read")
    assert "PH-1877" in _rows(page)[0]


def test_a_patient_is_found_and_no_address_says_who(window: Windows, scene: Scene) -> None:
    it = window("rita")
    addresses: list[str] = []
    it.page.on("request", lambda request: addresses.append(request.url))
    page = it.open("/")
    page.get_by_label("Patient ID").fill("PH-1004")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("#rows tbody tr")).to_have_count(3)
    assert page.url == f"{scene.url}/"
    assert not any("PH-1004" in each for each in addresses)


def test_the_worklist_follows_what_comes(window: Windows, scene: Scene, tmp_path: Path) -> None:
    page = window("rita").open("/")
    expect(page.locator("#live")).to_have_text("Live")
    send(scene.node, tmp_path, Exam("PH-3001", "PHANTOM^LARCH", 0.1, None), 70)
    expect(_row(page, "PH-3001")).to_be_visible()
    page.get_by_label("Colours").select_option("dark")
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "dark"


# The administrator


def test_the_administrator_sees_what_is_stuck_and_sends_it_again(window: Windows) -> None:
    page = window("paul").open("/deliveries?state=rejected")
    rows = page.locator("#rows tbody tr")
    expect(rows.first).to_contain_text("0xA900")
    before = rows.count()
    rows.first.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status").filter(has_text="1 due again")).to_be_visible()
    away = page.get_by_role("region", name="Destination teaching-files")
    expect(away).to_contain_text("away")
    page.get_by_role("button", name=re.compile("Try again: all of research-archive")).click()
    expect(page.get_by_role("status").filter(has_text="due again")).to_be_visible()
    assert before > 1


def test_the_system_page_says_that_everything_flows(window: Windows) -> None:
    page = window("paul").open("/system")
    for _ in range(20):  # the first look begins the count
        if page.get_by_text("being counted").count() == 0:
            break
        page.wait_for_timeout(1000)
        page.reload()
    expect(page.get_by_text("✓ balanced")).to_be_visible()
    expect(page.get_by_role("region", name="Workers")).to_contain_text("answers")
    expect(page.get_by_role("img", name=re.compile("received, 1[0-9] analysed"))).to_be_visible()
    page.get_by_role("button", name=re.compile("whether pacs answers")).click()
    expect(page.get_by_role("status").filter(has_text="pacs answers C-ECHO")).to_be_visible()
    page.get_by_role("button", name=re.compile("whether teaching-files answers")).click()
    expect(page.get_by_role("alert")).to_contain_text("teaching-files")


def test_what_is_in_quarantine_is_corrected_and_analysed(window: Windows) -> None:
    page = window("paul").open("/quarantine")
    row = page.locator("#rows tbody tr").filter(has_text="no patient id")
    row.get_by_role("link").first.click()
    form = page.get_by_role("group", name="Correct the identity")
    form.get_by_label("Patient ID", exact=True).fill("PH-4000")
    form.get_by_label("Patient name").fill("PHANTOM^ASH")
    form.get_by_label("Reason").fill("named by the ward")
    form.get_by_role("button").click()
    page.wait_for_url("**/quarantine")
    expect(page.locator("#rows tbody tr").filter(has_text="no patient id")).to_have_count(0)
    page.goto(page.url.replace("/quarantine", "/"))
    expect(_row(page, "PH-4000")).to_contain_text("%", timeout=60_000)


def test_the_models_page_has_the_card_and_what_readers_said(window: Windows) -> None:
    page = window("paul").open("/models")
    card = page.get_by_role("region", name=re.compile("unet"))
    expect(card).to_contain_text("The lung fields include the region behind the heart")
    expect(card).to_contain_text("1 corrected")
    expect(card.get_by_role("cell", name="0.688")).to_be_visible()


# The auditor


def test_the_auditor_finds_who_saw_a_patient_and_takes_it_along(
    window: Windows, tmp_path: Path
) -> None:
    page = window("ada").open("/audit")
    page.get_by_label("Patient ID").fill("PH-1004")
    page.get_by_label("User").fill("rita")
    page.get_by_role("button", name="Find").click()
    events = page.locator("table.audit tbody tr")
    expect(events.first).to_contain_text("patient data read")
    assert page.url.endswith("/audit")
    for label, rows_of in (
        ("Export CSV", lambda text: list(csv.DictReader(io.StringIO(text)))),
        ("Export NDJSON", lambda text: [json.loads(line) for line in text.splitlines()]),
    ):
        with page.expect_download() as started:
            page.get_by_role("button", name=label).click()
        path = tmp_path / started.value.suggested_filename
        started.value.save_as(path)
        rows = rows_of(path.read_text(encoding="utf-8"))
        assert rows
        assert {row["actor"] for row in rows} == {"rita"}
        assert "PH-1004" in path.read_text(encoding="utf-8")


def test_the_auditor_sees_who_corrected_and_why(window: Windows) -> None:
    page = window("ada").open("/audit")
    page.get_by_label("Action").select_option("quarantine_ended")
    page.get_by_role("button", name="Find").click()
    event = page.locator("table.audit tbody tr").first
    expect(event).to_contain_text("paul")
    event.get_by_text("more").click()
    expect(event).to_contain_text("named by the ward")


def test_a_reader_is_not_shown_what_is_not_hers(window: Windows) -> None:
    it = window("rita")
    page = it.open("/")
    pages = page.get_by_role("navigation", name="Pages")
    assert [link.inner_text() for link in pages.get_by_role("link").all()] == ["Worklist", "Models"]
    for path in ("/deliveries", "/quarantine", "/audit", "/system"):
        it.open(path, 403)


# Everybody


@pytest.fixture
def every_page(scene: Scene) -> dict[str, str]:
    """The address of each page, by name."""
    return {
        "worklist": "/",
        "study": scene.study("trend"),
        "without a figure": scene.study("lateral"),
        "with doubts": scene.study("inverted"),
        "hostile": scene.study("hostile"),
        "deliveries": "/deliveries",
        "quarantine": "/quarantine",
        "quarantined": "/quarantine/14",
        "audit": "/audit",
        "system": "/system",
        "models": "/models",
        "accounts": "/accounts",
        "tokens": "/tokens",
        "account": "/account",
    }


@pytest.mark.parametrize(("colours", "width"), [("dark", 1440), ("light", 800)])
def test_axe_finds_nothing_serious(
    window: Windows, every_page: dict[str, str], colours: str, width: int
) -> None:
    it = window("ada", color_scheme=colours, viewport={"width": width, "height": 900})
    serious = {}
    for name, path in every_page.items():
        page = it.open(path)
        found = Axe().run(page).response["violations"]
        bad = [each for each in found if each["impact"] in {"serious", "critical"}]
        serious |= {f"{name}: {each['id']}": each["nodes"][0]["html"] for each in bad}
    assert serious == {}


def test_at_200_percent_nothing_is_beside_the_window(
    window: Windows, every_page: dict[str, str]
) -> None:
    it = window("ada", viewport={"width": 720, "height": 450}, device_scale_factor=2)
    beside = {}
    for name, path in every_page.items():
        page = it.open(path)
        too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        beside |= {name: too_wide} if too_wide > 0 else {}
    assert beside == {}


def test_hostile_text_of_a_header_is_text_on_every_page(
    window: Windows, every_page: dict[str, str]
) -> None:
    it = window("ada")
    seen = dict.fromkeys((XSS, SHORT_XSS, NAME_XSS), 0)
    for path in every_page.values():
        page = it.open(path)
        assert page.locator("img[src=x], svg[onload], main script").count() == 0
        text = page.locator("body").inner_text()
        for attempt in seen:
            seen[attempt] += attempt in text
    page.get_by_role("link", name="Audit").click()
    page.get_by_label("Patient ID").fill(f"X {XSS}")
    page.get_by_role("button", name="Find").click()
    expect(page.locator("table.audit tbody tr").first).to_contain_text(XSS)
    assert page.locator("img[src=x]").count() == 0
    assert all(seen.values()), seen
