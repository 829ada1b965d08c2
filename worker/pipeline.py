"""One file to one analysed image, in the order in which it may be refused. No Celery here."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

from models.analysis_sections import AnalysisSettings
from models.settings import Settings
from worker.errors import NotAnalysable
from worker.header import data_set_sha256
from worker.image_gate import (
    Exposure,
    LungShape,
    check_lungs,
    doubt_caveats,
    fault_of,
    lung_caveats,
    may_be_corrected,
    view_caveats,
)
from worker.inference import Reading
from worker.measurements import measure
from worker.preprocess import Prepared, prepare
from worker.sandbox import Sandbox
from worker.types import (
    AnalysedImage,
    Caveat,
    ChestImage,
    Classification,
    LungMasks,
    ModelIdentity,
)
from worker.view import Look, view_reader

_WHITE: Final = 65535
_LOOKED_AT: Final = 256


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

    def prepared(self, image: ChestImage) -> Prepared:
        """Return the square that the model sees of `image`."""

    def look(self, prepared: Prepared) -> Look:
        """Say what the picture shows."""

    def read(self, prepared: Prepared, threshold: float | None = None) -> Reading:
        """Return the masks, and how doubtful the lungs are."""


class Classifies(Protocol):
    """A loaded experimental classifier, as `classifier.Classifier` is one."""

    @property
    def identity(self) -> ModelIdentity:
        """Name, version and weights hash."""

    def classify(self, image: ChestImage, masks: LungMasks) -> Classification:
        """Return the probability of each label."""


class StopWatch:
    """The seconds of each stage of one image."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._started = time.perf_counter()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the block; of one that raises nothing is noted."""
        began = time.perf_counter()
        yield
        self.stages[stage] = time.perf_counter() - began

    @property
    def seconds(self) -> float:
        """Seconds since the watch was made."""
        return time.perf_counter() - self._started


@dataclass(frozen=True)
class Admitted:
    """A picture that shows one upright chest, its square, and what had to be said or corrected."""

    image: ChestImage
    prepared: Prepared
    caveats: tuple[Caveat, ...]


def analyse_image(
    path: Path,
    sandbox: Sandbox,
    segmenter: Segments,
    settings: Settings,
    classifier: Classifies | None = None,
) -> AnalysedImage:
    """Decode, gate, segment and measure one file; classify it where that experiment is on.

    Raises NotAnalysable when the image must not get a number, AnalysisFailed when the file broke
    its decoder. Anything else is no fault of the file.
    """
    watch, analysis = StopWatch(), settings.analysis
    with watch("decode"):
        decoded = sandbox.load(path)
    with watch("gate"):
        admitted = admit(decoded, segmenter, analysis)
    image = admitted.image
    with watch("inference"):
        masks, caveats = find_lungs(admitted, segmenter, analysis)
        classified = None if classifier is None else classifier.classify(image, masks)
    with watch("measure"):
        measurements = measure(masks, image.spacing, analysis, image.orientation)
        digest = data_set_sha256(path)
    return AnalysedImage(
        image=image,
        masks=masks,
        measurements=measurements,
        model=segmenter.identity,
        configuration_hash=analysis.configuration_hash(_decisive(segmenter, classifier)),
        data_set_sha256=digest,
        seconds=watch.seconds,
        device=segmenter.device,
        caveats=caveats,
        classification=classified,
        stages=watch.stages,
    )


def admit(image: ChestImage, segmenter: Segments, settings: AnalysisSettings) -> Admitted:
    """Let a picture in that shows one upright chest; turn an inverted grey scale over.

    Raises NotAnalysable with what it shows instead.
    """
    seen = seen_square(image)
    look = segmenter.look(seen)
    fault = fault_of(look, Exposure.of(seen), settings)
    corrected: tuple[Caveat, ...] = ()
    if fault is not None and may_be_corrected(look, settings):
        image = replace(image, pixels=_WHITE - image.pixels)
        seen = seen_square(image)
        look = segmenter.look(seen)
        if fault_of(look, Exposure.of(seen), settings) is None:
            fault, corrected = None, (Caveat.INVERTED,)
    if fault is not None:
        raise NotAnalysable(fault)
    return Admitted(image, segmenter.prepared(image), corrected + view_caveats(look))


def seen_square(image: ChestImage) -> Prepared:
    """Return the square that is looked at: of one size, whatever the model that measures wants."""
    return prepare(image.pixels, image.orientation, image.row_height_over_width, _LOOKED_AT)


def find_lungs(
    admitted: Admitted, segmenter: Segments, settings: AnalysisSettings
) -> tuple[LungMasks, tuple[Caveat, ...]]:
    """Return the masks on the source grid, and every caveat of the image.

    Raises NotAnalysable when no lung is plausible.
    """
    reading = segmenter.read(admitted.prepared, settings.threshold)
    shape = LungShape.of(reading.upright)
    check_lungs(shape, settings)
    caveats = (
        *admitted.caveats,
        *lung_caveats(shape, settings),
        *doubt_caveats(reading.doubt, settings),
    )
    return reading.masks, caveats


def _decisive(segmenter: Segments, classifier: Classifies | None) -> str:
    """Return what decides a result beside the settings and the weights of the model."""
    experiment = [] if classifier is None else [classifier.identity.sha256]
    return json.dumps([segmenter.configuration, view_reader().identity, *experiment])
