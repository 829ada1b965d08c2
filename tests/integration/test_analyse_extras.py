"""`dicom-worker analyse` with everything that it can write."""

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pytest
from analysing import analyse_here
from builders import analysed_image, chest_dataset, chest_image, write_part10
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.settings import load_settings
from worker import analyse
from worker.sandbox import Sandbox
from worker.training.phantom import make_phantom

EXTRAS = ("--capture", "--presentation-state", "--pdf")
CLASSES = {
    "sc": "1.2.840.10008.5.1.4.1.1.7",
    "pr": "1.2.840.10008.5.1.4.1.1.11.1",
    "pdf": "1.2.840.10008.5.1.4.1.1.104.1",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    phantom = make_phantom(7, 512, 20.0)
    ds = chest_dataset(pixels=phantom.pixels >> 4)
    return write_part10(tmp_path_factory.mktemp("in") / "a.dcm", ds)


def _analyse(*arguments: Path | str) -> str:
    done = analyse_here(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_option_writes_its_object_and_the_same_bytes_again(
    source: Path, tmp_path: Path
) -> None:
    (row,) = [json.loads(_analyse(source, "--out", tmp_path / "one", *EXTRAS, "--json"))]
    _analyse(source, "--out", tmp_path / "two", *EXTRAS)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    uid, study = row["sop_instance_uid"], row["study_instance_uid"]
    images = ("overlay.png", "pr.dcm", "sc.dcm", "seg.dcm")
    studies = ("pdf.dcm", "sr.dcm")
    expected = [f"{uid}.{each}" for each in images] + [f"{study}.{each}" for each in studies]
    assert names == sorted(expected)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for kind, sop_class in CLASSES.items():
        assert dcmread(row["files"][kind]).SOPClassUID == sop_class


def test_what_cannot_be_made_is_left_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object, **__: object) -> Dataset:
        raise IndexError("Doe^John")  # noqa: EM101  a name in it must not be logged

    for name in ("build_secondary_capture", "build_presentation_state", "_page"):
        monkeypatch.setattr(analyse, name, broken)
    image = analysed_image(chest_image(ds=dcmread(source)))
    monkeypatch.setattr(analyse, "analyse_image", lambda *_: image)
    settings, segmenter = load_settings(None, data_dir=tmp_path / "data"), None
    everything = analyse.Extras(capture=True, presentation_state=True, pdf=True)
    with closing(Sandbox(settings)) as sandbox:
        run = analyse.FileAnalysis(sandbox, segmenter, settings, tmp_path, extras=everything)
        (result,) = run.results([source])
    row = result.as_row()
    assert row["status"] == "analysed"
    assert [kind for kind, path in row["files"].items() if path] == ["seg", "sr", "overlay"]
    assert caplog.text.count("left out: IndexError") == 3
    assert "Doe" not in caplog.text


def test_without_them_nothing_more_is_written(source: Path, tmp_path: Path) -> None:
    (row,) = csv.DictReader(io.StringIO(_analyse(source, "--out", tmp_path, "--csv")))
    assert len(list(tmp_path.iterdir())) == 3
    assert [row[f"files_{kind}"] for kind in CLASSES] == ["", "", ""]
