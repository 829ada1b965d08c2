"""Messages about one study reach a receiver in order: what is due while another is on its way."""

import secrets

import pytest
from rows import add_destination, add_instance, random_uid
from sqlalchemy import select

from dicom_node.delivery import Deliverer
from dicom_node.senders.cstore import CStoreSender
from models.delivery import Delivery
from models.imaging import Study
from models.result import Artifact
from models.session import Database
from models.settings import load_settings
from models.states import ArtifactKind, DeliveryState

DUE, SENDING = DeliveryState.DUE, DeliveryState.SENDING


def _add(
    database: Database,
    destination: int,
    *,
    revision: int,
    state: DeliveryState,
    kind: ArtifactKind = ArtifactKind.HL7,
    study: int = 1,
) -> int:
    """Add an object of a study revision with its delivery; return the delivery's id."""
    is_object = kind is ArtifactKind.SR
    with database.write() as session:
        artifact = session.scalar(
            select(Artifact).where(
                Artifact.study_id == study, Artifact.kind == kind, Artifact.revision == revision
            )
        ) or Artifact(
            kind=kind,
            study_id=study,
            revision=revision,
            sop_instance_uid=random_uid() if is_object else None,
            storage_key=secrets.token_hex(16),
            sha256="0" * 64,
            size_bytes=1,
        )
        delivery = Delivery(artifact=artifact, destination_id=destination, state=state)
        session.add(delivery)
        session.flush()
        return delivery.id


@pytest.fixture
def studies(database: Database) -> list[int]:
    for _ in range(2):
        add_instance(database, study_instance_uid=random_uid())
    with database.read() as session:
        return list(session.scalars(select(Study.id).order_by(Study.id)))


def test_a_message_waits_for_an_older_one_that_is_on_its_way_to_the_same_receiver(
    database: Database, studies: list[int]
) -> None:
    ris, other = (add_destination(database, name, 1) for name in ("ris", "other"))
    first, second = studies
    _add(database, ris, revision=1, state=SENDING, study=first)
    _add(database, ris, revision=2, state=DUE, study=first)
    _add(database, ris, revision=1, state=SENDING, study=first, kind=ArtifactKind.SR)
    free = [
        _add(database, ris, revision=2, state=DUE, study=first, kind=ArtifactKind.SR),
        _add(database, ris, revision=2, state=DUE, study=first, kind=ArtifactKind.FHIR),
        _add(database, ris, revision=2, state=DUE, study=second),
    ]
    elsewhere = _add(database, other, revision=2, state=DUE, study=first)
    settings = load_settings()
    for destination, expected in ((ris, free), (other, [elsewhere])):
        deliverer = Deliverer(settings, database, CStoreSender("NODE", 1.0), destination)
        with database.read() as session:
            assert sorted(deliverer._due_ids(session, 50, is_probe=False)) == expected
