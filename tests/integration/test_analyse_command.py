"""`dicom-worker analyse` as its users run it: files in, SEG, SR, overlays and one line each out."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom as hd
import pytest
from analysing import analyse_here
from builders import DX, DX_FOR_PROCESSING, chest_dataset, write_part10
from PIL import Image
from pydicom import dcmread

CHESTS = {
    "cr_chest_ms_4248x3480_j2k_8bit.dcm",
    "cr_chest_pa_fuji9000_expl.dcm",
    "cr_chest_pa_fuji9000_impl.dcm",
    "cr_chest_pa_fuji9000_nopreamble.dcm",
}
CHEST = "cr_chest_pa_fuji9000_expl.dcm"
REFUSED = {
    "cr_extremity_": "body_part",
    "cr_hip_": "body_part",
    "cr_teeth_": "body_part",
    "cr_fuji_abdomen_": "body_part",
    "cr_fuji_skeletal_chest_a": "body_part",
    "cr_fuji_skeletal_chest_b": "body_part",
    "cr_fuji_skeletal_chest_c": "body_part",
    "cr_fuji_skeletal_chest_d": "lateral_view",
    "cr_fuji_skeletal_head": "lateral_view",
    "cr_fuji_skeletal_neck": "lateral_view",
    "cr_fuji_skeletal_pelvis_a": "lateral_view",
    "cr_fuji_skeletal_pelvis_b": "body_part",
    "cr_fuji_skeletal_lowext": "body_part",
    "cr_head_fuji": "not_human",
    "dx_chest_lidc0005": "lateral_view",
    "dx_class_modality_px": "modality",
    "dx_elbow": "body_part",
    "dx_hand": "body_part",
    "dx_ms_1840x1360": "body_part",
    "dx_thorax_fuji": "not_human",
}


First = tuple[Path, subprocess.CompletedProcess[str]]


def _rows(*arguments: Path | str) -> list[dict[str, Any]]:
    done = analyse_here(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def _by_name(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {Path(row["path"]).name: row for row in rows}


@pytest.fixture(scope="module")
def real(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of one run over every real file."""
    return _rows(data_root / "dicom", "--out", tmp_path_factory.mktemp("out"))


def test_every_file_gets_a_status(real: list[dict[str, Any]], data_root: Path) -> None:
    files = [path for path in (data_root / "dicom").rglob("*") if path.is_file()]
    assert sorted(row["path"] for row in real) == sorted(map(str, files))
    assert {row["status"] for row in real} <= {"analysed", "not_analysed", "failed"}
    assert all((row["reason"] is None) == (row["status"] == "analysed") for row in real)


def test_real_radiographs_by_name(real: list[dict[str, Any]]) -> None:
    rows = {name: row for name, row in _by_name(real).items() if "/crdx/" in row["path"]}
    assert {name for name, row in rows.items() if row["status"] == "analysed"} == CHESTS
    for name in rows.keys() - CHESTS:
        expected = next(reason for start, reason in REFUSED.items() if name.startswith(start))
        assert (name, rows[name]["reason"]) == (name, expected)


def test_nothing_else_is_analysed_and_nothing_fails(real: list[dict[str, Any]]) -> None:
    others = [row for row in real if "/crdx/" not in row["path"]]
    assert {row["status"] for row in others} == {"not_analysed"}


def test_written_objects_agree_with_the_line(real: list[dict[str, Any]]) -> None:
    for row in (row for row in real if row["status"] == "analysed"):
        seg = hd.seg.segread(row["files"]["seg"])
        left, right, opacity = seg.pixel_array.astype(bool)
        assert int(left.sum()) == row["lung_pixels"]["left"]
        assert int((left | right).sum()) == row["lung_pixels"]["total"]
        assert int(opacity.sum()) == row["opacity_pixels"]["total"]
        report = dcmread(row["files"]["sr"])
        assert seg.SOPInstanceUID in report.to_json()
        with Image.open(row["files"]["overlay"]) as overlay:
            assert overlay.mode == "RGB"


def test_a_shared_uid_gets_the_hash_as_suffix(real: list[dict[str, Any]]) -> None:
    names = [Path(row["files"]["seg"]).name for row in real if "fuji9000" in row["path"]]
    uid = "1.2.392.200036.9125.0.19950720112207"
    assert sorted(re.sub(r"\.[0-9a-f]{12}\.seg", ".HASH.seg", name) for name in names) == [
        f"{uid}.HASH.seg.dcm",
        f"{uid}.HASH.seg.dcm",
        f"{uid}.seg.dcm",
    ]
    assert len(set(names)) == 3


@pytest.fixture
def chest(data_root: Path) -> Path:
    return data_root / "dicom" / "crdx" / CHEST


@pytest.fixture(scope="module")
def first(data_root: Path, tmp_path_factory: pytest.TempPathFactory) -> First:
    """The results of one chest, and what the command said as a process of its own."""
    out = tmp_path_factory.mktemp("first")
    program = [sys.executable, "-m", "worker", "analyse", "--device", "cpu"]
    arguments = [data_root / "dicom" / "crdx" / CHEST, "--out", out, "--json"]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out, done


def test_the_same_input_gives_the_same_bytes(chest: Path, first: First, tmp_path: Path) -> None:
    _rows(chest, "--out", tmp_path)
    files = sorted(path.name for path in first[0].iterdir())
    assert len(files) == 3
    assert files == sorted(path.name for path in tmp_path.iterdir())
    for name in files:
        assert (first[0] / name).read_bytes() == (tmp_path / name).read_bytes()


