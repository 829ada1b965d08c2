"""Train the view network: `python -m worker.training.views --out worker/view_weights`."""

from pathlib import Path

import click

from worker.training.datasets import data_folder
from worker.training.views.train import ViewRecipe, train_views


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data folder.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--steps", default=ViewRecipe.steps, show_default=True)
@click.option("--seed", default=ViewRecipe.seed, show_default=True)
@click.option("--threads", type=int)
def main(*, data: Path | None, out: Path, steps: int, seed: int, threads: int | None) -> None:
    """Train on the frontal radiographs of the data folder and on phantoms."""
    recipe = ViewRecipe(steps=steps, seed=seed)
    click.echo(train_views(data_folder(data), out, recipe, threads))


if __name__ == "__main__":
    main()
