"""The models that one worker process has loaded: by name, each once, registered in the database."""

import logging
import os
from dataclasses import dataclass
from typing import Final

from models.settings import Settings
from worker.classifier import Classifier, load_classifier
from worker.errors import BundleError
from worker.inference import Segmenter
from worker.registry import find_bundle, find_classifier, installed_bundles
from worker.results import ResultStore
from worker.warm_up import warm_up_objects

log = logging.getLogger(__name__)

_ANALYSES: Final = {"all", "analysis"}
_COMPARES: Final = {"all", "shadow"}


@dataclass(frozen=True)
class LoadedModel:
    """A network in memory and the id of its ModelVersion row."""

    segmenter: Segmenter
    model_version_id: int


class LoadedModels:
    """Resolves a job's model selector. A model stays loaded for the life of the process."""

    def __init__(self, settings: Settings, store: ResultStore) -> None:
        self._settings = settings
        self._store = store
        self._models: dict[str, LoadedModel] = {}
        self._classifier: Classifier | None = None

    def get(self, selector: str) -> LoadedModel:
        """Return the model of that name, loaded and warmed up at its first use.

        Raises BundleError when no such bundle is installed or its weights are not what they were.
        """
        if selector not in self._models:
            worker = self._settings.worker
            threads = worker.torch_threads or _share_of_cores(worker.concurrency)
            bundle = find_bundle(selector, worker.bundle_dirs)
            segmenter = Segmenter.load(bundle, worker.device, threads)
            segmenter.warm_up()
            row_id = self._store.register_model(
                segmenter.identity, bundle.card, bundle.metadata.metrics
            )
            self._models[selector] = LoadedModel(segmenter, row_id)
        return self._models[selector]

    def classifier(self) -> Classifier | None:
        """Return the experimental classifier, loaded at its first use; None when it is off.

        Raises BundleError when no such classifier is installed or its weights are not what they
        were.
        """
        if self._classifier is None:
            self._classifier = load_classifier(self._settings)
        return self._classifier

    def load_all(self) -> None:
        """Load what this worker will be asked for, so that no job waits for a network.

        Raises BundleError when a model whose results are sent cannot be loaded. A shadow model
        that cannot is logged only: its jobs fail with the reason, and real work goes on.
        """
        if self._settings.worker.serves in _ANALYSES:
            for selector in self._settings.models:
                self.get(selector)
            self.classifier()
            warm_up_objects(self._settings)
        shadow = self._settings.shadow.model
        if shadow is not None and self._settings.worker.serves in _COMPARES:
            try:
                self.get(shadow)
            except BundleError:
                log.exception("the shadow model cannot be loaded; nothing will be compared")


def verify_models(settings: Settings) -> None:
    """Raise BundleError unless every model whose results are sent is installed and whole."""
    if settings.worker.serves in _ANALYSES:
        for selector in settings.models:
            find_bundle(selector, settings.worker.bundle_dirs)
        if settings.analysis.experimental_classifier is not None:
            find_classifier(settings.analysis.experimental_classifier, settings.worker.bundle_dirs)


def what_is_installed(settings: Settings) -> dict[str, object]:
    """Answer the node's question which models this worker could load, and for what it works."""
    try:
        names = [it.metadata.name for it in installed_bundles(settings.worker.bundle_dirs)]
    except BundleError as error:
        return {"models": [], "serves": settings.worker.serves, "problem": str(error)}
    return {"models": names, "serves": settings.worker.serves, "problem": None}


def _share_of_cores(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)
