"""Storage Commitment for tests: a finished study, and peers that answer as they are told to."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from builders import chest_dataset, write_part10
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from rows import SEG, SR, add_analysis, add_instance, add_report
from servers import wait_until
from sqlalchemy import select, update

from dicom_node.commitment.asking import Asker
from dicom_node.commitment.messages import (
    NO_SUCH_INSTANCE,
    PUSH_MODEL,
    WELL_KNOWN_INSTANCE,
    Failure,
    Question,
    Report,
    decode_question,
    decode_report,
    encode_report,
)
from dicom_node.delivery import Deliverer, synchronise_destinations
from dicom_node.mended import MENDED
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import CStoreSender
from models.base import utc_now
from models.commitment import CommitmentOrder, CommitmentRequest
from models.delivery import Delivery, Destination
from models.imaging import Study
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState, StudyState

FAST = {
    "timeout_seconds": 10,
    "backoff_seconds": 0.001,
    "commitment_delay_seconds": 0,
    "commitment_hold_seconds": 10,
}

Answer = Callable[["CommitmentPacs", Association, Question], None]


def send_report(assoc: Association, report: Report, **changed: Any) -> int | None:
    """Send one N-EVENT-REPORT and return the status; `changed` replaces parts of the message."""
    values: dict[str, Any] = {
        "dataset": encode_report(report),
        "event_type": report.event_type,
        "class_uid": PUSH_MODEL,
        "instance_uid": WELL_KNOWN_INSTANCE,
    } | changed
    return assoc.send_n_event_report(**values)[0].get("Status")


@contextmanager
def calling_back(
    port: int, calling: str = "PACS", context: ssl.SSLContext | None = None
) -> Iterator[Association]:
    """Yield an association with our node in which the peer, its requestor, is the SCP."""
    ae = AE(ae_title=calling)
    ae.add_requested_context(PUSH_MODEL)
    assoc = ae.associate(
        "127.0.0.1",
        port,
        ae_title="NODE",
        ext_neg=[build_role(PUSH_MODEL, scp_role=True)],
        tls_args=(context, "127.0.0.1") if context else None,
    )
    assert assoc.is_established
    try:
        yield assoc
    finally:
        assoc.release()


def report_on(question: Question, *lost: str) -> Report:
    """Return the answer that commits to everything but `lost`."""
    return Report(
        question.transaction_uid,
        tuple(each for each in question.references if each.sop_instance_uid not in lost),
        tuple(
            Failure(each, NO_SUCH_INSTANCE)
            for each in question.references
            if each.sop_instance_uid in lost
        ),
    )


def on_the_same_association(pacs: "CommitmentPacs", assoc: Association, asked: Question) -> None:
    """Answer where the question came, as some PACS do."""
    pacs.statuses.append(send_report(assoc, report_on(asked, *pacs.lost)))


def on_a_new_association(pacs: "CommitmentPacs", _assoc: Association, asked: Question) -> None:
    """Call the node back, as Orthanc does."""
    with calling_back(pacs.node_port, context=pacs.calling_context) as back:
        pacs.statuses.append(send_report(back, report_on(asked, *pacs.lost)))


@dataclass
class CommitmentPacs:
    """A storage SCP that can be asked to commit; `answer` says how it answers (None: never)."""

    answer: Answer | None = None
    action_status: int = 0x0000
    offers: bool = True
    node_port: int = 0
    lost: set[str] = field(default_factory=set)
    stored: list[str] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)
    statuses: list[int | None] = field(default_factory=list)
    port: int = 0
    context: ssl.SSLContext | None = None  # of its port
    calling_context: ssl.SSLContext | None = None  # with which it calls back
    _threads: list[threading.Thread] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["CommitmentPacs"]:
        """Serve for a block."""
        ae = AE(ae_title="PACS")
        for uid in (SEG, SR, *([PUSH_MODEL] if self.offers else [])):
            ae.add_supported_context(uid)
        handlers = [(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._act)]
        server = ae.start_server(
            ("127.0.0.1", self.port),
            block=False,
            evt_handlers=handlers,
            ssl_context=self.context,
        )
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            self.settle()
            ae.shutdown()

    @property
    def receiver(self) -> Receiver:
        """Where it is."""
        return Receiver("PACS", "PACS", "127.0.0.1", self.port)

    def _store(self, event: Event) -> int:
        self.stored.append(str(event.request.AffectedSOPInstanceUID))
        self.lost.discard(self.stored[-1])
        return 0x0000

    def _act(self, event: Event) -> tuple[int, None]:
        question = decode_question(event.action_information)
        self.asked.append(question)
        if self.answer is not None:
            thread = threading.Thread(target=self.answer, args=(self, event.assoc, question))
            self._threads.append(thread)
            # The answer follows the response of the N-ACTION.
            event.assoc.bind(evt.EVT_DIMSE_SENT, lambda _event: self._begin(thread))
        return self.action_status, None

    @staticmethod
    def _begin(thread: threading.Thread) -> None:
        if thread.ident is None:
            thread.start()

    def settle(self) -> None:
        """Wait until what was being answered has been."""
        for thread in self._threads:
            thread.join(10)


class CommitmentBench:
    """A reported study with SEG and SR on disk, and one destination that is asked to commit."""

    def __init__(
        self,
        database: Database,
        folder: Path,
        url: str,
        tls: dict[str, Any] | None = None,
        **delivery: Any,
    ) -> None:
        self.database, self._folder, self._url = database, folder, url
        self._tls = tls
        self._delivery = FAST | delivery
        self.settings = self.told()
        instance = add_instance(database, state=InstanceState.ANALYSED)
        analysis, self.seg_id = add_analysis(database, instance)
        self.sr_id = add_report(database, [analysis])
        with database.write() as session:
            session.execute(update(Study).values(state=StudyState.REPORTED, revision=1))
            for artifact in session.scalars(select(Artifact)):
                ds = chest_dataset(
                    SOPClassUID=artifact.sop_class_uid, SOPInstanceUID=artifact.sop_instance_uid
                )
                path = write_part10(self.settings.artifact_dir / artifact.storage_key, ds)
                artifact.size_bytes = path.stat().st_size

    def told(self, port: int = 104, *, commitment: bool = True) -> Settings:
        """Return settings with one destination."""
        where: list[Any] = [
            {
                "name": "PACS",
                "ae_title": "PACS",
                "host": "127.0.0.1",
                "port": port,
                "commitment": commitment,
                "tls": self._tls is not None,
            }
        ]
        self.settings = load_settings(
            None,
            data_dir=self._folder,
            database_url=self._url,
            delivery=self._delivery,
            destinations=where,
            dicom={"host": "127.0.0.1", "port": 0, "min_free_bytes": 0}
            | ({"tls": self._tls, "plain": False} if self._tls else {}),
        )
        return self.settings

    def send_to(self, port: int, *, commitment: bool = True) -> None:
        """Deliver SEG and SR to the destination at `port`."""
        self.told(port, commitment=commitment)
        self.plan()
        self.deliver()

    def plan(self) -> None:
        """Make SEG and SR due at the destination."""
        synchronise_destinations(self.database, self.settings)
        with self.database.write() as session:
            destination = session.scalars(select(Destination.id)).one()
            for artifact_id in (self.seg_id, self.sr_id):
                session.add(Delivery(artifact_id=artifact_id, destination_id=destination))

    def deliver(self) -> None:
        """Send what is due."""
        with self.database.write() as session:
            session.execute(update(Delivery).values(next_attempt_at=utc_now()))
            destination = session.scalars(select(Destination.id)).one()
        sender = CStoreSender.of(self.settings)
        deliverer = Deliverer(self.settings, self.database, sender, destination)
        while deliverer.step():
            pass

    def asker(self) -> Asker:
        """Return the asker of the destination."""
        with self.database.read() as session:
            destination = session.scalars(select(Destination.id)).one()
        return Asker(self.settings, self.database, destination)

    def make_due(self) -> None:
        """Let time-outs and pauses of the commitment be over."""
        past = utc_now() - timedelta(seconds=1)
        with self.database.write() as session:
            waiting = Delivery.commitment_due_at.is_not(None)
            session.execute(update(Delivery).where(waiting).values(commitment_due_at=past))
            session.execute(update(CommitmentRequest).values(expires_at=past))

    def states(self) -> list[str]:
        """Return the state of SEG and SR."""
        return [self.row(key).state.value for key in (self.seg_id, self.sr_id)]

    def row(self, artifact_id: int) -> Delivery:
        """Return the delivery of an artifact."""
        with self.database.read() as session:
            query = select(Delivery).where(Delivery.artifact_id == artifact_id)
            return session.scalars(query).one()

    def uid(self, artifact_id: int) -> str:
        """Return the SOP Instance UID of an artifact."""
        with self.database.read() as session:
            return session.get_one(Artifact, artifact_id).sop_instance_uid or ""

    def requests(self) -> list[CommitmentRequest]:
        """Return every question in order."""
        with self.database.read() as session:
            query = select(CommitmentRequest).order_by(CommitmentRequest.id)
            return list(session.scalars(query))


@dataclass
class Modality:
    """A sender of images that takes answers on its own port; `status` is its reply to them."""

    ae_title: str = "CR1"
    status: int = 0x0000
    port: int = 0
    reports: list[Report] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["Modality"]:
        """Listen for a block."""
        ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, self._take)]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = server.server_address[1]
        try:
            yield self
        finally:
            ae.shutdown()

    def _take(self, event: Event) -> tuple[int, None]:
        self.reports.append(decode_report(event.event_information))
        return self.status, None

    def ask(self, port: int, question: Dataset, **changed: Any) -> int | None:
        """Send one N-ACTION and return the status; None when the context is refused."""
        ae = AE(ae_title=self.ae_title)
        ae.add_requested_context(PUSH_MODEL)
        assoc = ae.associate("127.0.0.1", port, ae_title="NODE", evt_handlers=[MENDED])
        if not assoc.is_established:
            return None
        values = {
            "action_type": 1,
            "class_uid": PUSH_MODEL,
            "instance_uid": WELL_KNOWN_INSTANCE,
        } | changed
        try:
            return assoc.send_n_action(question, **values)[0].get("Status")
        finally:
            assoc.release()


def orders(database: Database) -> list[CommitmentOrder]:
    """Return every question that senders asked."""
    with database.read() as session:
        return list(session.scalars(select(CommitmentOrder).order_by(CommitmentOrder.id)))


def wait_for(true: Callable[[], bool], what: str) -> None:
    """Poll `true` for a while."""
    wait_until(true, 20.0, what, every=0.02)
