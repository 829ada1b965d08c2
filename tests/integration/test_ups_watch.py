"""UPS Watch, Event and Push: subscriptions as the standard's table has them, told in order."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from readings import add_study, study_row
from rows import count, outcomes
from servers import free_port
from sqlalchemy import select, update
from steps import UPS, Listening, Workstation, add_workitem, workitem_uid, workitems

from dicom_node.cli import cli
from dicom_node.worklist.readings import Reader, claim, read, release
from dicom_node.worklist.ups.courier import Courier
from dicom_node.worklist.ups.names import GLOBAL_SUBSCRIPTION
from dicom_node.worklist.ups.upkeep import Upkeep, synchronise_managers
from models.audit import AuditAction
from models.base import utc_now
from models.states import EventReportState, ReadingState, StudyState
from models.workitem import (
    Workitem,
    WorkitemMessage,
    WorkitemSubscription,
    WorkitemWatcher,
)

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
ANNA = Reader("anna")
ALL = str(GLOBAL_SUBSCRIPTION)
LOCKED = {"ReceivingAE": "RIS", "DeletionLock": "TRUE"}
OPEN = {"ReceivingAE": "RIS", "DeletionLock": "FALSE"}
WHO = {"ReceivingAE": "RIS"}

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def ris() -> Iterator[Listening]:
    with Listening().running() as running:
        yield running


class Node:
    """A node with one receiver of events, and a manager where it is told so."""

    def __init__(self, listen: Listen, ris: Listening, **ups: Any) -> None:
        peer = {"ae_title": "RIS", "host": "127.0.0.1", "port": ris.port}
        section = UPS | {"receivers": [peer]} | ups
        delivery = {"timeout_seconds": 5, "backoff_seconds": 60, "max_attempts": 2}
        running = listen(sections={"worklist": {"ups": section}, "delivery": delivery})
        self.settings, self.database, self.port = running.settings, running.database, running.port
        self.ws = Workstation(running.port)
        synchronise_managers(self.database, self.settings)

    def tell(self) -> None:
        """Send all events that are due."""
        (peer,) = self.settings.worklist.ups.receivers
        courier = Courier(self.settings, self.database, peer, is_manager=False)
        while courier.step():
            pass

    def push(self) -> None:
        """Send all workitems that are due."""
        (peer,) = self.settings.worklist.ups.managers
        courier = Courier(self.settings, self.database, peer, is_manager=True)
        while courier.step():
            pass

    def let_the_pause_be_over(self) -> None:
        with self.database.write() as session:
            session.execute(update(WorkitemMessage).values(next_attempt_at=utc_now()))

    def subscriptions(self) -> dict[int, bool]:
        """Return whether the RIS has a lock, by the workitem's id."""
        with self.database.read() as session:
            rows = session.scalars(select(WorkitemSubscription)).all()
            return {row.workitem_id: row.is_locked for row in rows}

    def messages(self) -> list[EventReportState]:
        with self.database.read() as session:
            query = select(WorkitemMessage.state).order_by(WorkitemMessage.id)
            return list(session.scalars(query))


def test_a_subscriber_hears_of_every_change_in_order(listen: Listen, ris: Listening) -> None:
    node = Node(listen, ris)
    uid = add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    assert node.ws.act(3, step, **OPEN) == 0x0000
    assert node.ws.change(step, "IN PROGRESS") == 0x0000
    progress = Dataset()
    progress.ProcedureStepProgress = "50"
    assert node.ws.set(step, ProcedureStepProgressInformationSequence=[progress]) == 0x0000
    assert node.ws.change(step, "COMPLETED") == 0x0000
    node.tell()
    assert [(each, kind) for each, kind, _ in ris.events] == [
        (step, 1), (step, 1), (step, 3), (step, 1),
    ]  # fmt: skip
    assert ris.states == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert ris.events[0][2].InputReadinessState == "READY"
    (item,) = ris.events[2][2].ProcedureStepProgressInformationSequence
    assert item.ProcedureStepProgress == 50
    assert node.messages() == [EventReportState.ACCEPTED] * 4


