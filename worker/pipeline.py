"""One file to one analysed image, in the order in which it may be refused. No Celery here."""

import time
from pathlib import Path
from typing import Protocol

from models.settings import Settings
from worker.gate import check_masks
from worker.header import data_set_sha256
from worker.measurements import measure
from worker.sandbox import Sandbox
from worker.types import AnalysedImage, ChestImage, LungMasks, ModelIdentity


class Segments(Protocol):
    """A loaded model, as `inference.Segmenter` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and weights hash."""

    @property
    def device(self) -> str:
        """`cpu` or `cuda`."""

    @property
    def configuration(self) -> str:
        """What decides the masks beside the weights, in canonical form."""

    def segment(self, image: ChestImage, threshold: float | None = None) -> LungMasks:
        """Return the masks of `image` on its source grid."""


def analyse_image(
    path: Path, sandbox: Sandbox, segmenter: Segments, settings: Settings
) -> AnalysedImage:
    """Decode, gate, segment and measure one file.

    Raises NotAnalysable when the image must not get a number, AnalysisFailed when the file broke
    its decoder. Anything else is no fault of the file.
    """
    started = time.perf_counter()
    image = sandbox.load(path)
    masks = segmenter.segment(image, settings.analysis.threshold)
    check_masks(masks, settings.analysis)
    return AnalysedImage(
        image=image,
        masks=masks,
        measurements=measure(masks, image.spacing, settings.analysis, image.orientation),
        model=segmenter.identity,
        configuration_hash=settings.analysis.configuration_hash(segmenter.configuration),
        data_set_sha256=data_set_sha256(path),
        seconds=time.perf_counter() - started,
        device=segmenter.device,
    )
