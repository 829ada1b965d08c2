"""Write a classifier as a bundle: half-precision weights, metadata of their kind, model card."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors.torch import save_file

from worker.registry import (
    METADATA,
    Bundle,
    ClassifierBundle,
    file_sha256,
    read_classifier,
)
from worker.training.bundle import LICENCE, WEIGHTS
from worker.training.crops import Crops
from worker.training.two_step import LABELS, Fitted, TwoStepConfig, collection_of

_PACKAGES: Final = ("monai", "torch", "numpy", "safetensors")
_CARD: Final = """# {name} {version}

**An experiment, not validated. Research use only. Not a medical device. Not for diagnosis or
treatment decisions.**

Takes the lungs that a segmentation model found on a frontal chest radiograph, blacks out all else,
and gives a probability each of {labels}. It is off unless the setting
`analysis.experimental_classifier` names it; then the report carries its statement as an
experimental text. It measures no area and cannot be the segmentation model.

- Network: {network}, {parameters:,} parameters, input {size} x {size}.
- Lungs: model `{lung_model}`, weights SHA-256 `{lung_sha256}`.
- Weights: `{file}`, half precision, SHA-256 `{sha256}`.
- Licence of the weights: {licence}, for research, because of the licences of the pictures.

## What it must not be used for

**The classes come from different collections.** {origins}. A network can tell
collections apart by sharpness, format and framing, and is then right about the class without having
seen disease. Its probabilities hold, if at all, for a mixture like the training data, and for no
hospital. The report on the training, which compares it with baselines that see no picture and asks
within one collection at a time, is docs/two-step.md of the project.

## Training data

Public pictures of ieee8023/covid-chestxray-dataset, agchung/Actualmed-COVID-chestxray-dataset and
NIH ChestX-ray14; the labels of the last were read from reports by a program. Licences of the
pictures that trained: {licences}. Pictures under a
no-derivatives licence and all pictures of patients of the test split were left out. SHA-256 of the
case tables: `{manifest}`. To repeat the training:

    {command}

## Figures

{table}

Cross-validated figures are of patients that the network had not seen; each collection's are of
networks trained inside it.
"""


@dataclass(frozen=True)
class Provenance:
    """The lungs and the tables that a classifier was made with."""

    lung_sha256: str
    manifest_sha256: str

    @classmethod
    def of(cls, lungs: Bundle, manifest_sha256: str) -> Self:
        """Return that of an installed model and a data folder."""
        return cls(lungs.identity.sha256, manifest_sha256)


def write_classifier(
    config: TwoStepConfig, fitted: Fitted, crops: Crops, provenance: Provenance
) -> ClassifierBundle:
    """Write `config.out / config.name`; figures come after. Returns it as serving reads it."""
    folder = config.out / config.name
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    save_file(_half(fitted.network), folder / WEIGHTS)
    (folder / WEIGHTS).chmod(0o644)  # the writer makes it private; a bundle is for every user
    inference = {
        "bundle_root": ".",
        "network_def": {
            "_target_": "worker.classifier.build_classifier",
            "config": dict(config.network),
            "classes": len(LABELS),
        },
        "preprocessing": {"_target_": "worker.classifier.lung_crop", "_mode_": "callable"},
    }
    _write_json(folder / "configs" / "inference.json", inference)
    metadata = _metadata(config, fitted, crops, provenance)
    metadata["weights"] = {"file": WEIGHTS, "sha256": file_sha256(folder / WEIGHTS)}
    return _write_metadata(folder, metadata)


def record_metrics(folder: Path, metrics: Mapping[str, float | int]) -> ClassifierBundle:
    """Record the figures measured with this classifier in its metadata and its card."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    return _write_metadata(folder, metadata | {"metrics": dict(metrics)})


def render_classifier_card(metadata: Mapping[str, Any]) -> str:
    """Return the model card of `configs/metadata.json`."""
    rows = [f"| {name} | {value} |" for name, value in metadata["metrics"].items()]
    counts = metadata["picture_licences"].items()
    origins = [f"{count} pictures of {name}" for name, count in metadata["origins"].items()]
    return _CARD.format(
        **{key: metadata[key] for key in ("name", "version", "parameters", "licence")},
        lung_model=metadata["lung_model"],
        lung_sha256=metadata["lung_model_sha256"],
        labels=", ".join(metadata["labels"]),
        network=metadata["network"]["name"],
        size=metadata["input_size"],
        file=metadata["weights"]["file"],
        sha256=metadata["weights"]["sha256"],
        origins="; ".join(origins),
        licences=", ".join(f"{name} {count}" for name, count in counts),
        manifest=metadata["data_manifest_sha256"],
        command=command_of(metadata["name"], metadata["training"][0]),
        table="\n".join(["| Figure | Value |", "|---|---|", *rows]),
    )


def command_of(name: str, stage: Mapping[str, Any]) -> str:
    """Return the command that repeats a training."""
    return (
        f"dicom-worker train-two-step --name {name} --out bundles --folds {stage['folds']} "
        f"--epochs {stage['epochs']} --size {stage['size']} --seed {stage['seed']} "
        f"--lung-model {stage['lung_model']} --threads 1"
    )


def _metadata(
    config: TwoStepConfig, fitted: Fitted, crops: Crops, provenance: Provenance
) -> dict[str, Any]:
    origins = Counter(
        f"{LABELS[label]} from {collection_of(case)}"
        for case, label in zip(crops.cases, crops.labels.tolist(), strict=True)
    )
    stage = {
        "pictures": len(crops),
        "steps": len(fitted.losses),
        "minutes": round(fitted.seconds / 60, 1),
        **{name: getattr(config, name) for name in ("folds", "epochs", "batch", "size", "seed")},
        **{name: getattr(config, name) for name in ("learning_rate", "weight_decay")},
        "lung_model": config.lung_model,
    }
    return {
        "name": config.name,
        "version": config.version,
        "kind": "classifier",
        "task": "Experimental: COVID-19, other pneumonia or no finding on the lungs cut out",
        "intended_use": "Research use only. Not validated. Not a medical device.",
        "licence": LICENCE,
        "input_size": config.size,
        "network": dict(config.network),
        "parameters": sum(value.numel() for value in fitted.network.parameters()),
        "labels": list(LABELS),
        "lung_model": config.lung_model,
        "lung_model_sha256": provenance.lung_sha256,
        "data_manifest_sha256": provenance.manifest_sha256,
        "picture_licences": dict(Counter(case.licence for case in crops.cases).most_common()),
        "origins": dict(origins.most_common()),
        "training": [stage],
        "metrics": {},
        "required_packages_version": {name: version(name) for name in _PACKAGES},
    }


def _half(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }


def _write_metadata(folder: Path, metadata: dict[str, Any]) -> ClassifierBundle:
    _write_json(folder / METADATA, metadata)
    card = render_classifier_card(metadata)
    (folder / "docs" / "README.md").write_text(card, encoding="utf-8")
    return read_classifier(folder)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
