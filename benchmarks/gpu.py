"""How many pictures a device reads, and how far that is from what the device can do.

One command on any machine; with a CUDA device it measures that, else the CPU:

    python benchmarks/gpu.py [--model unet] [--device auto] [--batches 1,4,16,64] [--seconds 2]

For every precision and batch size it prints images/s, the time of one batch (median, 95th
percentile), the share of that time in which the device computed, and the roofline: the operations
of the network (counted by torch) and the bytes that its layers read and write (counted here, each
layer by itself) against what the same device reaches in this run with a large matrix product and a
large copy. `of roof` is the share of the rate that the roofline allows. Copies from and to the host
are part of the time; pictures wait in pinned memory.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from worker.inference import Segmenter
from worker.network import build_network, channels_last
from worker.registry import find_bundle

_GIGA = 1e9
_LEAST_RUNS = 8
_MATRIX = {"cuda": 8192, "cpu": 2048}
_COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Peak:
    """What the device reached in this run: operations and bytes per second."""

    operations: float
    bytes: float

    def roof(self, operations: float, moved: float) -> float:
        """Return the least seconds that so much work can take."""
        return max(operations / self.operations, moved / self.bytes)


def main() -> None:
    """Measure and print a Markdown table per precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--seconds", type=float, default=2.0)
    wanted = parser.parse_args()
    segmenter = Segmenter.load(find_bundle(wanted.model), wanted.device)
    device = segmenter.device
    metadata = find_bundle(wanted.model).metadata
    name = (
        torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
    )
    print(f"model {segmenter.identity.name} {segmenter.identity.version}, {device} ({name})")
    network = channels_last(build_network(metadata.network).to(device)).eval()
    for precision in ("float32", "bfloat16") if device == "cpu" else tuple(_TYPES):
        peak = measure_peak(device, _TYPES[precision])
        print(f"\n{precision}: {peak.operations / _GIGA:,.0f} GFLOP/s in a matrix product, "
              f"{peak.bytes / _GIGA:,.0f} GB/s in a copy\n")  # fmt: skip
        print("| batch | images/s | ms per batch (p50 / p95) | computing | GFLOP | MB | of roof |")
        print("|---|---|---|---|---|---|---|")
        for batch in map(int, wanted.batches.split(",")):
            print(row(network, metadata.input_size, batch, precision, wanted.seconds, peak))


def row(
    network: torch.nn.Module, size: int, batch: int, precision: str, seconds: float, peak: Peak
) -> str:
    """Return one line of the table."""
    device = next(network.parameters()).device.type
    pictures = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    if device == "cuda":
        pictures = pictures.pin_memory()
    kind = _TYPES[precision]

    def forward(given: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, kind, enabled=kind is not torch.float32):
            return network(given)

    def whole() -> None:
        there = pictures.to(device, non_blocking=True, memory_format=torch.channels_last)
        forward(there).float().sigmoid().cpu()

    there = pictures.to(device)
    operations, moved = work_of(network, forward, there)
    taken = timed(whole, seconds, device)
    middle = statistics.median(taken)
    late = sorted(taken)[int(0.95 * (len(taken) - 1))]
    computing = statistics.median(timed(lambda: forward(there), seconds / 2, device)) / middle
    return (
        f"| {batch} | {batch / middle:,.0f} | {1000 * middle:.2f} / {1000 * late:.2f} "
        f"| {min(computing, 1.0):.0%} | {operations / _GIGA:.2f} | {moved / 1e6:.0f} "
        f"| {peak.roof(operations, moved) / middle:.0%} |"
    )


@torch.inference_mode()
def timed(work: Callable[[], object], seconds: float, device: str) -> list[float]:
    """Return the seconds of each run, of at least eight after three that warm up."""
    for _ in range(3):
        work()
    wait_for(device)
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < _LEAST_RUNS or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - began)
    return taken


def wait_for(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


@torch.inference_mode()
def work_of(
    network: torch.nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor
) -> tuple[float, float]:
    """Return operations (two per multiply-add) and bytes of one pass."""
    counter = FlopCounterMode(display=False)
    with counting_bytes(network) as moved, counter:
        forward(given)
    return float(counter.get_total_flops()), float(sum(moved))


@contextmanager
def counting_bytes(network: torch.nn.Module) -> Iterator[list[int]]:
    """Count what each layer reads (input, weights) and writes: nothing stays in a cache between."""
    moved: list[int] = []

    def note(layer: torch.nn.Module, given: tuple[object, ...], made: object) -> None:
        tensors = [each for each in (*given, made, *layer.parameters()) if torch.is_tensor(each)]
        moved.append(sum(each.numel() * each.element_size() for each in tensors))

    leaves = [each for each in network.modules() if not list(each.children())]
    hooks = [each.register_forward_hook(note) for each in leaves]
    try:
        yield moved
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def measure_peak(device: str, kind: torch.dtype) -> Peak:
    """Return what a large matrix product and a large copy reach."""
    size = _MATRIX[device]
    left = torch.randn(size, size, device=device, dtype=kind)
    product = min(timed(lambda: left @ left, 1.0, device))
    source = torch.empty(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = min(timed(lambda: target.copy_(source), 1.0, device))
    return Peak(2.0 * size**3 / product, 2.0 * source.numel() / copy)


if __name__ == "__main__":
    main()
