"""The loops of one node in this process, in turns: dispatcher, worker tasks, delivery."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO

from builders import chest_dataset
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from remembered import AskedOnce
from rows import add_destination
from sqlalchemy import select
from typing_extensions import override

from dicom_node.delivery import Deliverer
from dicom_node.demo.pacs import Pacs
from dicom_node.dispatch import Dispatcher
from dicom_node.ledger import Line, compute
from dicom_node.queue import JobQueue
from dicom_node.senders.cstore import CStoreSender
from models.job import Job
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, JobKind, JobState
from worker import tasks
from worker.loading import LoadedModel, LoadedModels
from worker.registry import find_bundle
from worker.results import ResultStore
from worker.sandbox import Sandbox
from worker.training.phantom import make_phantom

_TASKS = {
    JobKind.ANALYSE: tasks.analyse,
    JobKind.REPORT: tasks.report,
    JobKind.SHADOW: tasks.shadow,
    JobKind.COMPARE: tasks.compare,
}
_ROUNDS = 40


@cache
def _segmenter() -> AskedOnce:
    return AskedOnce.load(find_bundle("unet", ()), "cpu", 1)


class _SharedModels(LoadedModels):
    """The shipped network, loaded once, and asked once for each picture, by all tests."""

    @override
    def get(self, selector: str) -> LoadedModel:
        segmenter = _segmenter()
        return LoadedModel(segmenter, self._store.register_model(segmenter.identity))


class Flow:
    """What a node does after C-STORE, one thing after the other, until nothing is left to do."""

    def __init__(
        self, database: Database, settings: Settings, queue: JobQueue, pacs: Pacs | None
    ) -> None:
        quick = settings.dispatch.model_copy(update={"settle_seconds": 0.0})
        self.settings = settings.model_copy(update={"dispatch": quick})
        self.database = database
        self.pacs = pacs
        store = ResultStore(database, self.settings.artifact_store)
        self.runtime = tasks.Runtime(
            settings=self.settings,
            database=database,
            store=store,
            sandbox=Sandbox(self.settings),
            models=_SharedModels(self.settings, store),
        )
        self._dispatcher = Dispatcher(self.settings, database, queue)
        self._deliverer = None if pacs is None else self._deliverer_to(pacs)

    def _deliverer_to(self, pacs: Pacs) -> Deliverer:
        ae_title, _, where = pacs.address.partition("@")
        destination = add_destination(self.database, ae_title, int(where.rpartition(":")[2]))
        sender = CStoreSender("NODE", 10.0)
        return Deliverer(self.settings, self.database, sender, destination)

    def run(self) -> None:
        """Do everything that follows from the rows."""
        for _ in range(_ROUNDS):
            moved = self._dispatcher.step()
            worked = self._work()
            sent = self._deliverer is not None and self._deliverer.step()
            if not (moved or worked or sent):
                return
        msg = f"the node does not come to rest in {_ROUNDS} rounds"
        raise TimeoutError(msg)

    def _work(self) -> bool:
        with self.database.read() as session:
            query = select(Job.id, Job.kind).where(Job.state == JobState.PENDING).order_by(Job.id)
            pending = session.execute(query).all()
        for job_id, kind in pending:
            _TASKS[kind](job_id, self.runtime)
        return bool(pending)

    def artifacts(self, kind: ArtifactKind) -> list[Dataset]:
        """Return the stored objects of one kind, oldest first."""
        with self.database.read() as session:
            keys = session.scalars(
                select(Artifact.storage_key).where(Artifact.kind == kind).order_by(Artifact.id)
            ).all()
        return [dcmread(self.settings.artifact_dir / key) for key in keys]

    def at_pacs(self) -> dict[str, Dataset]:
        """Return what the PACS got, by SOP Instance UID."""
        pacs = self.pacs
        found = [
            dcmread(BytesIO(pacs.fetch(each.key))) for each in (pacs.objects() if pacs else [])
        ]
        return {str(ds.SOPInstanceUID): ds for ds in found}

    def unbalanced(self) -> list[Line]:
        """Return the lines of the ledger that do not balance."""
        return [line for line in compute(self.database, self.settings) if not line.balanced]


@contextmanager
def running_flow(
    database: Database, settings: Settings, broker_url: str, pacs: Pacs | None = None
) -> Iterator[Flow]:
    """Yield the loops over a database; the decoder's child ends with the block."""
    queue = JobQueue(broker_url)
    flow = Flow(database, settings, queue, pacs)
    try:
        yield flow
    finally:
        flow.runtime.sandbox.close()
        queue.close()


def phantom(seed: int = 7, opacity: float = 20.0, **header: object) -> FileDataset:
    """Return a phantom chest that the shipped network analyses; keyword arguments are DICOM's."""
    pixels = make_phantom(seed, 512, opacity).pixels >> 4
    return chest_dataset(seed=seed, pixels=pixels, **header)


def predecessor_of(report: Dataset) -> str:
    """Return the SOP Instance UID of the document that a report replaces."""
    series = report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    return str(series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
