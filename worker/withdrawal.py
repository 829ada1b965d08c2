"""What receivers have of withdrawn images is named in rejection notes of ours, one per reason."""

from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from models.audit import AuditAction, record
from models.imaging import Study
from models.job import Job
from models.reasons import Reason
from models.rejection import WithdrawnArtifact, untold
from models.result import Artifact, newest_analyses
from models.session import Database
from models.states import ArtifactKind
from worker.equipment import ObjectContext, to_bytes
from worker.leases import held
from worker.rejection import build_rejection_note
from worker.results import Product, ResultStore


@dataclass(frozen=True)
class _Wanted:
    """One note to make: why, about which artifacts, and where their bytes are."""

    reason: Reason
    artifact_ids: tuple[int, ...]
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Note:
    """One note that was made, before its rows."""

    wanted: _Wanted
    number: int
    product: Product


def store_notes(
    job: Job, store: ResultStore, database: Database, artifact_dir: Path, context: ObjectContext
) -> int:
    """Make the rejection notes that the study of a report job lacks; return how many.

    Reports are named only when no analysed image is left: else the next one replaces them.
    Raises LeaseLostError.
    """
    study_id = job.study_id or 0
    with database.read() as session:
        wanted = _wanted(session, study_id, artifact_dir)
        number = _count(session, study_id)
    notes = [_note(each, place, context) for place, each in enumerate(wanted, start=number + 1)]
    if not notes:
        return 0
    with store.written([each.product for each in notes]) as batch, database.write() as session:
        held(session, job.id)
        study = session.get_one(Study, study_id)
        for note, stored in zip(notes, batch.stored, strict=True):
            artifact = stored.artifact()
            artifact.study_id, artifact.revision = study_id, note.number
            session.add(artifact)
            session.flush()
            _name(session, study, artifact, note)
        batch.complete(session)
    return len(notes)


def _wanted(session: Session, study_id: int, root: Path) -> list[_Wanted]:
    rows = untold(session, study_id, with_reports=not newest_analyses(session, study_id))
    reasons = sorted({row.reason for row in rows})
    groups = [[row for row in rows if row.reason == reason] for reason in reasons]
    return [
        _Wanted(
            Reason(group[0].reason),
            tuple(row.artifact_id for row in group),
            tuple(root / row.artifact.storage_key for row in group),
        )
        for group in groups
    ]


def _count(session: Session, study_id: int) -> int:
    query = select(func.count()).where(
        Artifact.study_id == study_id, Artifact.kind == ArtifactKind.KO
    )
    return session.scalar(query) or 0


def _note(wanted: _Wanted, number: int, context: ObjectContext) -> _Note:
    objects = [dcmread(path, stop_before_pixels=True) for path in wanted.paths]
    ds = build_rejection_note(objects, wanted.reason, number, context)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    return _Note(wanted, number, Product(ArtifactKind.KO, to_bytes(ds), ".dcm", *uids))


def _name(session: Session, study: Study, artifact: Artifact, note: _Note) -> None:
    """Record what the note names: nothing of it is named again."""
    ids = note.wanted.artifact_ids
    rows = select(WithdrawnArtifact).where(WithdrawnArtifact.artifact_id.in_(ids))
    for row in session.scalars(rows):
        row.note_id = artifact.id
    record(
        session,
        AuditAction.REJECTION_NOTE_STORED,
        note.wanted.reason.value,
        study_instance_uid=study.study_instance_uid,
        sop_instance_uid=artifact.sop_instance_uid,
        details={"number": note.number, "objects": len(ids)},
    )