@on_one_database
def test_what_happens_on_the_web_is_told_too(listen: Listen, ris: Listening) -> None:
    node = Node(listen, ris)
    uid = add_workitem(node.database)
    assert node.ws.act(3, ALL, **OPEN) == 0x0000
    with node.database.write() as session:
        claim(session, uid, ANNA)
        release(session, uid, ANNA)
        read(session, uid, ANNA)
    node.tell()
    first, second = (each.workitem_uid for each in workitems(node.database, uid))
    told = [(each, ds.ProcedureStepState) for each, _, ds in ris.events]
    assert told == [
        (first, "IN PROGRESS"),
        (first, "CANCELED"),
        (second, "SCHEDULED"),
        (second, "IN PROGRESS"),
        (second, "COMPLETED"),
    ]


def test_the_table_of_subscription_states(listen: Listen, ris: Listening) -> None:
    """Table CC.2.3-2: an entry is the lock of the first and of the second workitem, and events."""
    node = Node(listen, ris)
    first, second = (workitems(node.database, add_workitem(node.database))[0] for _ in range(2))

    def after(action: int, target: str, **values: str) -> tuple[list[bool | None], int]:
        assert node.ws.act(action, target, **values) == 0x0000
        known, told = node.subscriptions(), len(ris.events)
        node.tell()
        return [known.get(each.id) for each in (first, second)], len(ris.events) - told

    one = first.workitem_uid
    assert after(3, one, **LOCKED) == ([True, None], 1)
    assert after(3, one, **LOCKED) == ([True, None], 1)
    assert after(3, one, **OPEN) == ([False, None], 1)
    assert after(3, ALL, **LOCKED) == ([False, True], 1)  # one's own word takes precedence
    assert after(3, ALL, **OPEN) == ([False, True], 0)
    assert after(4, one, **WHO) == ([None, True], 0)
    assert after(3, ALL, **OPEN) == ([False, True], 0)
    assert after(5, ALL, **WHO) == ([False, True], 0)
    assert count(node.database, WorkitemWatcher) == 0
    add_workitem(node.database)
    assert len(node.subscriptions()) == 2  # suspended: not subscribed to what is new
    assert after(3, ALL, **LOCKED) == ([False, True], 1)  # of the third
    third = workitems(node.database, add_workitem(node.database))[0]
    assert node.subscriptions()[third.id] is True
    assert after(4, ALL, **WHO) == ([None, None], 1)
    assert node.subscriptions() == {}
    assert outcomes(node.database, AuditAction.WORKITEM_SUBSCRIPTION)[-1] == "none"


@on_one_database
def test_a_wish_that_cannot_be_granted_is_refused(listen: Listen, ris: Listening) -> None:
    node = Node(listen, ris)
    step = workitem_uid(node.database, add_workitem(node.database))
    act = node.ws.act
    assert act(3, "1.2.3", **OPEN) == 0xC307
    assert act(4, "1.2.3", **WHO) == 0xC307
    assert act(3, f"{ALL}.1", **OPEN) == 0xC307  # filtered subscription is not supported
    assert act(3, step, ReceivingAE="NOBODY", DeletionLock="FALSE") == 0xC308
    assert act(3, step, DeletionLock="FALSE") == 0xC308
    assert act(3, step, ReceivingAE="RIS") == 0x0106
    assert act(3, step, ReceivingAE="RIS", DeletionLock="MAYBE") == 0x0106
    assert act(5, step, **WHO) == 0xC314
    assert node.subscriptions() == {}


