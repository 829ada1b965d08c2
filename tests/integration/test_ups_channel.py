"""UPS-RS: events over a WebSocket, in order, to those whom the settings name."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from rows import outcomes
from servers import wait_until
from sqlalchemy import func, select, update
from steps import add_workitem, workitem_uid
from ups_web import Node, Station, progress, ups_node
from web_accounts import bearer, browser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from dicom_node.worklist.readings import Reader, claim, release
from dicom_node.worklist.ups.names import FILTERED_SUBSCRIPTION, GLOBAL_SUBSCRIPTION
from dicom_node.worklist.ups.upkeep import Upkeep
from models.account import Account, ApiToken, Role, Scope
from models.audit import AuditAction
from models.base import utc_now
from models.states import EventReportState
from models.workitem import WorkitemMessage

ALL = str(GLOBAL_SUBSCRIPTION)
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def node(tmp_path: Path, database_url: str) -> Iterator[Node]:
    with ups_node(tmp_path, database_url) as made:
        yield made


def test_a_subscriber_hears_of_every_change_in_order(node: Node) -> None:
    station, uid = node.station(), add_workitem(node.database)
    step = workitem_uid(node.database, uid)
    made = station.ask("POST", f"/workitems/{step}/subscribers/VIEWER1", deletionlock="true")
    assert made.status_code == 201
    where = f"ws{node.url.removeprefix('http')}/ups-rs/subscribers/VIEWER1"
    assert made.headers["content-location"] == where
    with station.channel() as channel:
        assert station.change(step, "IN PROGRESS").status_code == 200
        assert station.update(step, progress("50")).status_code == 200
        told = [_heard(channel) for _ in range(3)]
        with node.database.write() as session:  # given back on the web: canceled for good
            release(session, uid, Reader("chief", is_operator=True))
        told.append(_heard(channel))
    assert [ds.EventTypeID for ds in told] == [1, 1, 3, 1]
    states = [ds.ProcedureStepState for ds in told if ds.EventTypeID == 1]
    assert states == ["SCHEDULED", "IN PROGRESS", "CANCELED"]
    assert {str(ds.AffectedSOPInstanceUID) for ds in told} == {step}
    assert told[0].InputReadinessState == "READY"
    assert wait_for(node, EventReportState.ACCEPTED, 4)


@on_one_database
def test_what_happens_without_a_channel_waits_for_it(node: Node) -> None:
    station = node.station()
    assert station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER1").status_code == 201
    uid = add_workitem(node.database)
    with node.database.write() as session:
        claim(session, uid, Reader("anna"))
    with station.channel() as channel:
        assert [_heard(channel).ProcedureStepState for _ in range(2)] == [
            "SCHEDULED",
            "IN PROGRESS",
        ]
    suspended = station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER1/suspend")
    assert suspended.status_code == 200
    add_workitem(node.database)
    with node.database.write() as session:
        release(session, uid, Reader("anna"))
    with station.channel() as channel:  # of a workitem that it knows it still hears, of no new one
        assert _heard(channel).ProcedureStepState == "CANCELED"
        with pytest.raises(TimeoutError):
            channel.recv(timeout=2.5)
    gone = station.ask("DELETE", f"/workitems/{ALL}/subscribers/VIEWER1")
    assert gone.status_code == 200
    kinds = outcomes(node.database, AuditAction.WORKITEM_SUBSCRIPTION)
    assert kinds == ["all", "channel", "suspended", "channel", "none"]


@on_one_database
def test_who_opens_another_channel_ends_the_first(node: Node) -> None:
    station = node.station()
    with station.channel() as first, station.channel() as second:
        with pytest.raises(ConnectionClosed) as ended:
            first.recv(timeout=10)
        assert ended.value.rcvd is not None
        assert (ended.value.rcvd.code, "another channel" in ended.value.rcvd.reason) == (1001, True)
        station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER1", deletionlock="true")
        add_workitem(node.database)
        assert _heard(second).ProcedureStepState == "SCHEDULED"


@on_one_database
def test_what_a_client_says_is_not_listened_to(node: Node) -> None:
    station = node.station()
    with station.channel() as channel:
        channel.send("x" * 1000)
        station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER1")
        add_workitem(node.database)
        assert _heard(channel).ProcedureStepState == "SCHEDULED"
        channel.send("x" * 10_000)
        with pytest.raises(ConnectionClosed):
            channel.recv(timeout=10)


@on_one_database
def test_subscriptions_are_for_those_whom_the_settings_name(node: Node) -> None:
    station = node.station()
    step = workitem_uid(node.database, add_workitem(node.database))
    for path in (f"/workitems/{step}/subscribers/OTHER", f"/workitems/{ALL}/subscribers/OTHER"):
        assert station.ask("POST", path).status_code == 403
    filtered = f"/workitems/{FILTERED_SUBSCRIPTION}/subscribers/VIEWER1"
    assert station.ask("POST", filtered, filter="PatientID=1").status_code == 403
    assert station.ask("POST", "/workitems/1.2.3/subscribers/VIEWER1").status_code == 404
    assert station.ask("POST", f"/workitems/{step}/subscribers/VIEWER1/suspend").status_code == 400
    with pytest.raises(InvalidStatus, match="403"):
        station.channel("OTHER")


@on_one_database
def test_a_channel_wants_a_login_and_ends_with_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = Station(node.url, {})
    with pytest.raises(InvalidStatus, match="401"):
        nobody.channel()
    results = Station(node.url, bearer(node.database, Role.VIEWER, Scope.RESULTS, name="other"))
    with pytest.raises(InvalidStatus, match="403"):
        results.channel()
    cookie = {"Cookie": browser(node.database, Role.VIEWER).headers["Cookie"]}
    foreign = Station(node.url, cookie | {"Origin": "http://evil.example"})
    with pytest.raises(InvalidStatus, match="403"):
        foreign.channel()
    monkeypatch.setattr("dicom_node.web.workitems.channel._LOGIN_SECONDS", 0.5)
    with node.station("leaving").channel() as channel:
        with node.database.write() as session:
            owner = select(Account.id).where(Account.name == "leaving").scalar_subquery()
            tokens = update(ApiToken).where(ApiToken.account_id == owner)
            session.execute(tokens.values(revoked_at=utc_now()))
        with pytest.raises(ConnectionClosed) as ended:
            channel.recv(timeout=10)
        assert ended.value.rcvd is not None
        assert ended.value.rcvd.code == 1008


@on_one_database
def test_events_that_nobody_fetches_are_forgotten(node: Node) -> None:
    station = node.station()
    station.ask("POST", f"/workitems/{ALL}/subscribers/VIEWER2", deletionlock="true")
    add_workitem(node.database)
    long_ago = utc_now().replace(year=2001)
    with node.database.write() as session:
        session.execute(update(WorkitemMessage).values(created_at=long_ago))
    upkeep = Upkeep(node.settings, node.database)
    while upkeep.step():
        pass
    with node.database.read() as session:
        assert session.scalar(select(func.count(WorkitemMessage.id))) == 0


def _heard(channel: ClientConnection) -> Dataset:
    return Dataset.from_json(json.loads(channel.recv(timeout=10)))


def wait_for(node: Node, state: EventReportState, number: int) -> bool:
    """Wait until so many messages have this state."""

    def are_there() -> bool:
        with node.database.read() as session:
            query = select(func.count(WorkitemMessage.id)).where(WorkitemMessage.state == state)
            return session.scalar(query) == number

    wait_until(are_there, 10, f"{number} messages {state}")
    return True