def test_results_are_never_analysed_again(first: First, tmp_path: Path) -> None:
    rows = _by_name(_rows(first[0], "--out", tmp_path / "second"))
    reasons = {name.rsplit(".", 2)[-2]: row["reason"] for name, row in rows.items()}
    assert reasons == {"seg": "own_result", "sr": "own_result", "overlay": "not_dicom"}


def test_an_absent_uid_is_replaced(chest: Path, tmp_path: Path) -> None:
    ds = dcmread(chest)
    del ds.SOPInstanceUID
    del ds.StudyInstanceUID
    ds.save_as(tmp_path / "anonymous.dcm")
    (row,) = _rows(tmp_path / "anonymous.dcm", "--out", tmp_path / "out")
    assert row["status"] == "analysed"
    assert Path(row["files"]["seg"]).name == f"{row['sop_instance_uid']}.seg.dcm"
    assert re.fullmatch(r"2\.25\.[0-9]+", row["sop_instance_uid"])


def test_for_processing_gives_way_to_its_sibling(chest: Path, tmp_path: Path) -> None:
    for name, sop_class in (("raw", DX_FOR_PROCESSING), ("shown", DX)):
        ds = dcmread(chest)
        ds.SOPClassUID, ds.Modality = sop_class, "DX"
        ds.SOPInstanceUID = f"{ds.SOPInstanceUID}.{len(name)}"
        write_part10(tmp_path / "in" / name, ds)
    rows = _by_name(_rows(tmp_path / "in", "--out", tmp_path / "out"))
    assert rows["raw"]["reason"] == "for_processing_sibling"
    assert rows["shown"]["status"] == "analysed"
    alone = _rows(tmp_path / "in" / "raw", "--out", tmp_path / "out2")
    assert alone[0]["status"] == "analysed"


def _pair(chest: Path, folder: Path) -> Path:
    """Copy a chest, and beside it a lateral of the same study that has no SOP Instance UID."""
    write_part10(folder / "a.dcm", dcmread(chest))
    ds = dcmread(chest)
    ds.ViewPosition = "LL"
    del ds.SOPInstanceUID
    ds.save_as(folder / "b.dcm")
    return folder


def test_the_report_lists_the_refused_images_of_its_study(chest: Path, tmp_path: Path) -> None:
    folder = _pair(chest, tmp_path / "in")
    rows = _by_name(_rows(folder, "--out", folder))
    assert (rows["b.dcm"]["reason"], rows["b.dcm"]["files"]["sr"]) == ("lateral_view", None)
    assert rows["b.dcm"]["sop_instance_uid"] is None
    path = Path(rows["a.dcm"]["files"]["sr"])
    (listed,) = dcmread(path).ContentSequence[-1].ContentSequence
    assert listed.ConceptCodeSequence[0].CodeValue == "LATERAL_VIEW"
    assert re.fullmatch(r"2\.25\.[0-9]+", listed.ContentSequence[0].UID)
    assert listed.ContentSequence[1].TextValue == rows["b.dcm"]["detail"]
    before = path.read_bytes()  # SEG and SR now lie in the folder that is read again
    again = _by_name(_rows(folder, "--out", folder))
    assert "own_result" in {row["reason"] for row in again.values()}
    assert path.read_bytes() == before


def test_one_file_given_twice_is_one_image(chest: Path, tmp_path: Path) -> None:
    shutil.copy(chest, tmp_path / "a.dcm")
    shutil.copy(chest, tmp_path / "b.dcm")
    rows = _rows(tmp_path / "a.dcm", tmp_path / "b.dcm", tmp_path, "--out", tmp_path / "out")
    assert len(rows) == 2
    assert rows[0]["files"] == rows[1]["files"]


def test_csv_has_one_line_per_file(tmp_path: Path) -> None:
    write_part10(tmp_path / "in" / "a.dcm", chest_dataset(ViewPosition="LL"))
    (tmp_path / "in" / "b.txt").write_text("no DICOM")
    done = analyse_here(tmp_path / "in", "--out", tmp_path / "out", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["reason"] for row in rows] == ["not_dicom", "lateral_view"]
    assert rows[0]["opacity_percent_total"] == ""


def test_a_table_for_people(tmp_path: Path) -> None:
    write_part10(tmp_path / "in" / "[red]a.dcm", chest_dataset(ViewPosition="LL"))
    done = analyse_here(tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0
    assert "[red]a.dcm" in done.stdout
    assert "lateral_view" in done.stdout


@pytest.mark.parametrize(
    "wrong",
    [
        ["nowhere", "--out", "out"],
        [".", "--out", "/proc/nothing"],
        [".", "--out", "out", "--model", "unknown"],
        [".", "--out", "out", "--config", "missing.toml"],
        ["."],
        [],
    ],
    ids=str,
)
def test_unusable_arguments_exit_2(wrong: list[str], tmp_path: Path) -> None:
    arguments = [str(tmp_path / it) if it in {".", "out"} else it for it in wrong]
    assert analyse_here(*arguments).returncode == 2


def test_logs_hold_no_patient_data(chest: Path, first: First) -> None:
    _, done = first
    name = str(dcmread(chest).PatientName)
    assert name
    assert name not in done.stderr + done.stdout
