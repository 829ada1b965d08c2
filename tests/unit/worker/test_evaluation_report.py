"""The whole report, run on small pictures: its numbers, its files, and what it says is missing."""

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from remembered import network_asked_once

from worker.inference import Segmenter
from worker.registry import BUNDLES, find_bundle
from worker.training.cases import Case, load_manifest, write_manifest
from worker.training.curves import CrossValidation, read_curve
from worker.training.evaluate import measure, percent, segment_with
from worker.training.evaluate_command import evaluate
from worker.training.evaluation.estimates import Sampling
from worker.training.evaluation.measured import chest_image, compare, reading_of
from worker.training.evaluation.report import _network
from worker.training.evaluation.summary import sections_of
from worker.training.evaluation.timing import take_times
from worker.training.formats import LabelFormat
from worker.training.phantom import make_phantom

QUICK = "robustness,timing,phantoms"
READ, NORMALS = 5, 6


@pytest.fixture(autouse=True, scope="module")
def _asked_once() -> Iterator[None]:
    """The reports of this file are made of the same few pictures."""
    with network_asked_once():
        yield


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms as a hospital's own data: 5 read patients, 6 normals, outcomes of some."""
    folder = tmp_path_factory.mktemp("hospital")
    cases = []
    for number in range(READ + NORMALS):
        clear = number >= READ
        phantom = make_phantom(800_000 + number, 128, 0.0 if clear else 10.0 + 10 * number)
        image = folder / f"case{number}.png"
        Image.fromarray((phantom.pixels >> 8).astype(np.uint8)).save(image)
        case = Case(
            name=f"case{number}", image=image, split="test", source="ward", patient=str(number),
            view="AP" if number % 2 else "PA", normal=clear, age=40.0 + number,
        )  # fmt: skip
        if not clear:
            labels = folder / f"case{number}-mask.png"
            bits = 1 * phantom.left + 2 * phantom.right + 4 * phantom.opacity
            Image.fromarray(bits.astype(np.uint8)).save(labels)
            case = replace(
                case, labels=labels, format=LabelFormat.BITMASK, has_lung=True, has_opacity=True
            )
        cases.append(replace(case, survival="N" if number < READ else "Y"))
    write_manifest(cases, folder / "manifest.csv")
    return folder


def run(data: Path, out: Path, *more: str) -> Result:
    options = ["--device", "cpu", "--bootstrap", "50", *more]
    return CliRunner().invoke(evaluate, ["--data", str(data), "--out", str(out), *options])


