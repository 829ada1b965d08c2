"""Print the figures that a model's card quotes, measured on the test part of the data folder.

python benchmarks/model_test.py [--data DIR] [--model NAME] [--bundles DIR] [--threshold P]
"""

from pathlib import Path

import click

from worker.inference import Device, Segmenter
from worker.registry import find_bundle
from worker.training.datasets import data_folder
from worker.training.evaluate import measure, segment_with


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Data folder.")
@click.option("--model", default="unet", show_default=True)
@click.option("--bundles", type=click.Path(path_type=Path), multiple=True)
@click.option("--threshold", type=float, help="Opacity threshold; default: the model's own.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu")
def main(
    *,
    data: Path | None,
    model: str,
    bundles: tuple[Path, ...],
    threshold: float | None,
    device: Device,
) -> None:
    """Measure one model."""
    segmenter = Segmenter.load(find_bundle(model, bundles), device)
    identity = segmenter.identity
    click.echo(f"{identity.name} {identity.version} {identity.sha256} on {segmenter.device}")
    for figure, value in measure(segment_with(segmenter, threshold), data_folder(data)).items():
        shown = f"{value:.4f}" if isinstance(value, float) else str(value)
        click.echo(f"{figure:34} {shown}")


if __name__ == "__main__":
    main()
