"""A corrected identity stays: no old copy undoes it, and nothing of the old one is sent."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from click.testing import CliRunner
from flow import Flow, phantom, running_flow
from pydicom import dcmread
from pydicom.uid import ImplicitVRLittleEndian
from rejection_notes import SAFETY, rejection_note
from rows import add_destination, instances, outcomes
from senders import store
from sqlalchemy import select, update

from dicom_node.cli import cli
from dicom_node.delivery import Deliverer
from dicom_node.identity_update import decide_updates
from dicom_node.merge import PatientIdentity, merge
from dicom_node.quarantine import Operator, correct
from dicom_node.senders.base import Parcel, Receiver, SendResult
from models.audit import AuditAction
from models.delivery import Delivery
from models.imaging import Study
from models.rejection import untold
from models.states import ArtifactKind, DeliveryState

Listen = Callable[..., "RunningListener"]  # noqa: F821  a fixture of conftest.py
MakeFlow = Callable[..., Flow]

OPERATOR = Operator("night-shift", "seen on the film")
P1 = {"PatientID": "P1", "IssuerOfPatientID": ""}
P2 = {"PatientID": "P2", "IssuerOfPatientID": ""}
STUDY = "1.2.840.7"

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def flow_of(redis_server: str) -> Iterator[MakeFlow]:
    """Give the loops behind a listener."""
    with ExitStack() as stack:
        yield lambda node: stack.enter_context(
            running_flow(node.database, node.settings, redis_server)
        )


def _states(node: Any) -> list[tuple[str, str | None, str | None]]:
    return [(row.state.value, row.reason, row.patient_id) for row in instances(node.database)]


def _studies(node: Any) -> list[tuple[str | None, int]]:
    with node.database.read() as session:
        found = session.scalars(select(Study).order_by(Study.id))
        return [(study.patient_id, study.revision) for study in found]


def _deliveries(node: Any) -> list[tuple[str, str, str]]:
    """Return kind, patient and state of every delivery, in order."""
    with node.database.read() as session:
        return [
            (
                row.artifact.kind.value,
                str(dcmread(node.settings.artifact_dir / row.artifact.storage_key).PatientID),
                row.state.value,
            )
            for row in session.scalars(select(Delivery).order_by(Delivery.id))
        ]


def _merge(node: Any, **options: Any) -> list[dict[str, Any]]:
    act = (PatientIdentity("P1"), P2, OPERATOR)
    return merge(node.database, node.settings, *act, **options)


@on_one_database
def test_a_transcoded_copy_under_the_old_identity_undoes_no_merge(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    assert store(node.port, phantom(PatientID="P1")) == 0x0000
    flow.run()
    _merge(node)
    flow.run()
    old = phantom(PatientID="P1", transfer_syntax=ImplicitVRLittleEndian)
    renamed = phantom(PatientID="P1", PatientName="Other^Spelling")
    for again in (old, renamed):
        assert store(node.port, again) == 0x0000
        flow.run()
    assert _states(node) == [
        ("analysed", None, "P2"),
        ("superseded", "same_image", "P1"),
        ("quarantined", "patient_mismatch", "P1"),
    ]
    assert _studies(node) == [("P2", 2)]
    assert [ds.PatientID for ds in flow.artifacts(ArtifactKind.SR)] == ["P1", "P2"]
    assert flow.unbalanced() == []
    # What brings the corrected identity is an update, as ever.
    assert store(node.port, phantom(PatientID="P2", PatientName="Right^Spelling")) == 0x0000
    flow.run()
    assert _states(node)[3] == ("analysed", None, "P2")
    assert store(node.port, phantom(PatientID="P1", PatientName="Third^Spelling")) == 0x0000
    flow.run()
    assert _states(node)[4] == ("quarantined", "patient_mismatch", "P1")
    assert _studies(node) == [("P2", 3)]
    assert flow.unbalanced() == []


@on_one_database
def test_a_transcoded_copy_undoes_no_correction_of_an_operator(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    wrong = {"PatientID": "P2", "StudyInstanceUID": STUDY}
    for ds in (phantom(7, PatientID="P1", StudyInstanceUID=STUDY), phantom(9, **wrong)):
        assert store(node.port, ds) == 0x0000
    flow.run()
    correct(node.database, node.settings, 2, OPERATOR, P1)
    flow.run()
    again = phantom(9, **wrong, transfer_syntax=ImplicitVRLittleEndian)
    assert store(node.port, again) == 0x0000
    flow.run()
    kept = ("analysed", None, "P1")
    assert _states(node) == [kept, kept, ("superseded", "same_image", "P2")]
    assert _studies(node) == [("P1", 2)]
    assert flow.unbalanced() == []


@on_one_database
def test_a_transcoded_copy_of_an_earlier_version_makes_nothing_swing(
    listen: Listen, flow_of: MakeFlow
) -> None:
    """The same bytes are a duplicate, as ever; that the old version still comes is audited."""
    node = listen()
    flow = flow_of(node)
    for patient in ("P1", "P2", "P1"):
        assert store(node.port, phantom(PatientID=patient)) == 0x0000
        flow.run()
    old = phantom(PatientID="P1", transfer_syntax=ImplicitVRLittleEndian)
    assert store(node.port, old) == 0x0000
    flow.run()
    assert _states(node) == [
        ("superseded", "updated", "P1"),
        ("analysed", None, "P2"),
        ("superseded", "same_image", "P1"),
    ]
    assert _studies(node) == [("P2", 2)]
    assert outcomes(node.database, AuditAction.INSTANCE_STORED) == [
        *("stored", "conflict", "duplicate", "conflict")
    ]
    assert outcomes(node.database, AuditAction.INSTANCE_COMPARED) == [
        *("update", "outdated", "update")
    ]
    assert flow.unbalanced() == []


@on_one_database
def test_a_merge_of_one_study_leaves_the_others(listen: Listen, flow_of: MakeFlow) -> None:
    """So an operator takes back what the PACS corrected by mistake: its copy is a duplicate."""
    node = listen()
    flow = flow_of(node)
    other = phantom(9, PatientID="P2", StudyInstanceUID="1.2.840.8")
    assert store(node.port, other) == 0x0000
    for patient in ("P1", "P2", "P1"):
        ds = phantom(7, PatientID=patient, StudyInstanceUID=STUDY)
        assert store(node.port, ds) == 0x0000
        flow.run()
    environment = {"DICOM_NODE_DATABASE_URL": node.database.url.render_as_string(False)}
    words = ["patient", "merge", "--from", "P2", "--into", "P1", "--study-uid", STUDY]
    words += ["--reason", "corrected by mistake", "--json"]
    words += ["--data-dir", str(node.settings.data_dir)]
    answer = CliRunner(env=environment).invoke(cli, words)
    assert answer.exit_code == 0, answer.output
    assert [json.loads(line)["study_instance_uid"] for line in answer.output.splitlines()] == [
        STUDY
    ]
    flow.run()
    assert _studies(node) == [("P2", 1), ("P1", 3)]
    assert flow.artifacts(ArtifactKind.SR)[-1].PatientID == "P1"
    assert flow.unbalanced() == []


@on_one_database
def test_a_report_that_was_stored_and_not_yet_planned_goes_nowhere_after_the_update(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    add_destination(node.database, "AWAY", 9)
    assert store(node.port, phantom(PatientID="P1")) == 0x0000
    flow._dispatcher.step()
    flow._work()
    flow._dispatcher._settle()
    flow._work()  # the report is stored
    assert len(flow.artifacts(ArtifactKind.SR)) == 1
    assert store(node.port, phantom(PatientID="P2")) == 0x0000
    decide_updates(node.database, node.settings)
    flow._work()  # compared
    decide_updates(node.database, node.settings)
    flow.run()
    assert _deliveries(node) == [("seg", "P2", "due"), ("sr", "P2", "due")]
    assert flow.unbalanced() == []


class _Away:
    """A sender that reaches nobody."""

    def send(self, receiver: Receiver, parcels: Sequence[Parcel]) -> Iterator[SendResult]:
        """Send nothing."""
        del receiver, parcels
        return iter(())

    def echo(self, receiver: Receiver) -> str | None:
        """Say that nobody is there."""
        del receiver
        return "away"


@on_one_database
@pytest.mark.parametrize("way", ["update", "merge"])
def test_what_is_due_under_the_old_identity_is_not_sent_any_more(
    listen: Listen, flow_of: MakeFlow, way: str
) -> None:
    node = listen()
    flow = flow_of(node)
    away = add_destination(node.database, "AWAY", 9)
    assert store(node.port, phantom(PatientID="P1")) == 0x0000
    flow.run()
    with node.database.write() as session:  # the SR is on its way just now
        session.execute(update(Delivery).where(Delivery.id == 2).values(state="sending"))
    if way == "merge":
        _merge(node)
    else:
        assert store(node.port, phantom(PatientID="P2")) == 0x0000
    flow.run()
    new = [("seg", "P2", "due"), ("sr", "P2", "due")]
    assert _deliveries(node) == [("seg", "P1", "withdrawn"), ("sr", "P1", "sending"), *new]
    with node.database.write() as session:  # it did not arrive, and is not tried again
        session.execute(update(Delivery).where(Delivery.id == 2).values(state="due"))
    Deliverer(node.settings, node.database, _Away(), away).step()
    assert _deliveries(node)[1] == ("sr", "P1", "withdrawn")
    with node.database.read() as session:
        errors = session.scalars(select(Delivery.error).where(Delivery.id < 3)).all()
        assert untold(session, 1, with_reports=True) == []  # the new report names its predecessor
    assert errors == ["its image was corrected"] * 2
    assert flow.unbalanced() == []


@on_one_database
def test_a_rejection_note_takes_back_what_was_replaced_too(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    add_destination(node.database, "AWAY", 9)
    image = phantom(PatientID="P1")
    assert store(node.port, image) == 0x0000
    flow.run()
    for _ in range(2):
        with node.database.write() as session:
            session.execute(update(Delivery).values(state=DeliveryState.SENT, attempts=1))
        if _studies(node) == [("P1", 1)]:
            _merge(node)
            flow.run()
    assert store(node.port, rejection_note([image], SAFETY, PatientID="P2")) == 0x0000
    flow._dispatcher.step()
    with node.database.read() as session:
        assert len(untold(session, 1, with_reports=True)) == 4


@on_one_database
def test_a_new_image_of_a_corrected_study_leaves_quarantine_with_the_correction(
    listen: Listen, flow_of: MakeFlow
) -> None:
    """The new one came while the known one still waited for its comparison."""
    node = listen()
    flow = flow_of(node)
    assert store(node.port, phantom(7, PatientID="P1", StudyInstanceUID=STUDY)) == 0x0000
    flow.run()
    new = {"PatientID": "P2", "StudyInstanceUID": STUDY}
    transcoded = phantom(9, **new, transfer_syntax=ImplicitVRLittleEndian)
    for ds in (phantom(7, **new), phantom(9, **new), transcoded):
        assert store(node.port, ds) == 0x0000
    assert _states(node)[2] == ("quarantined", "patient_mismatch", "P2")
    flow.run()
    assert _states(node) == [
        ("superseded", "updated", "P1"),
        ("analysed", None, "P2"),
        ("analysed", None, "P2"),
        ("superseded", "same_image", "P2"),
    ]
    assert outcomes(node.database, AuditAction.QUARANTINE_ENDED) == ["identity_matches"]
    assert flow.unbalanced() == []


@on_one_database
def test_a_merge_ends_the_quarantine_of_what_came_under_the_new_identity(
    listen: Listen, flow_of: MakeFlow
) -> None:
    node = listen()
    flow = flow_of(node)
    for ds in (phantom(7, PatientID="P1"), phantom(9, PatientID="P2"), phantom(5, PatientID="P3")):
        ds.StudyInstanceUID = STUDY
        assert store(node.port, ds) == 0x0000
        flow.run()
    _merge(node)
    flow.run()
    assert _states(node) == [
        ("analysed", None, "P2"),
        ("analysed", None, "P2"),
        ("quarantined", "patient_mismatch", "P3"),
    ]
    assert flow.unbalanced() == []