def numbers(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return read


@pytest.fixture(scope="module")
def report(hospital: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    result = run(hospital, out, "--skip", QUICK)
    assert result.exit_code == 0, result.output
    assert "Opacity Dice, pixels pooled" in result.output
    return out


def test_the_numbers_are_those_of_the_served_model(report: Path, hospital: Path) -> None:
    segment = segment_with(Segmenter.load(find_bundle("unet"), "cpu"))
    found = numbers(report)
    cases = load_manifest(hospital)
    errors, both, areas, alarms = [], 0, 0, []
    for case in cases:
        masks = segment(case.pixels())
        if case.normal:
            alarms.append(percent(masks))
            continue
        left, right, opacity = case.masks()
        both += int((masks.opacity & opacity).sum())
        areas += int(masks.opacity.sum() + opacity.sum())
        true = 100 * (opacity & (left | right)).sum() / (left | right).sum()
        errors.append(percent(masks) - true)
    sections = found["sections"]
    assert sections["opacity"]["dice_pooled"]["value"] == pytest.approx(2 * both / areas)
    assert sections["percent"]["mae"]["value"] == pytest.approx(np.mean(np.abs(errors)))
    assert sections["normals"]["median"]["value"] == pytest.approx(np.median(alarms))
    assert sections["normals"]["p90"]["value"] == pytest.approx(np.percentile(alarms, 90))
    assert sections["lungs"]["lung_dice"]["images"] == READ
    assert found["about"]["normals_held_out"] == NORMALS
    assert found["point"]["threshold"] == found["model"]["threshold"]["opacity"]


def test_the_card_s_figures_are_those_of_the_report(report: Path, hospital: Path) -> None:
    segment = segment_with(Segmenter.load(find_bundle("unet"), "cpu"))
    figures = measure(segment, hospital, range(800_000, 800_002))
    sections = numbers(report)["sections"]
    assert figures["opacity_dice_pooled"] == sections["opacity"]["dice_pooled"]["value"]
    assert figures["percent_bias"] == sections["percent"]["bias"]["value"]
    assert figures["lungs_dice_ward"] == sections["lungs"]["lung_dice"]["value"]
    assert figures["normals_held_out_percent_p90"] == sections["normals"]["p90"]["value"]
    assert (figures["opacity_images"], figures["normals_held_out"]) == (READ, NORMALS)


def test_the_report_shows_its_pictures_and_says_what_is_missing(report: Path) -> None:
    text = (report / "report.md").read_text(encoding="utf-8")
    shown = {part.split(")")[0] for part in text.split("](")[1:]}
    assert {"agreement.png", "normals.png", "trade_off.png", "worst_normals.png"} <= shown
    for name in shown:
        with Image.open(report / name) as picture:
            assert min(picture.size) > 200
    assert "- robustness: skipped on request." in text
    assert "cross_validation.png" in shown  # the shipped model carries its folds
    assert "| death | age alone | with age | 5 | 6 |" in text
    assert "intensive care | percentage | all | 0 | 0 | too few |" in text
    assert text.index("## Summary") < text.index("## Beside readers")


def test_a_mean_of_networks_is_called_so() -> None:
    assert _network({"name": "unet", "dropout": 0.1}) == "unet"
    members = [{"network": {"name": "basic-unet"}, "size": size} for size in (160, 224)]
    assert (
        _network({"name": "ensemble", "members": members})
        == "mean of basic-unet at 160 pixels and basic-unet at 224 pixels"
    )


def test_every_target_has_a_verdict(report: Path) -> None:
    found = numbers(report)["targets"]
    assert len(found) == 7
    for row in found:
        value, bound = row["test"]["value"], row["target"]["bound"]
        met = value <= bound if row["target"]["unit"] else value >= bound
        assert row["verdict"] == ("met" if met else "missed")


def test_sheets_name_the_worst_first_and_nobody_s_patient(report: Path) -> None:
    with (report / "worst_normals.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    percents = [float(row["percent"]) for row in rows]
    assert percents == sorted(percents, reverse=True)
    assert len(rows) == NORMALS
    assert rows[0]["case"].startswith("case")
    with (report / "worst_opacity.csv").open(encoding="utf-8") as stream:
        dice = [float(row["opacity_dice"]) for row in csv.DictReader(stream)]
    assert dice == sorted(dice)
    assert '"patient"' not in (report / "report.json").read_text(encoding="utf-8")


def test_the_same_run_gives_the_same_report(report: Path, hospital: Path, tmp_path: Path) -> None:
    assert run(hospital, tmp_path, "--skip", QUICK).exit_code == 0
    for path in sorted(report.iterdir()):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name


def test_normals_alone_are_enough(hospital: Path, tmp_path: Path) -> None:
    normals = [replace(c, survival="") for c in load_manifest(hospital) if c.normal]
    write_manifest(normals, tmp_path / "manifest.csv")
    result = run(tmp_path, tmp_path / "out", "--skip", f"{QUICK},sheets")
    assert result.exit_code == 0, result.output
    found = numbers(tmp_path / "out")
    assert set(found["sections"]) == {"normals"}
    assert [row["verdict"] for row in found["targets"]].count("not measured") == 5
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "- lungs: no test picture has its lungs read." in text
    assert "- outcome: no outcome is known" in text
    assert not (tmp_path / "out" / "worst_normals.png").exists()


def test_cross_validation_stands_beside_the_test_part(hospital: Path, tmp_path: Path) -> None:
    shutil.copytree(BUNDLES / "unet", tmp_path / "unet")
    segmenter = Segmenter.load(find_bundle("unet"), "cpu")
    cases = load_manifest(hospital)
    curves = tuple(
        read_curve(segmenter.probabilities(chest_image(case.pixels())), case, fold=number % 2)
        for number, case in enumerate(cases)
    )
    CrossValidation(2, 0, "ab", curves, 0.5).write(tmp_path / "unet")
    bundle = ("--bundle", str(tmp_path / "unet"), "--threshold", "0.5")
    result = run(hospital, tmp_path / "out", *bundle, "--skip", f"{QUICK},sheets,outcome")
    assert result.exit_code == 0, result.output
    found = numbers(tmp_path / "out")
    folds = found["cross_validation"]
    assert (folds["folds"], folds["images"]) == (2, READ + NORMALS)
    for section in ("opacity", "percent", "normals"):  # here both are the same pictures
        for name, estimate in found["sections"][section].items():
            assert folds["sections"][section][name] == pytest.approx(estimate), name
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Cross-validation, 2 folds" in text
    assert "](cross_validation.png)" in text


def test_robustness_is_in_the_whole_report(hospital: Path, tmp_path: Path) -> None:
    cases = [it for it in load_manifest(hospital) if not it.normal][:1]
    write_manifest(cases, tmp_path / "manifest.csv")
    out = tmp_path / "out"
    result = run(tmp_path, out, "--skip", "phantoms,sheets,timing")
    assert result.exit_code == 0, result.output
    found = numbers(out)
    assert {row["perturbation"] for row in found["robustness"]} == {
        "noise", "blur", "contrast", "window", "rotation", "jpeg", "resolution",
    }  # fmt: skip
    assert len(found["robustness"]) == 30
    assert (out / "robustness.png").is_file()


def test_pictures_are_timed_at_two_sizes() -> None:
    segmenter = Segmenter.load(find_bundle("unet"), "cpu")
    timing = take_times(segmenter, np.zeros((60, 90), np.uint16), repeats=1)
    assert [(row.rows, row.columns) for row in timing.pictures] == [(512, 768), (1667, 2500)]
    assert all(0 < row.median_ms <= row.p90_ms for row in timing.pictures)
    assert (timing.device, timing.threads) == ("cpu", torch.get_num_threads())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--skip", "robustness,colour"], "--skip colour: known parts are boundaries"),
        (["--model", "unet", "--bundle", "x"], "give --model or --bundle, not both"),
        (["--model", "nobody"], "'nobody' is not installed"),
        (["--threshold", "1"], "1.0 is not in the range 0<x<1"),
    ],
)
def test_mistakes_are_named(
    hospital: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    result = run(hospital, tmp_path / "out", *options)
    assert result.exit_code != 0
    assert message in result.output


def test_a_broken_picture_is_named(hospital: Path, tmp_path: Path) -> None:
    shutil.copytree(hospital, tmp_path / "data")
    (tmp_path / "data" / "case0.png").write_bytes(b"no picture")
    result = run(tmp_path / "data", tmp_path / "out", "--skip", QUICK)
    assert result.exit_code == 1
    assert "case0" in result.output


def test_the_shipped_figures_are_those_of_the_shipped_weights(data_root: Path) -> None:
    """On the real test pictures; another processor may move a pixel."""
    bundle = find_bundle("unet")
    segment = segment_with(Segmenter.load(bundle, "cpu"))
    cases = [it for it in load_manifest(data_root) if it.split == "test" and it.has_opacity]
    rows = []
    for case in cases:
        pixels = case.pixels()
        rows.append(compare(case, segment(pixels), reading_of(case, pixels.shape)))
    found = sections_of(rows, [], Sampling(0))
    recorded = bundle.metadata.metrics
    assert recorded["opacity_images"] == len(rows) == 16
    assert found["opacity"]["dice_pooled"].value == pytest.approx(
        recorded["opacity_dice_pooled"], abs=2e-3
    )
    assert found["opacity"]["recall"].value == pytest.approx(recorded["opacity_recall"], abs=2e-3)
    assert found["percent"]["mae"].value == pytest.approx(recorded["percent_mae"], abs=0.05)
