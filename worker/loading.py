"""The models that one worker process has loaded: by name, each once, registered in the database."""

import os
from dataclasses import dataclass

from models.settings import Settings
from worker.inference import Segmenter
from worker.registry import find_bundle
from worker.results import ResultStore


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

    def get(self, selector: str) -> LoadedModel:
        """Return the model of that name, loaded and warmed up at its first use.

        Raises BundleError when no such bundle is installed or its weights are not what they were.
        """
        if selector not in self._models:
            worker = self._settings.worker
            threads = worker.torch_threads or _share_of_cores(worker.concurrency)
            segmenter = Segmenter.load(find_bundle(selector), worker.device, threads)
            segmenter.warm_up()
            row_id = self._store.register_model(segmenter.identity)
            self._models[selector] = LoadedModel(segmenter, row_id)
        return self._models[selector]


def _share_of_cores(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)
