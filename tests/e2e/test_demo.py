"""`dicom-node demo` on phantoms, and on a folder of somebody's own."""

import io
from pathlib import Path

import pytest
from nodes import make_chest
from rich.console import Console

from dicom_node.demo import run_demo
from dicom_node.demo.pacs import find_orthanc

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def _run(source: Path | None, out: Path, *, use_orthanc: bool = True) -> tuple[int, str]:
    text = io.StringIO()
    console = Console(file=text, width=200)
    status = run_demo(source, out, console=console, use_orthanc=use_orthanc)
    return status, text.getvalue()


def test_demo_on_phantoms(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    status, text = _run(None, out)
    assert status == 0, text
    assert "not analysed: The image is a lateral view." in text
    overlays = list((out / "overlays").glob("*.png"))
    segmentations = list((out / "results").glob("*.seg.dcm"))
    reports = list((out / "results").glob("*.sr.dcm"))
    assert (len(overlays), len(segmentations), len(reports)) == (6, 6, 5)
    assert ("PACS: Orthanc" in text) == (find_orthanc() is not None)


def test_demo_without_orthanc_on_own_files(tmp_path: Path) -> None:
    """One image, one file that is no DICOM: our own storage SCP serves as PACS."""
    source = tmp_path / "mine"
    make_chest(source / "chest.dcm")
    (source / "notes.txt").write_text("no DICOM")
    status, text = _run(source, tmp_path / "demo", use_orthanc=False)
    assert status == 0, text
    assert "our own storage SCP" in text
    assert [each.name for each in (tmp_path / "demo" / "overlays").iterdir()] == ["chest.png"]


def test_demo_refuses_a_folder_that_it_did_not_make(tmp_path: Path) -> None:
    keep = tmp_path / "precious.txt"
    keep.write_text("mine")
    status, text = _run(None, tmp_path)
    assert status == 1
    assert "choose another folder" in text
    assert keep.read_text() == "mine"


def test_demo_says_when_there_is_nothing_to_send(tmp_path: Path) -> None:
    source = tmp_path / "empty"
    source.mkdir()
    status, text = _run(source, tmp_path / "out")
    assert status == 1
    assert "no DICOM file" in text
