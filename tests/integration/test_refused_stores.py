"""C-STORE requests that contradict themselves or their context: status, audit event, nothing kept.

What is refused is listed in the conformance statement, each time with these statuses.
"""

import gc
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import chest_dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context
from rows import SEG, instances
from senders import CR, associate, encoded, store_request
from servers import wait_until
from sqlalchemy import select

from dicom_node.conformance import tables
from models.audit import AuditAction, AuditEvent

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind of database is enough: nothing here depends on it."""
    return f"sqlite:///{tmp_path / 'node.db'}"


def _send(assoc: Association, sop_class_uid: str, data: bytes | None) -> int | None:
    """C-STORE in the first context whatever the class; None as data: without a data set.

    Return the status; None when the association ended, or another operation was answered.
    """
    request = store_request(sop_class_uid, "1.2.9", data or b"")
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.context_id = assoc.accepted_contexts[0].context_id
    if data is None:
        message.command_set.CommandDataSetType = 0x0101  # PS3.7 9.3.1.1
        message._set_command_group_length()
    assoc._reactor_checkpoint.clear()
    while not assoc._is_paused:
        time.sleep(0.001)
    try:
        for pdu in message.encode_msg(message.context_id or 1, 16382):
            assoc.dul.send_pdu(pdu)
        _, answer = assoc.dimse.get_msg(block=True)
    finally:
        assoc._reactor_checkpoint.set()
    if not isinstance(answer, C_STORE):
        return None
    assert answer.AffectedSOPClassUID == sop_class_uid  # PS3.7 9.1.1.1
    return int(answer.Status or 0)


def _refusals(node: "RunningListener") -> list[tuple[str, int | None, str | None]]:  # noqa: F821  a class of conftest.py
    """Return outcome, status and calling AE title of every refusal that was audited."""
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.INSTANCE_REFUSED)
        rows = session.scalars(query.order_by(AuditEvent.id))
        return [(row.outcome, row.status, row.calling_aet) for row in rows]


def _listed(status: int, condition: str) -> bool:
    """Say whether the statement has a row of this status whose condition has these words."""
    rows = [line.split(" | ") for line in tables.given_statuses().splitlines()]
    return any(row[0] == f"| `0x{status:04X}`" and condition in row[2] for row in rows[2:])


def _holds_nothing(node: "RunningListener") -> bool:  # noqa: F821  a class of conftest.py
    return node.spooled == node.incoming == instances(node.database) == []


def test_a_command_without_a_data_set_is_refused_and_audited(listen: Listen) -> None:
    node = listen()
    with associate(node.port) as assoc:
        assert _send(assoc, CR, None) == 0xC000
        assert assoc.is_established
        assert _refusals(node) == [("NotUnderstoodError", 0xC000, "PACS")]
        assert _holds_nothing(node)
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
    assert _listed(0xC000, "the command has no data set")


@pytest.mark.parametrize(
    "sop_class_uid",
    [
        "1.2.840.10008.5.1.4.1.1.4",  # MR Image Storage: not accepted in any context
        SEG,  # accepted, in another context
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol Storage: a class of another service
        "1.2.840.10008.1.1",  # Verification, which pynetdicom alone answers by a C-ECHO response
        "1.2.840.10008.5.1.4.1.2.2.1",  # Study Root Query/Retrieve - FIND
        "1.2.3.4",  # a private class, or one that is younger than the node
    ],
)
def test_a_command_of_another_class_than_its_context_is_refused_and_audited(
    listen: Listen, sop_class_uid: str
) -> None:
    node = listen()
    ds = chest_dataset(SOPClassUID=sop_class_uid, SOPInstanceUID="1.2.9", PatientID="P1")
    with associate(node.port) as assoc:
        assert _send(assoc, sop_class_uid, encoded(ds)) == 0xA900
        assert _refusals(node) == [("DataSetMismatchError", 0xA900, "PACS")]
        assert _holds_nothing(node)
        assert assoc.send_c_store(chest_dataset(PatientID="P1")).Status == 0x0000
    assert _listed(0xA900, "not the abstract syntax of its presentation context")


def test_nothing_is_stored_in_the_context_of_verification(listen: Listen) -> None:
    node = listen()
    verification = "1.2.840.10008.1.1"
    with associate(node.port, (verification, ExplicitVRLittleEndian)) as assoc:
        for sop_class_uid, status in ((CR, 0xA900), (verification, 0x0122)):
            ds = chest_dataset(SOPClassUID=sop_class_uid, SOPInstanceUID="1.2.9", PatientID="P1")
            assert _send(assoc, sop_class_uid, encoded(ds)) == status
        assert assoc.send_c_echo().Status == 0x0000
    assert [status for _, status, _ in _refusals(node)] == [0xA900, 0x0122]
    assert _holds_nothing(node)
    assert _listed(0x0122, "another service than storage")


# pynetdicom lets such a command end the thread that reads the connection, and leaves the socket to
# the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*unclosed.*:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lacks", ["AffectedSOPClassUID", "AffectedSOPInstanceUID", "context"])
def test_a_command_that_cannot_be_read_ends_its_association_and_leaves_nothing(
    listen: Listen, lacks: str
) -> None:
    node = listen()
    ds = chest_dataset(PatientID="P1")
    message = C_STORE_RQ()
    message.primitive_to_message(store_request(CR, str(ds.SOPInstanceUID), encoded(ds)))
    if lacks != "context":
        delattr(message.command_set, lacks)
        message._set_command_group_length()
    with associate(node.port) as assoc:
        context_id = 99 if lacks == "context" else assoc.accepted_contexts[0].context_id
        for pdu in message.encode_msg(context_id or 1, 16382):
            assoc.dul.send_pdu(pdu)
        wait_until(lambda: assoc.is_aborted, 10, "the listener to abort")
    assert (node.spooled, instances(node.database)) == ([], [])
    with associate(node.port) as assoc:
        assert assoc.send_c_store(ds).Status == 0x0000
    wait_until(lambda: node.incoming == [], 10, "the file of the broken command to go")
    assert len(node.listener.reception) == 0
    wait_until(lambda: not node.listener.active_associations, 10, "associations to end")
    gc.collect()  # here, where its warnings are expected


def test_an_operation_that_is_not_offered_ends_the_association(listen: Listen) -> None:
    node = listen()
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    with associate(node.port) as assoc:
        assoc._accepted_cx[1] = build_context(find)  # as a peer that keeps to no negotiation
        assoc._accepted_cx[1].context_id = 1
        assoc._accepted_cx[1].result = 0
        assoc._accepted_cx[1]._as_scu = True
        list(assoc.send_c_find(chest_dataset(), find))
        wait_until(lambda: assoc.is_aborted, 10, "the listener to abort")
