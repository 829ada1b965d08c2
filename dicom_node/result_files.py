"""The stored objects of many analyses at once, with where each was sent: one query per table."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.delivery import Delivery, Destination
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact, ReportedAnalysis
from models.settings import Settings
from models.states import MESSAGES, ArtifactKind


@dataclass(frozen=True)
class Subject:
    """An analysis, and the study that its image is in."""

    analysis: Analysis
    study_id: int


def files_of(
    session: Session, settings: Settings, subjects: Sequence[Subject]
) -> dict[int, list[dict[str, Any]]]:
    """Return the artifacts of each analysis, the newest SR that speaks of it, our note.

    With the SR its page and messages. What is sent comes with its deliveries. The key is the id of
    the analysis.
    """
    ids = [each.analysis.id for each in subjects]
    own = _own(session, ids)
    reports = _reports(session, subjects)
    pages = _pages(session, {row.study_id for row in reports.values()})
    notes = _notes(session, [row.id for rows in own.values() for row in rows])
    found: dict[int, list[Artifact]] = {}
    for key in ids:
        report = reports.get(key)
        found[key] = [
            *own[key],
            *([report] if report else []),
            *(pages[report.study_id, report.revision] if report else []),
            *dict.fromkeys(note for row in own[key] for note in notes[row.id]),
        ]
    sent = _deliveries(session, {row.id for rows in found.values() for row in rows})
    return {key: [_file(settings, row, sent) for row in rows] for key, rows in found.items()}


def _own(session: Session, ids: Sequence[int]) -> dict[int | None, list[Artifact]]:
    query = select(Artifact).where(Artifact.analysis_id.in_(ids)).order_by(Artifact.id)
    found: dict[int | None, list[Artifact]] = defaultdict(list)
    for row in session.scalars(query):
        found[row.analysis_id].append(row)
    return found


def _reports(session: Session, subjects: Sequence[Subject]) -> dict[int, Artifact]:
    """Return the newest report of the image's own study that speaks of each analysis."""
    study_of = {each.analysis.id: each.study_id for each in subjects}
    query = (
        select(ReportedAnalysis.analysis_id, Artifact)
        .join(Artifact, ReportedAnalysis.artifact_id == Artifact.id)
        .where(ReportedAnalysis.analysis_id.in_(study_of))
        .order_by(Artifact.revision)
    )
    return {
        analysis_id: row
        for analysis_id, row in session.execute(query)
        if row.study_id == study_of[analysis_id]
    }


def _pages(
    session: Session, study_ids: Iterable[int | None]
) -> dict[tuple[int | None, int | None], list[Artifact]]:
    """Return what else tells of a study revision: the page, the messages."""
    kinds = (ArtifactKind.PDF, *MESSAGES)
    query = select(Artifact).where(Artifact.study_id.in_(study_ids), Artifact.kind.in_(kinds))
    found: dict[tuple[int | None, int | None], list[Artifact]] = defaultdict(list)
    for row in session.scalars(query.order_by(Artifact.id)):
        found[row.study_id, row.revision].append(row)
    return found


def _notes(session: Session, artifact_ids: Sequence[int]) -> dict[int, list[Artifact]]:
    """Return our rejection notes by the object that they take back."""
    query = (
        select(WithdrawnArtifact.artifact_id, Artifact)
        .join(Artifact, WithdrawnArtifact.note_id == Artifact.id)
        .where(WithdrawnArtifact.artifact_id.in_(artifact_ids))
        .order_by(Artifact.id)
    )
    found: dict[int, list[Artifact]] = defaultdict(list)
    for artifact_id, note in session.execute(query):
        found[artifact_id].append(note)
    return found


def _deliveries(session: Session, artifact_ids: Iterable[int]) -> dict[int, list[dict[str, Any]]]:
    query = (
        select(Delivery, Destination)
        .join(Destination, Delivery.destination_id == Destination.id)
        .where(Delivery.artifact_id.in_(artifact_ids))
        .order_by(Delivery.id)
    )
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for delivery, destination in session.execute(query):
        found[delivery.artifact_id].append(
            {
                "id": delivery.id,
                "destination": destination.name,
                "state": delivery.state.value,
                "status": delivery.status,
                "attempts": delivery.attempts,
                "error": delivery.error,
            }
        )
    return found


def _file(
    settings: Settings, artifact: Artifact, sent: dict[int, list[dict[str, Any]]]
) -> dict[str, Any]:
    is_sent = artifact.sop_instance_uid is not None or artifact.kind in MESSAGES
    return {
        "kind": artifact.kind.value,
        "path": settings.artifact_store.name(artifact.storage_key),
        "sop_instance_uid": artifact.sop_instance_uid,
        "sha256": artifact.sha256,
        "purged": artifact.purged_at is not None,
        "deliveries": sent[artifact.id] if is_sent else [],
    }
