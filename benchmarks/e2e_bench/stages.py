"""The steps of one image in a warm process, one by one: processor seconds and elapsed seconds."""

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil
import torch
from safetensors.torch import load_file

from models.settings import Settings
from worker.capture import Findings, display_png, layer_png, overlay, overlay_png, radiograph
from worker.equipment import ObjectContext, to_bytes
from worker.header import data_set_sha256
from worker.inference import Segmenter
from worker.measurements import measure
from worker.network import build_network, channels_last
from worker.pipeline import admit
from worker.registry import Bundle, find_bundle
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.sandbox import Sandbox
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage

INFERENCE: Final = "inference"
BARE: Final = "bare forward pass"


@dataclass
class Costs:
    """What each step took, once per image."""

    cpu: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def __call__(self, step: str, child: psutil.Process | None = None) -> Iterator[None]:
        """Measure a block, with the processor time of a child that works for it."""
        before, began = _cpu(child), time.perf_counter()
        yield
        self.wall[step].append(time.perf_counter() - began)
        self.cpu[step].append(_cpu(child) - before)

    def median(self, step: str) -> tuple[float, float]:
        """Return processor and elapsed seconds of a step."""
        return statistics.median(self.cpu[step]), statistics.median(self.wall[step])

    @property
    def steps(self) -> dict[str, tuple[float, float]]:
        """Processor and elapsed seconds of the steps of an image, in their order."""
        return {step: self.median(step) for step in self.wall if step != BARE}


def _cpu(child: psutil.Process | None) -> float:
    own = time.process_time()
    if child is None:
        return own
    times = child.cpu_times()
    return own + times.user + times.system


def costs(files: list[Path], settings: Settings, threads: int, rounds: int) -> Costs:
    """Take images through every step some times; the first time does not count."""
    bundle = find_bundle(settings.analysis.model)
    segmenter = Segmenter.load(bundle, "cpu", threads)
    segmenter.warm_up()
    bare = _bare_network(bundle)
    measured = Costs()
    with Sandbox(settings) as sandbox:
        for number in range(rounds + 1):
            if number == 1:
                measured = Costs()
            for file in files:
                _one(file, sandbox, (segmenter, bare), settings, measured)
    return measured


def _one(
    file: Path,
    sandbox: Sandbox,
    networks: tuple[Segmenter, Callable[[torch.Tensor], object]],
    settings: Settings,
    cost: Costs,
) -> None:
    (segmenter, bare), analysis = networks, settings.analysis
    decoder = psutil.Process(sandbox.pid) if sandbox.pid else None
    with cost("decode", decoder):
        image = sandbox.load(file)
    with cost("gate, preprocess"):
        admitted = admit(image, segmenter, analysis)
    with cost(BARE):
        bare(admitted.prepared.tensor)
    with cost(INFERENCE):
        square = segmenter.square(admitted.prepared)
    with cost("postprocess"):
        masks = segmenter.reading(admitted.prepared, square, analysis.threshold).masks
    with cost("measure, hash"):
        found = measure(masks, admitted.image.spacing, analysis, admitted.image.orientation)
        digest = data_set_sha256(file)
    result = AnalysedImage(
        image=admitted.image,
        masks=masks,
        measurements=found,
        model=segmenter.identity,
        configuration_hash="benchmark",
        data_set_sha256=digest,
        seconds=0.0,
        device="cpu",
    )
    _objects(result, ObjectContext(datetime(2026, 1, 1, tzinfo=UTC), settings.objects), cost)


def _objects(result: AnalysedImage, context: ObjectContext, cost: Costs) -> None:
    """Make what a worker makes of one image, and its report."""
    with cost("SEG"):
        seg = build_segmentation(result, context)
        to_bytes(seg)
    with cost("pictures"):
        findings, plain = Findings.of(result), radiograph(result.image)
        picture = overlay(result, findings, plain)
        display_png(result.image, plain)
        overlay_png(result, picture)
        layer_png(findings)
    with cost("SR"):
        to_bytes(build_report([ReportImage.of(result, seg)], context, 1))


def _bare_network(bundle: Bundle) -> Callable[[torch.Tensor], object]:
    """Return the network of a bundle with nothing around it, on as many pictures as it is asked."""
    network = build_network(bundle.metadata.network)
    network.load_state_dict(load_file(bundle.weights))
    network = channels_last(network).eval()
    pictures = 2 if bundle.metadata.mirrored else 1

    @torch.inference_mode()
    def forward(tensor: torch.Tensor) -> object:
        return network(tensor.repeat(pictures, 1, 1, 1))

    return forward
