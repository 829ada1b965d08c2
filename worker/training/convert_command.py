"""The command `convert-keras` of dicom-worker."""

from pathlib import Path

import click

from worker.errors import BundleError, WeightsFileError
from worker.registry import find_bundle

_FOLDER = click.Path(file_okay=False, path_type=Path)
_MULTIPLE = 32  # five halvings


@click.command("convert-keras")
@click.argument(
    "weights", metavar="FILE.h5", type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives NAME/, a bundle.")
@click.option("--name", default="keras-resnet18-unet", show_default=True, help="Name of the model.")
@click.option("--model-version", default="1.0.0", show_default=True, help="Its version.")
@click.option("--lungs", default="unet", show_default=True, help="Model that finds the lungs.")
@click.option("--bundles", type=_FOLDER, multiple=True, help="Another folder of bundles.")
@click.option(
    "--input-size", type=click.IntRange(32, 4096), default=512, show_default=True, help="Side."
)
@click.option(
    "--input-range", type=(float, float), help="Black and white in training; default: as stored."
)
@click.option("--half", is_flag=True, help="Store the converted weights in half precision.")
def convert_keras(  # noqa: PLR0913  one argument per option
    *,
    weights: Path,
    out: Path,
    name: str,
    model_version: str,
    lungs: str,
    bundles: tuple[Path, ...],
    input_size: int,
    input_range: tuple[float, float] | None,
    half: bool,
) -> None:
    """Make a model of the first ancestor's published Keras weights and our lungs."""
    from worker.training.converted_bundle import (  # noqa: PLC0415  needs torch and HDF5
        Conversion,
        write_converted,
    )

    if input_size % _MULTIPLE:
        msg = f"--input-size {input_size} is not a multiple of {_MULTIPLE}"
        raise click.UsageError(msg)
    if input_range and not input_range[0] < input_range[1]:
        msg = "--input-range is black, then white, which is more"
        raise click.UsageError(msg)
    try:
        bundle = write_converted(
            Conversion(
                weights=weights,
                lungs=find_bundle(lungs, bundles),
                out=out,
                name=name,
                version=model_version,
                input_size=input_size,
                input_range=input_range,
                half=half,
            )
        )
    except (BundleError, WeightsFileError, OSError) as error:
        raise click.ClickException(str(error)) from error
    black, white = bundle.metadata.network["input_range"]
    click.echo(f"wrote {bundle.folder} (black {black:g}, white {white:g}, lungs of {lungs})")
