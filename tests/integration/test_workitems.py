"""Where workitems come from: the plan of deliveries; and what hostile or odd messages do."""

import threading
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from pydantic import ValidationError
from pydicom.dataset import Dataset
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_SET
from pynetdicom.dsutils import encode
from readings import add_study, study_row
from rows import add_instance
from servers import wait_until
from sqlalchemy import select, update
from steps import UPS, Workstation, add_workitem, workitem_uid, workitems

from dicom_node.delivery import _steps
from dicom_node.planning import plan_deliveries
from dicom_node.worklist.ups.names import PULL, PUSH
from dicom_node.worklist.ups.search import _parted, _span
from models.imaging import Study
from models.result import Artifact
from models.session import Database
from models.settings import Settings, load_settings
from models.states import StudyState, WorkitemState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
PEER = {"ae_title": "RIS", "host": "127.0.0.1", "port": 104}

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _settings(**ups: Any) -> Settings:
    return load_settings(None, worklist={"ups": UPS | ups}, objects={"uid_root": "1.2.99"})


def _plan(database: Database, uid: str, settings: Settings) -> None:
    with database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        assert plan_deliveries(session, settings, study)


def test_a_report_makes_a_workitem_where_the_service_is_on(database: Database) -> None:
    uid = add_study(database, 40.0, state=StudyState.SETTLED)
    off = add_study(database, 40.0, state=StudyState.SETTLED)
    _plan(database, uid, _settings())
    _plan(database, off, load_settings(None))
    (made,) = workitems(database, uid)
    assert (made.state, made.revision) == (WorkitemState.SCHEDULED, 1)
    assert made.workitem_uid.startswith("1.2.99.")
    assert workitems(database, off) == []
    with database.write() as session:
        session.execute(
            update(Study)
            .where(Study.study_instance_uid == uid)
            .values(state=StudyState.SETTLED, revision=2)
        )
    with database.write() as session:
        session.execute(update(Artifact).where(Artifact.revision == 1).values(revision=2))
    _plan(database, uid, _settings())
    assert len(workitems(database, uid)) == 1  # nobody has begun: it is about the newest report


def test_a_study_of_which_nothing_is_left_has_nothing_to_read(database: Database) -> None:
    uid = add_workitem(database)
    with database.write() as session:
        study_id = study_row(database, uid).id
        session.execute(update(Study).values(state=StudyState.SETTLED, revision=2))
        session.execute(update(Artifact).where(Artifact.study_id == study_id).values(revision=1))
    _plan(database, uid, _settings())
    assert study_row(database, uid).state is StudyState.CLOSED
    (item,) = workitems(database, uid)
    assert (item.state, item.reason) == (WorkitemState.CANCELED, "The images were withdrawn.")


@on_one_database
def test_the_loops_that_send_are_those_of_the_settings(database: Database) -> None:
    on = _steps(_settings(receivers=[PEER], managers=[PEER]), database, threading.Event())
    assert {"ups-upkeep", "ups-event-RIS", "ups-push-RIS"} <= on.keys()
    off = _steps(load_settings(None), database, threading.Event())
    assert not any(name.startswith("ups") for name in off)


@pytest.mark.parametrize(
    ("ups", "words"),
    [
        ({"calling_aets": []}, "name who may query"),
        ({"receivers": [PEER, PEER]}, "receivers and web_subscribers name RIS twice"),
        ({"receivers": [PEER], "web_subscribers": ["RIS"]}, "name RIS twice"),
        ({"managers": [PEER, PEER]}, "managers name RIS twice"),
        ({"receivers": [PEER | {"tls": True}]}, "set dicom.tls.trusted_cas"),
        ({"worklist_label": "a\\b"}, "worklist_label"),
    ],
)
def test_settings_that_cannot_work_are_refused(ups: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        _settings(**ups)


@on_one_database
def test_broken_data_sets_are_refused_and_the_association_lives(listen: Listen) -> None:
    node = listen(sections={"worklist": {"ups": UPS}})
    ws = Workstation(node.port)
    step = workitem_uid(node.database, add_workitem(node.database))
    deep = Dataset()
    for _ in range(60):
        outer = Dataset()
        outer.ScheduledWorkitemCodeSequence = [deep]
        deep = outer
    assert encode(deep, is_implicit_vr=True, is_little_endian=True)
    with ws.association() as assoc:
        # A sequence of 2 GiB, of which nothing comes; a private element; no DICOM at all.
        for raw in (b"\x74\x00\x02\x10\xff\xff\xff\x7f", b"\x09\x00\x01\x10", b"\xff" * 99):
            assert _send_raw(assoc, step, raw) in {0x0106, 0xC310}
        answers = list(assoc.send_c_find(deep, PULL))
        assert answers[-1][0].Status == 0xA900
        status, ds = assoc.send_n_get([0x00741000], PUSH, step, meta_uid=PULL)
        assert (status.Status, ds.ProcedureStepState) == (0x0000, "SCHEDULED")


def _send_raw(assoc: Association, uid: str, raw: bytes) -> int:
    """Send an N-SET with these bytes for a data set, and return the status."""
    (context,) = (it for it in assoc.accepted_contexts if it.abstract_syntax == PULL)
    request = N_SET()
    request.MessageID = 7
    request.RequestedSOPClassUID, request.RequestedSOPInstanceUID = PUSH, uid
    request.ModificationList = BytesIO(raw)
    assoc._reactor_checkpoint.clear()
    wait_until(lambda: assoc._is_paused, 5, "the reactor pauses")
    try:
        assoc.dimse.send_msg(request, context.context_id)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    assert answer is not None
    return int(answer.Status)


def test_ranges_of_dates_and_times() -> None:
    assert _parted("20260101-20260102") == ("20260101", "-", "20260102")
    assert _parted("20260101120000+0000-") == ("20260101120000+0000", "-", "")
    assert _span("20260101") == ("20260101000000", "20260101999999")
    assert _span("-20260102+0000") == ("00000000000000", "20260102999999")


@on_one_database
def test_a_workitem_without_a_name_in_its_file_is_described(listen: Listen) -> None:
    node = listen(sections={"worklist": {"ups": UPS}})
    uid = add_workitem(node.database)
    add_instance(node.database, study_instance_uid=uid)
    status, ds = Workstation(node.port).get(workitem_uid(node.database, uid))
    assert status == 0x0000
    assert ds is not None
    assert (ds.PatientName, ds.PatientID) == ("", "P1")
