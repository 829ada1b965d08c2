"""The model card of a bundle, written from its metadata so that the two cannot disagree."""

from collections.abc import Mapping
from typing import Any, Final

_ROWS: Final = (
    ("opacity_dice_pooled", "Opacity Dice, pixels pooled"),
    ("opacity_dice_mean", "Opacity Dice, mean per image"),
    ("opacity_precision", "Opacity precision, pooled"),
    ("opacity_recall", "Opacity recall, pooled"),
    ("opacity_images", "Images with an opacity reading"),
    ("percent_mae", "Percentage against the reader, mean absolute error (points)"),
    ("percent_bias", "Percentage against the reader, bias (points)"),
    ("lungs_dice_gb", "Lungs Dice, gb test part"),
    ("lungs_dice_v7", "Lungs Dice, v7 test part"),
    ("left_lung_dice", "Left lung Dice"),
    ("right_lung_dice", "Right lung Dice"),
    ("normals_held_out_percent_max", "Held-out normals (2), highest percentage"),
    ("normals_trained_percent_median", "Normals seen in training (8), median percentage"),
    ("normals_trained_percent_max", "Normals seen in training (8), highest percentage"),
    ("phantoms", "Unseen phantoms, half of them without opacity"),
    ("phantom_percent_mae", "Phantoms with opacity, mean absolute error (points)"),
    ("phantom_percent_max_error", "Phantoms with opacity, largest error (points)"),
    ("phantom_clear_percent_max", "Phantoms without opacity, highest percentage"),
)

_TEXT: Final = """# {name} {version}

**Research use only. Not a medical device. Not for diagnosis or treatment decisions.**

Finds the left lung, the right lung and opacity on a frontal (PA or AP) chest radiograph of an
adult. The figure is opacity pixels over lung pixels, in percent, in total and per side.

- Network: {network}, {parameters} parameters, input {size} x {size}, three sigmoid outputs
  ({labels}), {averaged}thresholds {lung} (lung) and {opacity} (opacity).
- Weights: `{file}`, SHA-256 `{sha256}`.
- Licence of the weights: {licence}, for research, because of the licences of the pictures below.

## Lung definition

The lung fields **include the region behind the heart**, as both groups of readers drew them, and
end at the diaphragm. A definition without the heart region gives smaller lungs (about 29 % in one
published model) and another percentage: do not compare the two.

## Training data

| Source | Used for | Licence |
|---|---|---|
| ieee8023/covid-chestxray-dataset | pictures | per picture, see below |
| GeneralBlockchain/covid-19-chest-xray-segmentations-dataset (gb) | lungs, opacity | see source |
| v7labs/covid-19-xray-dataset (v7) | lungs; opacity only outside them | see source |
| agchung/Actualmed-COVID-chestxray-dataset | 8 normals: no opacity | research purposes only |
| phantoms drawn by this software | lungs and opacity, known exactly | part of the software |

Licences of the labelled pictures that trained: {licences}.
Pictures under a no-derivatives licence were left out.

Opacity is ground glass and consolidation together. The split is by patient, and no test picture
trained. The recipe and its stages were revised after a first look at the test figures, so those of
opacity are somewhat optimistic. SHA-256 of the case tables: `{manifest}`. To repeat the
training:

{training}

## Figures

Measured by `python benchmarks/model_test.py --model {name}`, through the same code as a received
file, at the thresholds above.

{table}

Two readers of the same pictures agree on opacity at pooled Dice 0.761 and per-image mean 0.484;
their percentages differ by 15 points on average. Sixteen test pictures give a 95 % range of about
0.07 around a Dice: differences inside it mean nothing.

## Limits

- **False alarms on normal pictures.** The labelled pictures come almost all from sick patients.
  Networks trained on them call opacity on some normal radiographs, most of all from other
  hospitals (measured elsewhere with this recipe: median 18 to 30 % on public "No Finding"
  pictures). A percentage above zero does not mean disease.
- Not trained for: children, lateral views, effusion, pneumothorax, masses, devices, post-operative
  chests. The network does not know what it has not seen; views are rejected before it by headers.
- Very dense consolidation can be left out of the lung field, which lowers the percentage where it
  matters most.
- Pictures were 8-bit JPEG with at most 768 pixels on the long side; the window is the 1st to 99th
  percentile.
- Phantoms show that the chain measures a known area; they say nothing of accuracy on patients.
- Sources, age, sex and views are unbalanced; no claim is made for any group.
"""


def render_card(metadata: Mapping[str, Any]) -> str:
    """Return the model card of `configs/metadata.json`."""
    metrics = metadata["metrics"]
    lines = ["| Figure | Value |", "|---|---|"]
    lines += [f"| {label} | {_show(metrics[key])} |" for key, label in _ROWS if key in metrics]
    name, stages = metadata["name"], metadata["training"]
    commands = [_command(name, number, stage) for number, stage in enumerate(stages)]
    counts = metadata["picture_licences"].items()
    return _TEXT.format(
        name=metadata["name"],
        version=metadata["version"],
        network=metadata["network"]["name"],
        parameters=f"{metadata['parameters']:,}",
        size=metadata["input_size"],
        averaged="averaged over the image and its mirror image, " if metadata["mirrored"] else "",
        labels=", ".join(metadata["labels"]),
        lung=metadata["threshold"]["lung"],
        opacity=metadata["threshold"]["opacity"],
        file=metadata["weights"]["file"],
        sha256=metadata["weights"]["sha256"],
        licence=metadata["licence"],
        licences=", ".join(f"{name} {count}" for name, count in counts) or "none",
        manifest=metadata["data_manifest_sha256"],
        training="\n".join(commands),
        table="\n".join(lines),
    )


def _command(name: str, number: int, stage: Mapping[str, Any]) -> str:
    """Return the command that repeats one stage, as an indented line of Markdown."""
    start = f" --start stage{number}/{name}" if number else ""
    shares = "".join(f" --share {kind} {count}" for kind, count in stage["shares"].items())
    return (
        f"    dicom-worker train --name {name} --out stage{number + 1}{start} "
        f"--steps {stage['steps']} --seed {stage['seed']} "
        f"--learning-rate {stage['learning_rate']} --phantoms {stage['phantoms']}{shares}"
    )


def _show(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