def test_a_cancel_is_asked_of_the_performer_or_done_where_nobody_began(
    listen: Listen, ris: Listening
) -> None:
    node = Node(listen, ris)
    uid = add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    why = {"ReasonForCancellation": "wrong side", "ContactDisplayName": "Dr Ray"}
    assert node.ws.change(step, "IN PROGRESS") == 0x0000
    assert node.ws.act(2, step, **why) == 0xC312  # nobody listens
    assert node.ws.act(3, step, **OPEN) == 0x0000
    assert node.ws.act(2, step, **why) == 0x0000
    node.tell()
    _, kind, ds = ris.events[-1]
    assert (kind, ds.RequestingAE, ds.ReasonForCancellation) == (2, "WS1", "wrong side")
    assert ds.ContactDisplayName == "Dr Ray"
    assert node.ws.change(step, "COMPLETED") == 0x0000
    assert node.ws.act(2, step, **why) == 0xC311
    other = add_workitem(node.database)
    step = workitem_uid(node.database, other)
    assert node.ws.act(3, step, **OPEN) == 0x0000
    assert node.ws.act(2, step, **why) == 0x0000
    assert node.ws.act(2, step) == 0xB304
    node.tell()
    assert ris.states[-3:] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert study_row(node.database, other).reading_state is ReadingState.UNREAD
    assert len(workitems(node.database, other)) == 1
    assert node.ws.act(2, "1.2.3") == 0xC307
    assert outcomes(node.database, AuditAction.WORKITEM_CANCEL_REQUESTED) == ["asked", "canceled"]


@on_one_database
# pynetdicom leaves the socket of a refused connection to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_could_not_be_sent_is_sent_later_and_in_order(listen: Listen) -> None:
    ris = Listening(port=free_port())
    node = Node(listen, ris)
    step = workitem_uid(node.database, add_workitem(node.database))
    assert node.ws.act(3, step, **OPEN) == 0x0000
    assert node.ws.change(step, "IN PROGRESS") == 0x0000
    node.tell()  # nobody is there
    assert node.messages() == [EventReportState.DUE] * 2
    with ris.running():
        node.tell()
        assert ris.events == []  # the pause is not over
        node.let_the_pause_be_over()
        node.tell()
    assert ris.states == ["SCHEDULED", "IN PROGRESS"]


@on_one_database
def test_what_is_never_taken_is_given_up_and_holds_up_nothing(
    listen: Listen, ris: Listening
) -> None:
    node = Node(listen, ris)
    step = workitem_uid(node.database, add_workitem(node.database))
    assert node.ws.act(3, step, **OPEN) == 0x0000
    ris.status = 0x0110  # processing failure: may go well later
    for _ in range(2):
        node.let_the_pause_be_over()
        node.tell()
    assert node.messages() == [EventReportState.DEAD]
    assert len(ris.events) == 2
    assert node.ws.change(step, "IN PROGRESS") == 0x0000
    ris.status = 0x0113  # no such event type: will never go well
    node.tell()
    assert node.messages() == [EventReportState.DEAD] * 2
    ris.status = 0x0000
    assert node.ws.change(step, "COMPLETED") == 0x0000
    node.tell()
    assert node.messages()[-1] is EventReportState.ACCEPTED


@on_one_database
def test_what_was_given_up_is_listed_and_told_again(listen: Listen, ris: Listening) -> None:
    node = Node(listen, ris)
    step = workitem_uid(node.database, uid := add_workitem(node.database))
    assert node.ws.act(3, step, **OPEN) == 0x0000
    ris.status = 0x0113
    node.tell()
    where = ["--data-dir", str(node.settings.data_dir)]

    def run(*options: str) -> str:
        variables = {"DICOM_NODE_DATABASE_URL": node.settings.effective_database_url}
        result = CliRunner(env=variables).invoke(cli, ["worklist", "messages", *where, *options])
        assert result.exit_code == 0, result.output
        return result.output

    (line,) = run("--state", "dead", "--json").splitlines()
    row = json.loads(line)
    assert (row["receiver"], row["message"], row["attempts"]) == ("RIS", "state", 1)
    assert (row["workitem_uid"], row["study_instance_uid"]) == (step, uid)
    assert row["error"] == "it was answered 0x0113"
    assert run("--retry", "--receiver", "OTHER") == "0 due again\n"
    ris.status = 0x0000
    assert run("--retry") == "1 due again\n"
    node.tell()
    assert node.messages() == [EventReportState.ACCEPTED]
    assert run("--state", "dead", "--json") == ""
    assert outcomes(node.database, AuditAction.DELIVERIES_DUE_AGAIN) == ["due"]
    ris.status = 0x0113
    assert node.ws.change(step, "IN PROGRESS") == 0x0000
    node.tell()
    ris.status = 0x0000
    assert node.ws.change(step, "COMPLETED") == 0x0000
    node.tell()
    assert (
        run("--retry") == "0 due again\n"
    )  # the receiver would take the old state for the new one


