"""Unified Procedure Steps for tests: a node, a workstation that claims, a system that listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event
from readings import add_study, study_row
from sqlalchemy import select

from dicom_node.mended import MENDED
from dicom_node.worklist.ups.names import EVENT, PULL, PUSH, QUERY, WATCH
from models.imaging import Study
from models.session import Database
from models.workitem import Workitem, schedule

UPS = {"enabled": True, "calling_aets": ["WS1", "WS2", "RIS"]}


def add_workitem(database: Database, percent: float = 40.0, **columns: Any) -> str:
    """Add a reported study with the workitem that the dispatcher makes; return the study's UID."""
    uid = add_study(database, percent, **columns)
    with database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        schedule(session, study, study.revision, "1.2.99")
    return uid


def workitems(database: Database, uid: str) -> list[Workitem]:
    """Return the workitems of a study, oldest first."""
    study_id = study_row(database, uid).id
    with database.read() as session:
        query = select(Workitem).where(Workitem.study_id == study_id)
        return list(session.scalars(query.order_by(Workitem.id)))


def workitem_uid(database: Database, uid: str) -> str:
    """Return the UID of the newest workitem of a study."""
    return workitems(database, uid)[-1].workitem_uid


@dataclass
class Workstation:
    """An SCU of Pull, Watch and Query."""

    port: int
    ae_title: str = "WS1"
    lock: str = field(default_factory=lambda: str(generate_uid()))

    @contextmanager
    def association(self) -> Iterator[Association]:
        """Yield an association with the node, all three SOP Classes in it."""
        ae = AE(ae_title=self.ae_title)
        for sop_class in (PULL, WATCH, QUERY):
            ae.add_requested_context(sop_class)
        assoc = ae.associate("127.0.0.1", self.port, ae_title="NODE", evt_handlers=[MENDED])
        assert assoc.is_established
        try:
            yield assoc
        finally:
            assoc.release()

    def find(self, model: str = PULL, **keys: Any) -> tuple[list[int], list[Dataset]]:
        """C-FIND; return every status and every match."""
        ds = Dataset()
        for keyword, value in keys.items():
            setattr(ds, keyword, value)
        with self.association() as assoc:
            answers = list(assoc.send_c_find(ds, model))
        return [int(status.Status) for status, _ in answers], [it for _, it in answers if it]

    def get(self, uid: str, *tags: int, model: str = PULL) -> tuple[int, Dataset | None]:
        """N-GET these attributes, all without any."""
        with self.association() as assoc:
            status, ds = assoc.send_n_get(list(tags) or None, PUSH, uid, meta_uid=model)
        return int(status.Status), ds

    def set(self, uid: str, model: str = PULL, **values: Any) -> int:
        """N-SET these attributes under the Locking UID; None leaves that out."""
        ds = _data_set({"TransactionUID": self.lock} | values)
        with self.association() as assoc:
            return int(assoc.send_n_set(ds, PUSH, uid, meta_uid=model)[0].Status)

    def change(self, uid: str, state: str, **values: Any) -> int:
        """Change UPS State under the Locking UID; None leaves that out."""
        wanted = {"ProcedureStepState": state, "TransactionUID": self.lock} | values
        return self.act(1, uid, PULL, **wanted)

    def act(self, action: int, uid: str, model: str = WATCH, **values: Any) -> int:
        """N-ACTION."""
        with self.association() as assoc:
            status, _ = assoc.send_n_action(
                _data_set(values) if values else None, action, PUSH, uid, meta_uid=model
            )
        return int(status.Status)


def _data_set(values: dict[str, Any]) -> Dataset:
    ds = Dataset()
    for keyword, value in values.items():
        if value is not None:
            setattr(ds, keyword, value)
    return ds


@dataclass
class Listening:
    """An SCP of N-EVENT-REPORT and N-CREATE that notes what it is told, and answers as set."""

    status: int = 0x0000
    port: int = 0
    events: list[tuple[str, int, Dataset]] = field(default_factory=list)
    created: list[tuple[str, Dataset]] = field(default_factory=list)

    @contextmanager
    def running(self, ae_title: str = "RIS", **contexts: Any) -> Iterator["Listening"]:
        """Listen while the block runs."""
        ae = AE(ae_title=ae_title)
        ae.add_supported_context(EVENT, scu_role=True, scp_role=True, **contexts)
        ae.add_supported_context(PUSH)
        handlers = [
            (evt.EVT_N_EVENT_REPORT, self._on_event),
            (evt.EVT_N_CREATE, self._on_create),
        ]
        server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        assert server is not None
        self.port = server.socket.getsockname()[1]
        try:
            yield self
        finally:
            server.shutdown()

    def _on_event(self, event: Event) -> tuple[int, None]:
        request = event.request
        self.events.append(
            (
                str(request.AffectedSOPInstanceUID),
                int(request.EventTypeID),
                event.event_information,
            )
        )
        return self.status, None

    def _on_create(self, event: Event) -> tuple[int, Dataset]:
        self.created.append((str(event.request.AffectedSOPInstanceUID), event.attribute_list))
        return self.status, Dataset()

    @property
    def states(self) -> list[str]:
        """The states that were reported, in order."""
        return [ds.ProcedureStepState for _, kind, ds in self.events if kind == 1]
