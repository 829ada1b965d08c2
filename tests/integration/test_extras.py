"""Presentation states and pages on their way: made where wanted, delivered, and coming back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from builders import analysed_image, chest_dataset, chest_image, object_context, write_part10
from pydicom import dcmread
from pydicom.dataset import Dataset
from rows import SEG, SR, add_instance, add_job, instances, open_database, outcomes
from senders import store
from sqlalchemy import select, update

from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.demo.pacs import StoragePacs
from dicom_node.ledger import compute
from dicom_node.planning import delivered_studies, plan_deliveries
from dicom_node.purgeable import PICTURES
from dicom_node.results import ResultFilter, results
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction
from models.delivery import Destination
from models.imaging import Instance, Study
from models.job import Job
from models.result import Artifact
from models.settings import Settings, load_settings
from models.states import ArtifactKind, InstanceState, JobKind, StudyState
from worker import document, tasks
from worker.capture import overlay
from worker.document import build_document
from worker.errors import ImageWithdrawnError
from worker.extras import audit_left_out
from worker.leases import LeaseLostError, claim
from worker.page import PageImage
from worker.presentation import build_presentation_state
from worker.report_groups import ReportImage
from worker.results import ResultStore
from worker.sandbox import Sandbox
from worker.segmentation import build_segmentation
from worker.types import ModelIdentity

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
PR = "1.2.840.10008.5.1.4.1.1.11.1"
PDF = "1.2.840.10008.5.1.4.1.1.104.1"
WEIGHTS = ModelIdentity("test-net", "1.0", "f" * 64)


class Bench:
    """A node with one study, whose worker has everything but a network."""

    def __init__(self, runtime: tasks.Runtime) -> None:
        self.runtime = runtime
        self.settings, self.database = runtime.settings, runtime.database
        self._model = runtime.store.register_model(WEIGHTS)
        synchronise_destinations(self.database, self.settings)

    def analyse(self, seed: str) -> None:
        """Put an image into the study and store what the worker makes of it."""
        ds = chest_dataset(seed=seed, StudyInstanceUID="1.2.840.1", PatientID="P1")
        key = f"00/{seed}.dcm"
        write_part10(self.settings.spool_dir / key, ds)
        job_id = add_job(
            self.database,
            add_instance(
                self.database,
                sop_instance_uid=str(ds.SOPInstanceUID),
                storage_key=key,
                state=InstanceState.QUEUED,
            ),
        )
        job = claim(self.database, job_id, 60.0)
        assert job is not None
        result = analysed_image(chest_image(ds=ds), model=WEIGHTS)
        products = tasks._products(result, object_context(), self.settings)
        made = [each.kind for each in products]
        audit_left_out(self.database, job, tasks._extras(self.settings), made)
        self.runtime.store.store_analysis(job_id, self._model, result, products)

    def report(self, revision: int) -> None:
        """Make the report of a revision and plan its deliveries, as the dispatcher does."""
        with self.database.write() as session:
            session.execute(update(Study).values(state=StudyState.SETTLED, revision=revision))
            job = Job(kind=JobKind.REPORT, study_id=1, revision=revision)
            session.add(job)
            session.flush()
            job_id = job.id
        tasks.report(job_id, self.runtime)
        with self.database.write() as session:
            assert plan_deliveries(session, self.settings, session.scalars(select(Study)).one())

    def deliver(self) -> None:
        """Send all that is due to every destination."""
        with self.database.read() as session:
            ids = session.scalars(select(Destination.id)).all()
        for each in ids:
            sender = CStoreSender("NODE", 60.0)
            deliverer = Deliverer(self.settings, self.database, sender, each)
            while deliverer.step():
                pass

    def artifacts(self, kind: ArtifactKind) -> list[Artifact]:
        """Return the rows of one kind, in order."""
        with self.database.read() as session:
            query = select(Artifact).where(Artifact.kind == kind).order_by(Artifact.id)
            return list(session.scalars(query))

    def objects(self, kind: ArtifactKind) -> list[Dataset]:
        """Return the stored objects of one kind."""
        root = self.settings.artifact_dir
        return [dcmread(root / each.storage_key) for each in self.artifacts(kind)]

    @property
    def is_balanced(self) -> bool:
        """Whether the ledger balances but for the C-STOREs, of which there were none."""
        lines = compute(self.database, self.settings)
        return [line.name for line in lines if not line.balanced] == [lines[0].name]


Make = Callable[..., Bench]


@pytest.fixture
def bench(tmp_path: Path, storage_scp: StoragePacs) -> Iterator[Make]:
    """Give a node with two destinations at one PACS: one with these settings, one plain."""
    to = {"ae_title": "PACS", "host": "127.0.0.1", "port": storage_scp.port}
    made: list[tasks.Runtime] = []

    def make(**wanted: str) -> Bench:
        settings = load_settings(
            None,
            data_dir=tmp_path / "data",
            destinations=[to | {"name": "PLAIN"}, to | {"name": "WANTS"} | wanted],
        )
        database = stack.enter_context(open_database(settings.effective_database_url))
        store_ = ResultStore(database, settings.artifact_store)
        models: Any = None  # no network is asked for
        made.append(tasks.Runtime(settings, database, store_, Sandbox(settings), models))
        return Bench(made[-1])

    with ExitStack() as stack:
        yield make
        for runtime in made:
            runtime.sandbox.close()


def _received(pacs: StoragePacs) -> list[str]:
    return sorted(each.sop_class_uid for each in pacs.objects())


@pytest.mark.parametrize(
    ("wanted", "extras"),
    [
        ({}, []),
        ({"presentation_states": "never", "documents": "never"}, []),
        ({"presentation_states": "always"}, [PR]),
        ({"documents": "always"}, [PDF]),
        ({"presentation_states": "always", "documents": "always"}, [PR, PDF]),
    ],
)
def test_they_are_made_and_sent_where_a_destination_wants_them(
    bench: Make, storage_scp: StoragePacs, wanted: dict[str, str], extras: list[str]
) -> None:
    node = bench(**wanted)
    node.analyse("a")
    node.report(1)
    node.deliver()
    kinds = {ArtifactKind.PR: PR, ArtifactKind.PDF: PDF}
    assert [uid for kind, uid in kinds.items() if node.artifacts(kind)] == extras
    # The plain destination gets SEG and SR; the PACS knows an object that it gets twice.
    assert sorted({*_received(storage_scp)}) == sorted([SEG, SR, *extras])
    with node.database.read() as session:
        assert delivered_studies(session, node.settings)
        (row,) = results(session, node.settings, ResultFilter())
    sent = {each["kind"]: len(each["deliveries"]) for each in row["files"]}
    assert (sent["seg"], sent["sr"]) == (2, 2)
    assert (sent.get("pr", 0), sent.get("pdf", 0)) == (PR in extras, PDF in extras)
    assert node.is_balanced


def test_a_revision_has_a_page_that_names_the_one_before(
    bench: Make, storage_scp: StoragePacs
) -> None:
    node = bench(documents="always")
    node.analyse("a")
    node.report(1)
    node.analyse("b")
    node.report(2)
    node.deliver()
    first, second = node.objects(ArtifactKind.PDF)
    (study,) = second.PredecessorDocumentsSequence
    (item,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert item.ReferencedSOPInstanceUID == first.SOPInstanceUID
    assert [row.revision for row in node.artifacts(ArtifactKind.PDF)] == [1, 2]
    images = {each.sop_instance_uid for each in instances(node.database)}
    sources = {each.ReferencedSOPInstanceUID for each in second.SourceInstanceSequence}
    assert len(images & sources) == 2
    assert _received(storage_scp).count(PDF) == 2
    assert node.is_balanced


def _break_extras(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*_: object, **__: object) -> Dataset:
        raise error

    monkeypatch.setattr(tasks, "build_secondary_capture", broken)
    monkeypatch.setattr(tasks, "build_presentation_state", broken)
    monkeypatch.setattr(document, "build_document", broken)


def test_what_cannot_be_made_is_left_out_and_the_rest_is_delivered(
    bench: Make,
    storage_scp: StoragePacs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _break_extras(monkeypatch, IndexError("Doe^John"))
    node = bench(captures="always", presentation_states="always", documents="always")
    node.analyse("a")
    node.report(1)
    node.deliver()
    assert sorted({*_received(storage_scp)}) == sorted([SEG, SR])
    assert outcomes(node.database, AuditAction.ARTIFACT_LEFT_OUT) == ["pr", "sc", "pdf"]
    left_out = [each.getMessage() for each in caplog.records if "left out" in each.getMessage()]
    assert [each.split()[0] for each in left_out] == ["sc", "pr", "pdf"]
    assert "Doe" not in caplog.text
    with node.database.read() as session:
        assert delivered_studies(session, node.settings)
    assert node.is_balanced


@pytest.mark.parametrize(
    "error", [SoftTimeLimitExceeded(), LeaseLostError(), ImageWithdrawnError()]
)
def test_what_ends_the_job_is_not_held_back(
    bench: Make, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    _break_extras(monkeypatch, error)
    node = bench(captures="always")
    with pytest.raises(type(error)):
        node.analyse("a")


def test_a_report_that_is_made_again_has_the_same_page(bench: Make) -> None:
    """The artifact's own row says so, for a second one with its UID could not be stored."""
    node = bench(documents="always")
    node.analyse("a")
    with node.database.write() as session:
        job = Job(kind=JobKind.REPORT, study_id=1, revision=1)
        session.add(job)
    made = [tasks._report_products(node.runtime, job)[1] for _ in range(2)]
    assert made[0] == made[1]
    assert [product.kind for product in made[0]] == [ArtifactKind.SR, ArtifactKind.PDF]


