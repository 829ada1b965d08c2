"""Secondary Captures on their way: made where wanted, planned, delivered, and coming back."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from builders import analysed_image, chest_dataset, object_context, write_part10
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from rows import (
    SC,
    SEG,
    SR,
    add_analysis,
    add_capture,
    add_instance,
    add_report,
    count,
    instances,
    open_database,
    outcomes,
)
from senders import store
from sqlalchemy import select, update

from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.demo.pacs import StoragePacs
from dicom_node.ledger import compute
from dicom_node.planning import delivered_studies, plan_deliveries
from dicom_node.results import ResultFilter, results
from dicom_node.retrying import retry
from dicom_node.senders.cstore import CStoreSender
from models.audit import AuditAction
from models.delivery import Delivery, Destination
from models.imaging import Study
from models.job import Job
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import ArtifactKind, DeliveryState, InstanceState, StudyState
from worker import tasks
from worker.secondary_capture import build_secondary_capture

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
SENT, REJECTED = DeliveryState.SENT, DeliveryState.REJECTED


class Bench:
    """A node with one settled study: SEG, SR and capture on disk, and one destination."""

    def __init__(self, database: Database, settings: Settings, *, with_capture: bool) -> None:
        self.database = database
        self.settings = settings
        analysis, _ = add_analysis(database, add_instance(database, state=InstanceState.ANALYSED))
        add_report(database, [analysis])
        if with_capture:
            add_capture(database, analysis)
        with database.write() as session:
            for artifact in session.scalars(select(Artifact)):
                ds = _object(artifact.kind)
                ds.SOPClassUID, ds.SOPInstanceUID = (
                    artifact.sop_class_uid,
                    artifact.sop_instance_uid,
                )
                write_part10(settings.artifact_dir / artifact.storage_key, ds)
            session.execute(update(Study).values(state=StudyState.SETTLED, revision=1))
        synchronise_destinations(database, settings)

    def deliver(self) -> dict[str, DeliveryState]:
        """Send what is due, until nothing is; return the states by kind of object."""
        with self.database.read() as session:
            (destination,) = session.scalars(select(Destination.id))
        sender = CStoreSender("NODE", 5.0)
        deliverer = Deliverer(self.settings, self.database, sender, destination)
        while deliverer.step():
            pass
        with self.database.read() as session:
            query = select(Artifact.kind, Delivery.state).join(Delivery).order_by(Delivery.id)
            rows = [tuple(row) for row in session.execute(query)]
        assert len(rows) == len(dict(rows)), "an object is due twice"
        return {kind.value: state for kind, state in rows}

    @property
    def is_delivered(self) -> bool:
        """Whether the dispatcher would call the study delivered."""
        with self.database.read() as session:
            return bool(delivered_studies(session, self.settings))

    @property
    def is_balanced(self) -> bool:
        """Whether the ledger's line about deliveries balances."""
        lines = {line.name: line for line in compute(self.database, self.settings)}
        return lines["deliveries planned in the audit"].balanced


def _object(kind: ArtifactKind) -> Dataset:
    if kind is ArtifactKind.SC:
        return build_secondary_capture(analysed_image(), object_context())
    return chest_dataset()


