"""The model commands answer on standard output."""

import csv
import json
from pathlib import Path

import click
from click.testing import CliRunner

from worker.cli import main
from worker.training.commands import models


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


def test_no_command_has_an_option_twice() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        options = [text for parameter in command.params for text in parameter.opts]
        assert len(options) == len(set(options)), name


def test_the_config_of_train_is_a_recipe(tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["train", "--config", "nope", "--out", str(tmp_path)])
    assert run.exit_code == 2
    assert "There is no recipe nope" in run.output