def test_a_manager_gets_every_new_workitem(listen: Listen, ris: Listening) -> None:
    peer = {"ae_title": "RIS", "host": "127.0.0.1", "port": ris.port}
    node = Node(listen, ris, managers=[peer])
    uid = add_workitem(node.database, 55.0, accession_number="A9")
    step = workitem_uid(node.database, uid)
    node.tell()
    node.push()
    assert ris.events == []
    ((created, ds),) = ris.created
    assert created == step
    assert (ds.ProcedureStepState, ds.ScheduledProcedureStepPriority) == ("SCHEDULED", "HIGH")
    assert (ds.PatientID, ds.InputReadinessState) == ("P1", "READY")
    assert ds.ReferencedRequestSequence[0].AccessionNumber == "A9"
    assert ds.TransactionUID in (None, "")
    assert list(ds.ScheduledStationNameCodeSequence) == []
    assert "SOPInstanceUID" not in ds
    ris.status = 0x0111  # it is there already
    second = add_workitem(node.database)
    node.push()
    claimed = add_workitem(node.database)
    with node.database.write() as session:
        claim(session, claimed, ANNA)
    node.push()
    assert [each for each, _ in ris.created] == [step, workitem_uid(node.database, second)]
    accepted, dead = EventReportState.ACCEPTED, EventReportState.DEAD
    assert node.messages() == [accepted, accepted, dead]
    assert outcomes(node.database, AuditAction.WORKITEM_PUSHED) == ["created", "created", "failed"]


@on_one_database
def test_a_manager_that_is_gone_from_the_settings_gets_nothing_more(
    listen: Listen, ris: Listening
) -> None:
    peer = {"ae_title": "RIS", "host": "127.0.0.1", "port": ris.port}
    node = Node(listen, ris, managers=[peer])
    add_workitem(node.database)
    plain = node.settings.model_copy(update={"worklist": type(node.settings.worklist)()})
    synchronise_managers(node.database, plain)
    add_workitem(node.database)
    assert node.messages() == [EventReportState.DEAD]


def test_studies_that_were_reported_before_get_their_workitems(
    listen: Listen, ris: Listening
) -> None:
    node = Node(listen, ris)
    with_report = [add_study(node.database, 40.0), add_study(node.database, 2.0)]
    add_study(node.database, state=StudyState.CLOSED)
    was_read = add_study(node.database, 30.0)
    with node.database.write() as session:
        read(session, was_read, ANNA)
    upkeep = Upkeep(node.settings, node.database)
    while upkeep.step():
        pass
    assert [len(workitems(node.database, uid)) for uid in with_report] == [1, 1]
    assert count(node.database, Workitem) == 2


def test_what_ended_long_ago_is_forgotten_unless_it_is_locked(
    listen: Listen, ris: Listening
) -> None:
    node = Node(listen, ris)
    uid, locked = add_workitem(node.database), add_workitem(node.database)
    kept = workitem_uid(node.database, locked)
    assert node.ws.act(3, kept, **LOCKED) == 0x0000
    for each in (uid, locked):
        with node.database.write() as session:
            claim(session, each, ANNA)
            release(session, each, ANNA)
    long_ago = utc_now() - timedelta(days=31)
    with node.database.write() as session:
        ended = update(Workitem).where(Workitem.ended_at.is_not(None))
        session.execute(ended.values(ended_at=long_ago))
    upkeep = Upkeep(node.settings, node.database)
    while upkeep.step():
        pass
    assert [each.number for each in workitems(node.database, uid)] == [1]
    assert [each.number for each in workitems(node.database, locked)] == [0, 1]
    assert node.ws.get(kept)[0] == 0x0000
    assert node.ws.act(4, kept, **WHO) == 0x0000
    upkeep = Upkeep(node.settings, node.database)
    while upkeep.step():
        pass
    assert node.ws.get(kept)[0] == 0xC307
