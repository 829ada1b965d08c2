"""dicom-worker: reads the settings once and hands every part what it needs.

Deep learning and image codecs are imported inside the commands that need them: `--help`, `models`
and a mistyped option must answer at once.
"""

import csv
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from models.broker import BrokerFileError
from models.files import keep_files_private
from models.importing import importing
from models.log import set_up_logging
from models.running import register
from models.settings import Settings, load_settings
from models.tracing import TracingError
from worker.errors import BundleError

if TYPE_CHECKING:
    from worker.analyse import FileResult

Command = Callable[..., None]
_TRAINING: Final = (
    *("train", "train-adversarial", "train-two-step", "evaluate"),
    *("models", "phantom", "convert-keras"),
)
_COLOURS: Final = {"analysed": "green", "not_analysed": "yellow", "failed": "red"}


def _common(*, expose_value: bool = True) -> list[Callable[[Command], Command]]:
    """Return the options that every command takes."""
    return [
        click.option(
            "--config",
            type=click.Path(path_type=Path, dir_okay=False),
            envvar="DICOM_NODE_CONFIG",
            help="node.toml",
            expose_value=expose_value,
        ),
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the node's data.",
            expose_value=expose_value,
        ),
    ]


def _with_common(command: Command) -> Command:
    for option in _common():
        command = option(command)
    return command


class _LazyGroup(click.Group):
    """Adds the training commands when one of them is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_training_commands()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _TRAINING:
            return _training_commands().get(cmd_name)
        return super().get_command(ctx, cmd_name)


def _training_commands() -> dict[str, click.Command]:
    from worker.training import commands
    from worker.training.adversarial_command import train_adversarial
    from worker.training.convert_command import convert_keras
    from worker.training.evaluate_command import evaluate
    from worker.training.two_step_command import train_two_step

    found = {name: getattr(commands, name, None) for name in _TRAINING}
    found["train-adversarial"] = train_adversarial
    found["train-two-step"] = train_two_step
    found["convert-keras"] = convert_keras
    found["evaluate"] = evaluate
    ready = {name: it for name, it in found.items() if isinstance(it, click.Command)}
    for command in ready.values():
        known = {text for parameter in command.params for text in parameter.opts}
        for option in _common(expose_value=False):
            extra = click.command(option(_nothing)).params[-1]
            if known.isdisjoint(extra.opts):
                command.params.append(extra)
    return ready


def _nothing() -> None:
    """Carry options that are read off it."""


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dicom-node")
def main() -> None:
    """Chest-radiograph AI: analyse files, serve a node's queue, train. Research use only."""


@main.command()
@_with_common
@click.option("--unwatched", is_flag=True, help="Without the watch that ends a stalled worker.")
def run(*, config: Path | None, data_dir: Path | None, unwatched: bool) -> None:
    """Take jobs from the node's queue until stopped.

    A worker that takes none of the waiting jobs for worker.unclaimed_seconds is killed, and the
    command ends with 75: whoever started it starts it again.
    """
    keep_files_private()
    settings = _settings(config, data_dir)
    if not unwatched:
        register(settings.data_dir, "worker")
        _look_at_schema(settings)
    if not unwatched and settings.worker.unclaimed_seconds:
        from worker.watch import run_watched

        set_up_logging("watch", level=settings.log.level, as_json=settings.log.format == "json")
        sys.exit(run_watched(settings, _unwatched(config, data_dir)))
    with importing():
        from worker.celery_app import run_worker

    try:
        run_worker(settings)
    except (BundleError, BrokerFileError, TracingError) as error:
        raise click.ClickException(str(error)) from error


def _look_at_schema(settings: Settings) -> None:
    """Raise click.ClickException when the database has an older schema than this release."""
    from migrations.schema import SchemaError, require_usable

    try:
        remark = require_usable(settings.effective_database_url)
    except SchemaError as error:
        raise click.ClickException(str(error)) from error
    if remark:
        click.echo(f"dicom-worker: {remark}", err=True)


def _unwatched(config: Path | None, data_dir: Path | None) -> list[str]:
    """Return the command line of the worker itself, with the options of this one."""
    command = [sys.executable, "-m", "worker", "run", "--unwatched"]
    options = {"--config": config, "--data-dir": data_dir}
    for name, value in options.items():
        command += [] if value is None else [name, str(value)]
    return command


