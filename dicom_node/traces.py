"""The node's spans: an object that was stored, and one that was offered to a receiver."""

from collections.abc import Iterable, Iterator

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.senders.base import Receiver, SendResult
from models import tracing
from models.delivery import Delivery
from models.imaging import Instance
from models.result import Analysis, Artifact, ReportedAnalysis
from models.session import Database
from models.states import StoreOutcome


def stored(storage_key: str, began: int, recording: int, size: int, outcome: StoreOutcome) -> None:
    """Note a C-STORE from its last byte to its answer, and in it the rows."""
    if not tracing.is_on():
        return
    ended = tracing.now()
    tracing.note(
        "store",
        storage_key,
        began,
        ended,
        is_root=True,
        outcome=outcome.value,
        size_bytes=size,
    )
    tracing.note("record", storage_key, recording, ended)


def offered(
    results: Iterable[SendResult], receiver: Receiver, database: Database
) -> Iterator[SendResult]:
    """Yield the results of a sender, and note how long each object took."""
    began = tracing.now()
    for result in results:
        ended = tracing.now()
        yield result
        if tracing.is_on():
            _note_offer(result, receiver, database, began, ended)
        began = tracing.now()


def _note_offer(
    result: SendResult, receiver: Receiver, database: Database, began: int, ended: int
) -> None:
    with database.read() as session:
        delivery = session.get_one(Delivery, result.delivery_id)
        kind, key = delivery.artifact.kind.value, _subject(session, delivery.artifact)
    tracing.note(
        "deliver",
        key,
        began,
        ended,
        delivery_id=result.delivery_id,
        destination=receiver.name,
        kind=kind,
        outcome=result.verdict.value,
        status=None if result.status is None else f"0x{result.status:04X}",
        attempt=delivery.attempts,
    )


def _subject(session: Session, artifact: Artifact) -> str:
    """Return the file whose trace an artifact belongs to: of a report, its first image's."""
    analysis_id = artifact.analysis_id
    if analysis_id is None:
        told = select(func.min(ReportedAnalysis.analysis_id))
        analysis_id = session.scalar(told.where(ReportedAnalysis.artifact_id == artifact.id))
    of_image = select(Instance.storage_key).join(Analysis, Analysis.instance_id == Instance.id)
    return session.scalar(of_image.where(Analysis.id == analysis_id)) or artifact.storage_key
