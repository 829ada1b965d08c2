"""The commands `train`, `phantom` and `models` of dicom-worker.

Listing models must stay quick: deep learning is imported inside the commands that need it.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import click

from worker.errors import BundleError
from worker.registry import Bundle, installed_bundles

_SHARE = (click.Choice(["gb", "v7", "phantom", "normal"]), click.IntRange(min=1))
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--data", type=_FOLDER, help="Data folder; default: DICOM_NODE_TEST_DATA.")
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives NAME/, a bundle.")
@click.option("--name", default="unet", show_default=True, help="Name of the model.")
@click.option("--model-version", default="1.0.0", show_default=True, help="Its version.")
@click.option("--steps", type=click.IntRange(min=1), default=2800, show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="End by the clock.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3)
@click.option("--phantoms", type=click.IntRange(min=0), default=400, show_default=True)
@click.option("--share", "shares", type=_SHARE, multiple=True, help="KIND N: cases per batch.")
@click.option("--start", type=_FOLDER, help="Bundle folder to go on from.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
def train(  # noqa: PLR0913  one argument per option
    *,
    data: Path | None,
    out: Path,
    name: str,
    model_version: str,
    steps: int,
    minutes: float | None,
    seed: int,
    learning_rate: float,
    phantoms: int,
    shares: tuple[tuple[str, int], ...],
    start: Path | None,
    threads: int | None,
) -> None:
    """Train a model on labelled radiographs and phantoms; write and measure its bundle."""
    from worker.training.datasets import data_folder  # noqa: PLC0415  needs torch
    from worker.training.train import SHARES, TrainConfig  # noqa: PLC0415  needs torch
    from worker.training.train import train as run  # noqa: PLC0415  needs torch

    try:
        folder = data_folder(data)
    except FileNotFoundError as error:
        raise click.UsageError(str(error)) from error
    config = TrainConfig(
        data=folder,
        out=out,
        name=name,
        version=model_version,
        steps=steps,
        minutes=minutes,
        seed=seed,
        learning_rate=learning_rate,
        phantoms=phantoms,
        shares=shares or SHARES,
        start=start,
        threads=threads,
    )
    bundle = run(config)
    click.echo(f"wrote {bundle.folder}")
    for figure, value in bundle.metadata.metrics.items():
        click.echo(f"{figure:34} {value}")


@click.command()
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives the studies.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def phantom(*, out: Path, seed: int) -> None:
    """Write synthetic chest studies with known percentages, and manifest.json."""
    from worker.training.phantom_studies import (  # noqa: PLC0415  needs the image codecs
        write_phantom_studies,
    )

    for study in write_phantom_studies(out, seed):
        for image in study.images:
            total = image.percent["total"]
            known = "no lung fields" if total is None else f"{total:.1f} %"
            click.echo(f"{image.path}\t{known}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values with a header.")
@click.option("--bundles", type=_FOLDER, multiple=True, help="Another folder of bundles.")
def models(*, as_json: bool, as_csv: bool, bundles: tuple[Path, ...]) -> None:
    """List the installed models."""
    try:
        rows = [_row(bundle) for bundle in installed_bundles(bundles)]
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    elif as_csv:
        plain = [{k: v for k, v in row.items() if not isinstance(v, dict | list)} for row in rows]
        writer = csv.DictWriter(sys.stdout, fieldnames=list(plain[0]) if plain else ["name"])
        writer.writeheader()
        writer.writerows(plain)
    else:
        for row in rows:
            click.echo(f"{row['name']} {row['version']} {row['sha256'][:12]} ({row['licence']})")


def _row(bundle: Bundle) -> dict[str, Any]:
    meta = bundle.metadata
    return {
        "name": meta.name,
        "version": meta.version,
        "sha256": meta.weights.sha256,
        "input_size": meta.input_size,
        "network": meta.network,
        "labels": list(meta.labels),
        "threshold": meta.threshold.model_dump(),
        "licence": meta.licence,
        "metrics": meta.metrics,
    }