def _ours(kind: ArtifactKind) -> Dataset:
    analysed = analysed_image()
    if kind is ArtifactKind.PR:
        return build_presentation_state(analysed, object_context())
    report = ReportImage.of(analysed, build_segmentation(analysed, object_context()))
    return build_document([PageImage(report, partial(overlay, analysed))], object_context(), 1)


@pytest.mark.parametrize("kind", [ArtifactKind.PR, ArtifactKind.PDF])
def test_our_own_object_that_comes_back_is_never_analysed(
    listen: Listen, kind: ArtifactKind
) -> None:
    node = listen()
    assert store(node.port, _ours(kind)) == 0
    (row,) = instances(node.database)
    assert (row.state, row.reason) == (InstanceState.NOT_ANALYSED, "own_result")
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["stored"]


@pytest.mark.parametrize("kind", [ArtifactKind.PR, ArtifactKind.PDF])
def test_that_of_another_maker_is_stored(listen: Listen, kind: ArtifactKind) -> None:
    node = listen()
    ds = _ours(kind)
    ds.Manufacturer = "another maker"
    assert store(node.port, ds) == 0
    (row,) = instances(node.database)
    assert (row.state, row.reason) == (InstanceState.NOT_ANALYSED, "sop_class")


def test_what_this_node_sent_is_dropped_when_it_comes_back(listen: Listen) -> None:
    node = listen()
    ds = _ours(ArtifactKind.PR)
    analysed = add_instance(node.database, state=InstanceState.ANALYSED)
    with node.database.write() as session:
        assert session.get_one(Instance, analysed)
        session.add(
            Artifact(
                kind=ArtifactKind.PDF,
                study_id=1,
                revision=1,
                sop_class_uid=PDF,
                sop_instance_uid=str(ds.SOPInstanceUID),
                storage_key="k",
                sha256="0" * 64,
                size_bytes=1,
            )
        )
    assert store(node.port, ds) == 0
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["own_result"]
    assert len(instances(node.database)) == 1


def test_off_by_default(tmp_path: Path) -> None:
    to = {"name": "A", "ae_title": "A", "host": "h", "port": 1}
    settings: Settings = load_settings(None, data_dir=tmp_path, destinations=[to])
    assert not settings.makes_presentation_states
    assert not settings.makes_documents
    kinds = {each.kind for each in tasks._products(analysed_image(), object_context(), settings)}
    assert kinds == {ArtifactKind.SEG, *PICTURES}
