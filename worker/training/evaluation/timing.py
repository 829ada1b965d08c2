"""How long one picture takes, alone in its batch, from pixels to masks."""

import platform
import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from worker.inference import Segmenter
from worker.training.evaluation.measured import chest_image

REPEATS: Final = 15
LONG_SIDES: Final = (768, 2500)  # as in the public collections, as a detector delivers it


@dataclass(frozen=True)
class TimingRow:
    """Milliseconds of one picture: window, network and clean-up of masks; no decoding."""

    rows: int
    columns: int
    median_ms: float
    p90_ms: float
    repeats: int


@dataclass(frozen=True)
class Timing:
    """Times and what they were taken on."""

    device: str
    processor: str
    threads: int
    torch: str
    pictures: tuple[TimingRow, ...]


def take_times(segmenter: Segmenter, pixels: NDArray[np.uint16], repeats: int = REPEATS) -> Timing:
    """Time one picture, resized to each of LONG_SIDES."""
    segmenter.warm_up()
    sizes = [_resized(pixels, long_side) for long_side in LONG_SIDES]
    on_gpu = segmenter.device == "cuda"
    return Timing(
        device=segmenter.device,
        processor=torch.cuda.get_device_name() if on_gpu else platform.machine(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        pictures=tuple(_time(segmenter, picture, repeats) for picture in sizes),
    )


def _time(segmenter: Segmenter, pixels: NDArray[np.uint16], repeats: int) -> TimingRow:
    image = chest_image(pixels)
    segmenter.segment(image)  # the first picture of a size is slower
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        segmenter.segment(image)  # its masks are on the host when it returns
        taken.append(1000.0 * (time.perf_counter() - started))
    rows, columns = pixels.shape
    return TimingRow(
        rows, columns, float(np.median(taken)), float(np.percentile(taken, 90)), repeats
    )


def _resized(pixels: NDArray[np.uint16], long_side: int) -> NDArray[np.uint16]:
    rows, columns = pixels.shape
    scale = long_side / max(rows, columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    grown = Image.fromarray(pixels.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    resized: NDArray[np.uint16] = np.clip(np.rint(np.asarray(grown)), 0, 65535).astype(np.uint16)
    return resized
