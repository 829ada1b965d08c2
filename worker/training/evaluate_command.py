"""The command `evaluate` of dicom-worker.

`--help` must stay quick: deep learning and plotting are imported inside the command.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.progress import Progress

from worker.errors import BundleError, ManifestError
from worker.registry import Bundle, find_bundle, read_bundle
from worker.training.evaluation import PARTS

if TYPE_CHECKING:
    from worker.training.evaluation.results import Evaluation
    from worker.training.evaluation.run import Options

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command()
@click.option("--model", help="Installed model.  [default: unet]")
@click.option("--bundle", "folder", type=_FOLDER, help="Folder of a bundle, instead of --model.")
@click.option("--data", type=_FOLDER, help="Data folder; default: DICOM_NODE_TEST_DATA.")
@click.option("--out", type=_FOLDER, required=True, help="Folder that receives the report.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto")
@click.option("--threads", type=click.IntRange(min=1), help="Threads of torch.")
@click.option("--threshold", type=click.FloatRange(0, 1, min_open=True, max_open=True),
              help="Opacity threshold; default: the model's own.")  # fmt: skip
@click.option("--bootstrap", type=click.IntRange(min=0), default=2000, show_default=True,
              help="Replicates behind every interval; 0: no intervals.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--skip", default="", metavar="PART,...", help=f"Leave out: {', '.join(PARTS)}.")
def evaluate(  # noqa: PLR0913  one argument per option
    *,
    model: str | None,
    folder: Path | None,
    data: Path | None,
    out: Path,
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
    threshold: float | None,
    bootstrap: int,
    seed: int,
    skip: str,
) -> None:
    """Measure a model and write the report: report.md, report.json, plots and contact sheets.

    The data are the public collections or your own, described by a manifest.csv. What they have no
    pictures for is left out, and the report says so.
    """
    from worker.training.evaluation.estimates import Sampling  # noqa: PLC0415  needs scipy
    from worker.training.evaluation.run import Options  # noqa: PLC0415  needs torch

    if model is not None and folder is not None:
        msg = "give --model or --bundle, not both"
        raise click.UsageError(msg)
    options = Options(
        threshold=threshold,
        sampling=Sampling(replicates=bootstrap, seed=seed),
        skip=frozenset(_skipped(skip)),
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        bundle = read_bundle(folder.resolve()) if folder else find_bundle(model or "unet")
        evaluation = _run(bundle, data, out, options, device, threads)
    except (BundleError, ManifestError, OSError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    for row in evaluation.judged():
        value = row.test.value if row.test else None
        shown = "-" if value is None else f"{value:.3f}"
        click.echo(f"{row.target.label:45} {shown:>8}  {row.verdict}")
    click.echo(f"wrote {out}")


def _skipped(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        msg = f"--skip {', '.join(unknown)}: known parts are {', '.join(PARTS)}"
        raise click.UsageError(msg)
    return parts


def _run(
    bundle: Bundle,
    data: Path | None,
    out: Path,
    options: "Options",
    device: Literal["auto", "cpu", "cuda"],
    threads: int | None,
) -> "Evaluation":
    """Load the model, measure, and write everything into `out`."""
    from worker.inference import Segmenter  # noqa: PLC0415  needs torch
    from worker.training.cases import load_manifest  # noqa: PLC0415  needs numpy
    from worker.training.datasets import data_folder  # noqa: PLC0415  needs torch
    from worker.training.evaluation.measured import segment_with  # noqa: PLC0415  needs torch
    from worker.training.evaluation.run import evaluate as measure  # noqa: PLC0415  needs torch
    from worker.training.evaluation.write import write  # noqa: PLC0415  needs matplotlib

    folder = data_folder(data)
    segmenter = Segmenter.load(bundle, device, threads)
    with Progress(console=Console(stderr=True)) as progress:
        evaluation = measure(segmenter, bundle, folder, options, progress)
    drawing = None if "sheets" in options.skip else segment_with(segmenter, options.threshold)
    write(evaluation, out, drawing, load_manifest(folder))
    return evaluation
