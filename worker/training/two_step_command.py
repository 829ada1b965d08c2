"""The command `train-two-step` of dicom-worker. Deep learning is imported when it runs."""

from pathlib import Path

import click

from worker.errors import BundleError, ManifestError

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("train-two-step")
@click.option("--data", type=_FOLDER, help="Data folder; default: DICOM_NODE_TEST_DATA.")
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives NAME/, a bundle.")
@click.option("--name", default="two-step", show_default=True, help="Name of the model.")
@click.option("--lung-model", default="unet", show_default=True, help="Model that finds the lungs.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True)
@click.option(
    "--epochs", type=click.FloatRange(min=0, min_open=True), default=12.0, show_default=True
)
@click.option("--size", type=click.IntRange(min=32), default=96, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Markdown file that receives the figures; its plots lie beside it.",
)
def train_two_step(  # noqa: PLR0913  one argument per option
    *,
    data: Path | None,
    out: Path,
    name: str,
    lung_model: str,
    folds: int,
    epochs: float,
    size: int,
    seed: int,
    threads: int | None,
    report: Path | None,
) -> None:
    """Cross-validate and train the experimental classifier of cut-out lungs; write its bundle."""
    from worker.training.datasets import data_folder  # noqa: PLC0415  needs torch
    from worker.training.evaluation.estimates import Sampling  # noqa: PLC0415  needs scipy
    from worker.training.two_step import TwoStepConfig  # noqa: PLC0415  needs torch
    from worker.training.two_step_report import write_study  # noqa: PLC0415  needs matplotlib
    from worker.training.two_step_study import run_study  # noqa: PLC0415  needs torch

    try:
        config = TwoStepConfig(
            data=data_folder(data),
            out=out,
            name=name,
            lung_model=lung_model,
            folds=folds,
            epochs=epochs,
            size=size,
            seed=seed,
            threads=threads,
        )
        study = run_study(config, Sampling(replicates=1000, seed=seed))
    except (FileNotFoundError, ManifestError, BundleError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if report is not None:
        write_study(study, report)
        click.echo(f"wrote {report}")
    click.echo(f"wrote {study.bundle.folder}")
    for figure, value in study.bundle.metadata.metrics.items():
        click.echo(f"{figure:50} {value}")
