"""The model commands answer on standard output."""

import csv
import json
from pathlib import Path

from click.testing import CliRunner

from worker.training.commands import models, train


def test_models_lists_json_lines() -> None:
    result = CliRunner().invoke(models, ["--json"])
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert result.exit_code == 0
    assert {"name", "version", "sha256", "metrics", "threshold"} <= rows[0].keys()
    assert "unet" in {row["name"] for row in rows}


def test_models_lists_csv_and_text() -> None:
    rows = list(csv.DictReader(CliRunner().invoke(models, ["--csv"]).output.splitlines()))
    assert "unet" in {row["name"] for row in rows}
    assert "unet " in CliRunner().invoke(models, []).output


def test_train_names_a_missing_data_folder(tmp_path: Path) -> None:
    result = CliRunner().invoke(train, ["--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "no cxr/cases.csv" in result.output
