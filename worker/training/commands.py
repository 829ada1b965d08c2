"""The commands `train`, `phantom` and `models` of dicom-worker.

Listing models must stay quick: deep learning is imported inside the commands that need it.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import click

from worker.errors import BundleError, WorkerError
from worker.registry import (
    ClassifierMetadata,
    Metadata,
    installed_bundles,
    installed_classifiers,
)

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--config", "recipe", default="unet", show_default=True, help="Recipe: TOML or name.")
@click.option("--data", type=_FOLDER, help="Data folder; default: DICOM_NODE_TEST_DATA.")
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives NAME/, a bundle.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--cross-validate", is_flag=True, help="Only the folds: figures and threshold.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Folds at once.")
@click.option("--loaders", type=click.IntRange(min=0), default=0, help="Processes that load.")
def train(
    *,
    recipe: str,
    data: Path | None,
    out: Path,
    device: str,
    cross_validate: bool,
    jobs: int,
    loaders: int,
) -> None:
    """Train a model by a recipe, write its bundle and measure it. A run that was cut goes on.

    With --cross-validate the recipe is trained on each fold instead; the threshold that this
    chooses is taken by the next run without it.
    """
    from worker.training.config import read_recipe  # noqa: PLC0415  needs torch
    from worker.training.datasets import data_folder  # noqa: PLC0415  needs torch
    from worker.training.fit import Machine  # noqa: PLC0415  needs torch
    from worker.training.produce import Production, produce, validate  # noqa: PLC0415  needs torch

    try:
        production = Production(
            config=read_recipe(recipe),
            data=data_folder(data),
            out=out,
            machine=Machine.of(device, loaders),
            recipe=recipe,
            jobs=jobs,
        )
        if cross_validate:
            chosen = validate(production).chosen_threshold
            click.echo(f"wrote {production.folder}; threshold {chosen}")
            return
        bundle = produce(production)
    except (FileNotFoundError, WorkerError) as error:
        raise click.UsageError(str(error)) from error
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
    """List the installed models: segmenters, then the experimental classifiers."""
    try:
        rows = [_row(bundle.metadata) for bundle in installed_bundles(bundles)]
        rows += [_row(bundle.metadata) for bundle in installed_classifiers(bundles)]
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
            identity = f"{row['name']} {row['version']} {row['sha256'][:12]}"
            click.echo(f"{identity} {row['kind']} ({row['licence']})")


def _row(meta: Metadata | ClassifierMetadata) -> dict[str, Any]:
    threshold = meta.threshold.model_dump() if isinstance(meta, Metadata) else {}
    return {
        "name": meta.name,
        "kind": meta.kind,
        "version": meta.version,
        "sha256": meta.weights.sha256,
        "input_size": meta.input_size,
        "network": meta.network,
        "labels": list(meta.labels),
        "threshold": threshold,
        "licence": meta.licence,
        "metrics": meta.metrics,
    }
