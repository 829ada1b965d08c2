"""The order of messages about one study at one receiver: the newest counts, and comes last.

A DICOM object of an earlier revision stands beside the newer one. A message overwrites: one that
came late would undo its correction.
"""

from sqlalchemy import ColumnElement, and_, exists, select
from sqlalchemy.orm import Session, aliased

from models.base import advance
from models.delivery import Delivery
from models.result import Artifact
from models.states import MESSAGES, DeliveryState


def is_in_order() -> ColumnElement[bool]:
    """Return the condition on Delivery and its Artifact that no older message is on its way."""
    older, sibling = aliased(Artifact), aliased(Delivery)
    on_its_way = exists(
        select(sibling.id)
        .join(older, sibling.artifact_id == older.id)
        .where(
            older.study_id == Artifact.study_id,
            older.kind == Artifact.kind,
            older.revision < Artifact.revision,
            sibling.destination_id == Delivery.destination_id,
            sibling.state == DeliveryState.SENDING,
        )
        .correlate(Delivery, Artifact)
    )
    return ~and_(Artifact.kind.in_(MESSAGES), on_its_way)


def end_if_replaced(session: Session, delivery: Delivery) -> bool:
    """End a due message that a newer one to the same receiver replaces; say whether one does."""
    artifact = delivery.artifact
    if artifact.kind not in MESSAGES:
        return False
    newer = (
        select(Delivery.id)
        .join(Artifact, Delivery.artifact_id == Artifact.id)
        .where(
            Artifact.study_id == artifact.study_id,
            Artifact.kind == artifact.kind,
            Artifact.revision > (artifact.revision or 0),
            Delivery.destination_id == delivery.destination_id,
        )
        .limit(1)
    )
    if session.scalar(newer) is None:
        return False
    if delivery.state is DeliveryState.DUE:
        advance(session, delivery, DeliveryState.WITHDRAWN, error="a newer message replaces it")
    return True
