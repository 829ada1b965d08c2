"""Do faster modes give the same masks? fp32 beside bfloat16 and one thread beside two, on the CPU.

Prints the lowest and the median Dice of lungs and opacity over the test pictures and the
milliseconds of the network alone, and whether repeating gives the same bytes. A mode whose masks
agree at less than 0.999 must not be the default.

    python benchmarks/precision.py [--model unet] [--data FOLDER]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file

from worker.network import build_network, channels_last
from worker.postprocess import masks_from_probabilities
from worker.preprocess import prepare
from worker.registry import find_bundle
from worker.training.cases import Case, load_manifest
from worker.training.datasets import data_folder
from worker.types import LungMasks, Mask, Orientation

Mode = Callable[[], AbstractContextManager[object]]


def main() -> None:
    """Measure and print one line per mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    cases = [
        c for c in load_manifest(data_folder(arguments.data)) if c.split == "test" and c.labels
    ]
    torch.set_num_threads(2)
    first, _ = run(arguments.model, cases, nullcontext)
    second, milliseconds = run(arguments.model, cases, nullcontext)
    same = all(equal(one, other) for one, other in zip(first, second, strict=True))
    print(f"{len(cases)} test pictures, model {arguments.model}")
    again = "same bytes" if same else "OTHER BYTES"
    print(f"{'fp32, two threads':22} {milliseconds:6.1f} ms   repeated: {again}")
    torch.set_num_threads(1)
    report("fp32, one thread", first, *run(arguments.model, cases, nullcontext))
    torch.set_num_threads(2)
    half = run(arguments.model, cases, lambda: torch.autocast("cpu", torch.bfloat16))
    report("bfloat16, two threads", first, *half)


def report(name: str, first: list[LungMasks], masks: list[LungMasks], milliseconds: float) -> None:
    """Print how far one mode's masks agree with those of fp32."""
    pairs = list(zip(first, masks, strict=True))
    lungs = [dice(a.left | a.right, b.left | b.right) for a, b in pairs]
    opacity = [dice(a.opacity, b.opacity) for a, b in pairs]
    print(
        f"{name:22} {milliseconds:6.1f} ms   Dice with fp32: "
        f"lungs {min(lungs):.5f} (median {statistics.median(lungs):.5f}), "
        f"opacity {min(opacity):.5f} (median {statistics.median(opacity):.5f})"
    )


@torch.inference_mode()
def run(model: str, cases: list[Case], mode: Mode) -> tuple[list[LungMasks], float]:
    """Return the masks of every case and the median milliseconds of the network."""
    bundle = find_bundle(model)
    network = build_network(bundle.metadata.network)
    network.load_state_dict(load_file(bundle.weights))
    network = channels_last(network).eval()
    masks, seconds = [], []
    limits = bundle.metadata.threshold
    for case in cases:
        prepared = prepare(case.pixels(), Orientation(), 1.0, bundle.metadata.input_size)
        with mode():
            started = time.perf_counter()
            logits = network(prepared.tensor)
            seconds.append(time.perf_counter() - started)
        probabilities = prepared.to_source(logits.float().sigmoid()[0])
        masks.append(masks_from_probabilities(probabilities, limits.lung, limits.opacity))
    return masks, 1000 * statistics.median(seconds)


def dice(first: Mask, second: Mask) -> float:
    """Return the overlap of two masks; 1 when both are empty."""
    areas = int(first.sum()) + int(second.sum())
    return 2 * int((first & second).sum()) / areas if areas else 1.0


def equal(first: LungMasks, second: LungMasks) -> bool:
    """Say whether two results are the same to the pixel."""
    return all(
        (getattr(first, name) == getattr(second, name)).all()
        for name in ("left", "right", "opacity")
    )


if __name__ == "__main__":
    main()
