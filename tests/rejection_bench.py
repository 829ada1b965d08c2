"""A node whose images get rejected: real listener, dispatcher, worker tasks and deliverer.

Only the network is left out: an analyse job gets drawn masks, so that a test takes no model.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import servers
from builders import analysed_image, chest_dataset, chest_image, lung_masks
from pydicom import dcmread
from pydicom.dataset import Dataset
from rows import publish_again
from senders import store
from sqlalchemy import select

from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.dispatch import Dispatcher
from dicom_node.ledger import compute
from dicom_node.queue import JobQueue
from dicom_node.senders.chosen import sender_for
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction, AuditEvent
from models.delivery import Delivery, Destination
from models.imaging import Instance, Study
from models.job import Job
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, DeliveryState, JobKind, JobState
from worker import tasks
from worker.correction import corrected_image
from worker.leases import claim
from worker.loading import LoadedModels
from worker.results import ResultStore
from worker.sandbox import Sandbox
from worker.types import ModelIdentity

MODEL = ModelIdentity("test-net", "1.0", "0" * 64)
STUDY = "1.2.840.77"


def image(number: int = 1, **overrides: object) -> Dataset:
    """One image of the study."""
    header = {"PatientID": "P1", "StudyInstanceUID": STUDY} | overrides
    return chest_dataset(seed=number, **header)


class Bench:
    """Every role of a node in one process, each step on demand."""

    def __init__(
        self, port: int, database: Database, settings: Settings, queue: JobQueue, sandbox: Sandbox
    ) -> None:
        self.port = port
        self.database = database
        self.settings = settings
        self.dispatcher = Dispatcher(settings, database, queue)
        self.store = ResultStore(database, settings.artifact_store)
        self.model_id = self.store.register_model(MODEL)
        self.runtime = tasks.Runtime(
            settings=settings,
            database=database,
            store=self.store,
            sandbox=sandbox,
            models=LoadedModels(settings, self.store),
        )
        synchronise_destinations(database, settings)

    def send(self, *objects: Dataset) -> None:
        """C-STORE each to the listener; all are answered with success."""
        assert [store(self.port, ds) for ds in objects] == [0] * len(objects)

    def all(self, model: type, *where: Any) -> list[Any]:
        """Return the rows of a table, in order."""
        with self.database.read() as session:
            return list(session.scalars(select(model).where(*where).order_by(model.id)))

    @property
    def study(self) -> Study:
        """The only study."""
        (study,) = self.all(Study)
        return study

    def instance(self, ds: Dataset) -> Instance:
        """Return the row of an object."""
        (row,) = self.all(Instance, Instance.sop_instance_uid == str(ds.SOPInstanceUID))
        return row

    def dispatch(self) -> None:
        """Do what the dispatcher does, until nothing moves."""
        for _ in range(5):
            if not self.dispatcher.step():
                return

    def jobs(self, kind: JobKind, state: JobState = JobState.PENDING) -> list[Job]:
        """Return the jobs of a kind that are in a state."""
        return self.all(Job, Job.kind == kind, Job.state == state)

    def analyse(self) -> None:
        """Do every analyse job; each further image has more opacity."""
        for job in self.jobs(JobKind.ANALYSE):
            assert claim(self.database, job.id, 60.0) is not None
            self.finish_analysis(job)

    def finish_analysis(self, job: Job) -> None:
        """Store the result of a job that is leased to this process."""
        with self.database.read() as session:
            row = session.get_one(Instance, job.instance_id)
        ds = dcmread(self.settings.spool_dir / row.storage_key)
        masks = lung_masks(int(ds.Rows), int(ds.Columns), 0.2 * row.id)
        result = analysed_image(chest_image(ds=ds), masks, model=MODEL)
        result = replace(result, data_set_sha256=row.data_set_sha256)
        result = corrected_image(result, row.correction, row.identity_revision)
        context = tasks._context(self.runtime, job)
        products = tasks._products(result, context, self.settings)
        self.store.store_analysis(job.id, self.model_id, result, products)

    def compare(self) -> None:
        """Do every compare job, as the worker's task does it."""
        for job in self.jobs(JobKind.COMPARE):
            tasks.compare(job.id, self.runtime)

    def report(self) -> None:
        """Do every report job, as the worker's task does it; none is left to its pause."""
        publish_again(self.database)
        for job in self.jobs(JobKind.REPORT):
            tasks.report(job.id, self.runtime)

    def deliver(self) -> None:
        """Send what is due, to every destination."""
        for row in self.all(Destination, Destination.enabled):
            is_url = row.name in self.settings.destinations_over_web
            sender = sender_for(self.settings, row.name) if is_url else CStoreSender("NODE", 5.0)
            while Deliverer(self.settings, self.database, sender, row.id).step():
                pass

    def run(self) -> None:
        """Let every role work until all is done."""
        for _ in range(9):
            self.dispatch()
            if self.jobs(JobKind.ANALYSE):
                self.analyse()
            elif self.jobs(JobKind.COMPARE):
                self.compare()
            elif self.jobs(JobKind.REPORT):
                self.report()
            elif self.all(Delivery, Delivery.state == DeliveryState.DUE):
                self.deliver()
            else:
                return
        msg = "the node does not come to rest"
        raise AssertionError(msg)

    def artifacts(self, kind: ArtifactKind) -> list[Dataset]:
        """Return the objects of a kind as they are on disk, in order."""
        return [
            dcmread(self.settings.artifact_dir / row.storage_key)
            for row in self.all(Artifact, Artifact.kind == kind)
        ]

    def deliveries(self) -> list[tuple[str, str]]:
        """Return kind of object and state of every delivery, in order."""
        with self.database.read() as session:
            query = select(Artifact.kind, Delivery.state).join(Delivery).order_by(Delivery.id)
            return [(kind.value, state.value) for kind, state in session.execute(query)]

    def events(self, action: AuditAction) -> list[tuple[str, dict[str, Any]]]:
        """Return outcome and details of the audit events about `action`."""
        rows = self.all(AuditEvent, AuditEvent.action == action)
        return [(row.outcome, row.details) for row in rows]

    @property
    def unbalanced(self) -> list[str]:
        """The lines of the ledger that do not balance."""
        lines = compute(self.database, self.settings)
        return [f"{line.name}: {line.parts}" for line in lines if not line.balanced]


class Archive:
    """dcmtk's storescp: a PACS in a process of its own. The listener changes pynetdicom in ours."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def classes(self) -> list[str]:
        """Return the SOP Class UID of everything received, sorted."""
        found = [dcmread(path, stop_before_pixels=True) for path in self.folder.iterdir()]
        return sorted(str(ds.SOPClassUID) for ds in found)


@contextmanager
def archive(program: Path, folder: Path) -> Iterator[Archive]:
    """Run a storescp that keeps what it receives in `folder`."""
    folder.mkdir()
    port = servers.free_port()
    process = subprocess.Popen(
        [program, "--output-directory", folder, str(port)], stdout=subprocess.DEVNULL
    )
    try:
        servers.wait_until(lambda: servers._answers(port), 20.0, "storescp listens")
        yield Archive(folder, port)
    finally:
        process.terminate()
        process.wait()
