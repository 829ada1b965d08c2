"""The command `train-adversarial` of dicom-worker. Deep learning is imported when it runs."""

from pathlib import Path

import click

from worker.errors import BundleError, ManifestError, RecipeError

_FILE = click.Path(dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("train-adversarial")
@click.option("--config", type=_FILE, help="TOML file with any key of the configuration.")
@click.option("--data", type=_FOLDER, help="Data folder; default: DICOM_NODE_TEST_DATA.")
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives NAME/, a bundle.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of generator and discriminator.")
@click.option("--size", type=click.IntRange(min=64), help="Side of the square, a multiple of 32.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--weight", type=click.FloatRange(min=0), help="Weight of the adversarial loss.")
@click.option("--target", type=click.Choice(["opacity", "ground_glass"]), help="What is drawn.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option("--plain/--no-plain", default=True, help="Train without the adversary, too.")
@click.option("--compare", multiple=True, help="Installed model to measure beside it.")
@click.option("--report", type=_FILE, help="Markdown file that receives the figures.")
def train_adversarial(
    *,
    config: Path | None,
    data: Path | None,
    out: Path,
    plain: bool,
    compare: tuple[str, ...],
    report: Path | None,
    **overrides: object,
) -> None:
    """Train a segmenter against a discriminator, write its bundle and measure it."""
    from worker.training.adversarial import read_config  # noqa: PLC0415  needs torch
    from worker.training.adversarial_report import write_trial  # noqa: PLC0415  as above
    from worker.training.adversarial_trial import Plan, command_of, run_trial  # noqa: PLC0415  too
    from worker.training.datasets import data_folder  # noqa: PLC0415  as above
    from worker.training.evaluation.estimates import Sampling  # noqa: PLC0415  as above

    try:
        chosen = read_config(config, **overrides)
        command = command_of(config, overrides, compare)
        plan = Plan(chosen, data_folder(data), out, command, plain, compare)
        trial = run_trial(plan)
    except (FileNotFoundError, RecipeError, ManifestError, BundleError, ValueError) as error:
        raise click.UsageError(str(error)) from error
    if report is not None:
        write_trial(trial, report, Sampling(replicates=1000, seed=chosen.seed))
        click.echo(f"wrote {report}")
    click.echo(f"wrote {plan.folder}")
