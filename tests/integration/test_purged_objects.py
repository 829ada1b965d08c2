"""What the services of the node say of an image that retention purged."""

from collections.abc import Callable, Iterator

import pytest
from builders import chest_dataset
from commitments import Modality
from conftest import RunningListener
from querying import Receiver, make_desk, receiver, send, two_images
from rows import CR, add_analysis, instances, outcomes
from senders import store
from sqlalchemy import update

from dicom_node.commitment.judging import judge, promise
from dicom_node.commitment.messages import (
    NO_SUCH_INSTANCE,
    Question,
    Reference,
    encode_question,
)
from dicom_node.commitment.reporting import Reporter
from dicom_node.merge import PatientIdentity, merge
from dicom_node.quarantine import Operator
from models.audit import AuditAction
from models.base import utc_now
from models.commitment import CommitmentOrder
from models.imaging import Instance
from models.job import Job
from models.session import Database

Listen = Callable[..., RunningListener]


@pytest.fixture
def place() -> Iterator[Receiver]:
    """A storage SCP."""
    with receiver() as scp:
        yield scp


@pytest.fixture
def modality() -> Iterator[Modality]:
    """A sender that asks for Storage Commitment."""
    with Modality().running() as running:
        yield running


def _purge(database: Database, sop_instance_uid: str) -> None:
    named = Instance.sop_instance_uid == sop_instance_uid
    with database.write() as session:
        session.execute(update(Instance).where(named).values(purged_at=utc_now()))


def test_a_query_does_not_offer_it_and_no_retrieve_fails_for_it(
    listen: Listen, place: Receiver
) -> None:
    desk = make_desk(listen, place)
    gone, here = two_images()
    send(desk.node.port, gone, here)
    _purge(desk.database, str(gone.SOPInstanceUID))
    keys = {"StudyInstanceUID": here.StudyInstanceUID}
    status, found, _ = desk.viewer.find("STUDY", **keys, NumberOfStudyRelatedInstances="")
    assert (status, [ds.NumberOfStudyRelatedInstances for ds in found]) == (0x0000, [1])
    assert desk.viewer.move("DESK2", "STUDY", **keys)[0].Status == 0x0000
    assert list(place.objects) == [str(here.SOPInstanceUID)]


def test_a_promise_to_a_sender_is_marked_and_none_is_made_of_what_is_gone(
    listen: Listen, modality: Modality
) -> None:
    peer = {"ae_title": "CR1", "host": "127.0.0.1", "port": modality.port}
    node = listen(sections={"commitment_provider": {"enabled": True, "peers": [peer]}})
    gone, here = chest_dataset(seed="1"), chest_dataset(seed="2")
    for ds in (gone, here):
        assert store(node.port, ds) == 0x0000
    _purge(node.database, str(gone.SOPInstanceUID))
    references = tuple(Reference(CR, str(ds.SOPInstanceUID)) for ds in (gone, here))
    question = Question("2.25.7", references)
    assert modality.ask(node.port, encode_question(question)) == 0x0000
    (told,) = node.settings.commitment_provider.peers
    assert Reporter(node.settings, node.database, told).step()
    (report,) = modality.reports
    assert report.committed == references[1:]
    assert [(it.reference, it.reason) for it in report.failed] == [
        (references[0], NO_SUCH_INSTANCE)
    ]
    promised = [row.promised_at is not None for row in instances(node.database)]
    assert promised == [False, True]


def test_what_is_purged_between_judging_and_promising_is_not_promised(listen: Listen) -> None:
    node = listen()
    ds = chest_dataset()
    assert store(node.port, ds) == 0x0000
    order = CommitmentOrder(
        transaction_uid="2.25.8", calling_aet="CR1", instances=[[CR, str(ds.SOPInstanceUID)]]
    )
    order.is_duplicate = False
    report = judge(node.database, node.settings, order)
    assert len(report.committed) == 1
    _purge(node.database, str(ds.SOPInstanceUID))
    kept = promise(node.database, report)
    assert (kept.committed, [it.reason for it in kept.failed]) == ((), [NO_SUCH_INSTANCE])
    assert [row.promised_at for row in instances(node.database)] == [None]


def test_a_merge_says_that_images_have_to_be_sent_again(listen: Listen) -> None:
    node, ds = listen(), chest_dataset(PatientID="P1")
    assert store(node.port, ds) == 0x0000
    with node.database.write() as session:
        session.execute(update(Instance).values(state="analysed"))
        session.execute(update(Job).values(state="done"))
    add_analysis(node.database, 1)
    _purge(node.database, str(ds.SOPInstanceUID))

    def merged() -> list[str]:
        correction = {"PatientID": "P2", "IssuerOfPatientID": ""}
        operator = Operator("somebody", "one person")
        found = merge(node.database, node.settings, PatientIdentity("P1"), correction, operator)
        return [row["outcome"] for row in found]

    assert merged() == ["purged"]
    assert [row.patient_id for row in instances(node.database)] == ["P1"]
    assert store(node.port, ds) == 0x0000
    assert outcomes(node.database, AuditAction.INSTANCE_RESTORED) == ["purged"]
    assert merged() == ["merged"]