@main.command()
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(exists=True, readable=True, path_type=Path)
)
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", help="Installed model (default: the configured one).")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where it runs.")
@click.option("--capture", is_flag=True, help="Also a Secondary Capture per image.")
@click.option("--presentation-state", is_flag=True, help="Also outlines (GSPS) per image.")
@click.option("--pdf", is_flag=True, help="Also the report as Encapsulated PDF per study.")
@click.option("--json", "form", flag_value="json", help="One JSON object per file.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values with a header.")
@_with_common
def analyse(
    *,
    paths: tuple[Path, ...],
    out: Path,
    model: str | None,
    device: str | None,
    form: str | None,
    config: Path | None,
    data_dir: Path | None,
    **extras: bool,
) -> None:
    """Analyse DICOM files: SEG and overlay per image, SR per study. Folders are searched."""
    set_up_logging("analyse", level="WARNING")
    settings = _with_options(_settings(config, data_dir), model, device)
    _make_writable(out)
    try:
        rows = _analyse(paths, out, settings, extras)
        {"json": _print_json, "csv": _print_csv}.get(form or "", _print_table)(rows)
    except BundleError as error:
        raise click.UsageError(str(error)) from error


def _make_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        msg = f"--out {out}: {error.strerror}"
        raise click.UsageError(msg) from error


def _analyse(
    paths: tuple[Path, ...], out: Path, settings: Settings, extras: dict[str, bool]
) -> Iterator["FileResult"]:
    from worker.registry import find_bundle

    bundle = find_bundle(settings.analysis.model, settings.worker.bundle_dirs)

    with importing():
        from worker.analyse import Extras, FileAnalysis, find_files
        from worker.classifier import load_classifier
        from worker.inference import Segmenter
        from worker.sandbox import Sandbox

    segmenter = Segmenter.load(bundle, settings.worker.device, settings.worker.torch_threads)
    classifier = load_classifier(settings)
    files = find_files(paths)
    with Sandbox(settings) as sandbox, _progress() as progress:
        task = progress.add_task("analysing", total=len(files))
        analysis = FileAnalysis(sandbox, segmenter, settings, out, classifier, Extras(**extras))
        for result in analysis.results(files):
            progress.advance(task)
            yield result


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _settings(config: Path | None, data_dir: Path | None) -> Settings:
    try:
        return load_settings(config, data_dir=data_dir)
    except (ValueError, OSError) as error:
        raise click.UsageError(str(error)) from error


def _with_options(settings: Settings, model: str | None, device: str | None) -> Settings:
    """Return the settings with the options of one command in place."""
    analysis = settings.analysis.model_copy(update={"model": model} if model else {})
    worker = settings.worker.model_copy(update={"device": device} if device else {})
    return settings.model_copy(update={"analysis": analysis, "worker": worker})


def _print_json(results: Iterable["FileResult"]) -> None:
    for result in results:
        click.echo(json.dumps(result.as_row()))


def _print_csv(results: Iterable["FileResult"]) -> None:
    writer = None
    for result in results:
        row = _flat(result.as_row())
        if writer is None:
            writer = csv.DictWriter(sys.stdout, fieldnames=list(row))
            writer.writeheader()
        writer.writerow(row)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Return nested objects as columns: `opacity_percent_left`, `files_seg`."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if key == "model":
            value = value or dict.fromkeys(("name", "version", "sha256"))  # noqa: PLW2901  same columns in every row
        if isinstance(value, dict):
            flat |= {f"{key}_{name}": part for name, part in value.items()}
        else:
            flat[key] = value
    return flat


def _print_table(results: Iterable["FileResult"]) -> None:
    table = Table()
    for heading in ("file", "status", "opacity", "left", "right", "severity or reason"):
        table.add_column(heading, overflow="fold")
    for result in results:
        row = result.as_row()
        percent = {
            side: "" if value is None else f"{value:.1f} %"
            for side, value in row["opacity_percent"].items()
        }
        table.add_row(
            escape(Path(row["path"]).name),
            f"[{_COLOURS[row['status']]}]{row['status']}[/]",
            percent["total"],
            percent["left"],
            percent["right"],
            row["severity"] or row["reason"],
        )
    Console().print(table)