@contextmanager
def _scp(classes: tuple[str, ...], status: dict[str, int] | None = None) -> Iterator[int]:
    """Run a storage SCP that accepts contexts of these classes; yield its port."""

    def answer(event: Event) -> int:
        return (status or {}).get(str(event.request.AffectedSOPClassUID), 0x0000)

    ae = AE(ae_title="PACS")
    for sop_class in classes:
        ae.add_supported_context(sop_class)
    handlers: Any = [(evt.EVT_C_STORE, answer)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield server.server_address[1]
    finally:
        ae.shutdown()


Make = Callable[..., Bench]


@pytest.fixture
def bench(database_url: str, tmp_path: Path) -> Iterator[Make]:
    """Give a node whose only destination is at a port and has this value of `captures`."""
    with ExitStack() as stack:

        def make(
            port: int, captures: str | None, *, with_capture: bool = True, **more: str
        ) -> Bench:
            to = {"name": "PACS", "ae_title": "PACS", "host": "127.0.0.1", "port": port, **more}
            settings = load_settings(
                None,
                data_dir=tmp_path / "data",
                database_url=database_url,
                destinations=[to | ({"captures": captures} if captures else {})],
            )
            database = stack.enter_context(open_database(database_url))
            made = Bench(database, settings, with_capture=with_capture)
            with database.write() as session:
                assert plan_deliveries(session, settings, session.scalars(select(Study)).one())
            return made

        yield make


def test_always_sends_the_picture_beside_the_segmentation(
    bench: Make, storage_scp: StoragePacs
) -> None:
    node = bench(storage_scp.port, "always")
    assert node.deliver() == dict.fromkeys(("seg", "sr", "sc"), SENT)
    received = [each.sop_class_uid for each in storage_scp.objects()]
    assert sorted(received) == sorted((SEG, SR, SC))
    assert node.is_delivered
    assert node.is_balanced


@pytest.mark.parametrize("captures", [None, "never", "fallback"])
def test_a_pacs_that_takes_segmentations_gets_no_picture_else(
    bench: Make, storage_scp: StoragePacs, captures: str | None
) -> None:
    node = bench(storage_scp.port, captures)
    assert node.deliver() == {"seg": SENT, "sr": SENT}
    assert storage_scp.received == 2
    assert node.is_delivered
    assert node.is_balanced


@pytest.mark.parametrize(
    ("captures", "sent"),
    [("never", ["sr"]), ("fallback", ["sr", "sc"]), ("always", ["sr", "sc"])],
)
def test_a_receiver_may_want_no_segmentation(
    bench: Make, storage_scp: StoragePacs, captures: str, sent: list[str]
) -> None:
    node = bench(storage_scp.port, captures, segmentations="never")
    assert node.deliver() == dict.fromkeys(sent, SENT)
    assert storage_scp.received == len(sent)
    assert node.is_delivered
    assert node.is_balanced


def test_fallback_sends_the_picture_where_no_segmentation_context_is_accepted(
    bench: Make,
) -> None:
    with _scp((SR, SC)) as port:
        node = bench(port, "fallback")
        wanted = {"seg": REJECTED, "sr": SENT, "sc": SENT}
        assert node.deliver() == wanted
        assert node.is_delivered
        assert retry(node.database) == 1  # the SEG is offered again and refused again
        assert node.deliver() == wanted
    assert node.is_balanced
    assert outcomes(node.database, AuditAction.DELIVERIES_PLANNED) == ["planned", "planned"]


@pytest.mark.parametrize(
    ("status", "states"),
    [
        (0x0122, {"seg": REJECTED, "sr": SENT, "sc": SENT}),  # SOP Class not supported
        (0xA900, {"seg": REJECTED, "sr": SENT}),  # of this object, not of the class
    ],
)
def test_fallback_is_for_a_refused_class(
    bench: Make, status: int, states: dict[str, DeliveryState]
) -> None:
    with _scp((SEG, SR, SC), {SEG: status}) as port:
        node = bench(port, "fallback")
        assert node.deliver() == states
    assert node.is_delivered is ("sc" in states)
    assert node.is_balanced


def test_without_a_picture_nothing_falls_back(bench: Make) -> None:
    with _scp((SR, SC)) as port:
        node = bench(port, "fallback", with_capture=False)
        assert node.deliver() == {"seg": REJECTED, "sr": SENT}
    assert not node.is_delivered
    assert node.is_balanced


def test_a_picture_that_is_refused_too_leaves_the_study_open(bench: Make) -> None:
    with _scp((SR,)) as port:
        node = bench(port, "fallback")
        assert node.deliver() == {"seg": REJECTED, "sr": SENT, "sc": REJECTED}
    assert not node.is_delivered


def test_with_always_the_picture_does_not_stand_for_a_refused_segmentation(bench: Make) -> None:
    with _scp((SR, SC)) as port:
        node = bench(port, "always")
        assert node.deliver() == {"seg": REJECTED, "sr": SENT, "sc": SENT}
    assert not node.is_delivered


def test_results_list_the_delivery_of_the_picture(bench: Make, storage_scp: StoragePacs) -> None:
    node = bench(storage_scp.port, "always")
    node.deliver()
    with node.database.read() as session:
        (row,) = results(session, node.settings, ResultFilter())
    states = {file["kind"]: [each["state"] for each in file["deliveries"]] for file in row["files"]}
    assert states == {"seg": ["sent"], "sc": ["sent"], "sr": ["sent"]}


@pytest.mark.parametrize(
    ("captures", "made"), [("never", False), ("fallback", True), ("always", True)]
)
def test_the_picture_is_made_only_when_a_destination_may_want_it(
    tmp_path: Path,
    captures: str,
    made: bool,  # noqa: FBT001  a table
) -> None:
    to = {"name": "A", "ae_title": "A", "host": "h", "port": 1}
    other = to | {"name": "B", "captures": captures}
    settings = load_settings(None, data_dir=tmp_path, destinations=[to, other])
    first, again = (tasks._products(analysed_image(), object_context(), settings) for _ in range(2))
    assert first == again  # a job that is done twice: the same UIDs and bytes
    kinds = {product.kind: product for product in first}
    assert (ArtifactKind.SC in kinds) is made
    if made:
        assert kinds[ArtifactKind.SC].sop_class_uid == SC


def test_our_own_picture_that_comes_back_is_never_analysed(
    listen: Listen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one of this node, whose bytes are dropped, nor one of another such node."""
    monkeypatch.setenv("DICOM_NODE_ANALYSIS__SECONDARY_CAPTURE", "true")
    node = listen()
    analysed = add_instance(node.database, state=InstanceState.ANALYSED)
    analysis, _ = add_analysis(node.database, analysed)
    artifact = add_capture(node.database, analysis)
    ds = build_secondary_capture(analysed_image(), object_context())
    assert store(node.port, ds) == 0
    (_, foreign) = instances(node.database)
    assert (foreign.state, foreign.reason) == (InstanceState.NOT_ANALYSED, "own_result")
    with node.database.read() as session:
        ds.SOPInstanceUID = session.get_one(Artifact, artifact).sop_instance_uid
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    assert store(node.port, ds) == 0
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == ["stored", "own_result"]
    assert len(instances(node.database)) == 2
    assert count(node.database, Job) == 0


def test_a_picture_arrives_as_it_was_stored(bench: Make, storage_scp: StoragePacs) -> None:
    node = bench(storage_scp.port, "always")
    node.deliver()
    with node.database.read() as session:
        (artifact,) = session.scalars(select(Artifact).where(Artifact.kind == ArtifactKind.SC))
    sent = dcmread(node.settings.artifact_dir / artifact.storage_key)
    (key,) = (each.key for each in storage_scp.objects() if each.sop_class_uid == SC)
    assert dcmread(BytesIO(storage_scp.fetch(key))) == sent
