"""What receivers have of withdrawn images is named in rejection notes of ours.

One per reason and patient: under a corrected identity a study may have had several.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
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
from models.storage import Store
from worker.equipment import ObjectContext, to_bytes
from worker.leases import held
from worker.rejection import build_rejection_note
from worker.results import Product, ResultStore


@dataclass(frozen=True)
class _Object:
    """One object of ours that a note is to name."""

    artifact_id: int
    reason: Reason
    header: Dataset

    @property
    def patient(self) -> tuple[str, str]:
        """PatientID and its issuer, as the receiver has them."""
        header = self.header
        return str(header.get("PatientID", "")), str(header.get("IssuerOfPatientID", ""))


@dataclass(frozen=True)
class _Wanted:
    """One note to make: why, and about which objects of one patient."""

    reason: Reason
    objects: tuple[_Object, ...]


@dataclass(frozen=True)
class _Note:
    """One note that was made, before its rows."""

    wanted: _Wanted
    number: int
    product: Product


def store_notes(
    job: Job, store: ResultStore, database: Database, artifacts: Store, context: ObjectContext
) -> int:
    """Make the rejection notes that the study of a report job lacks; return how many.

    Reports are named only when no analysed image is left: else the next one replaces them.
    Raises LeaseLostError.
    """
    study_id = job.study_id or 0
    with database.read() as session:
        rows = untold(session, study_id, with_reports=not newest_analyses(session, study_id))
        untold_files = [
            (row.artifact_id, Reason(row.reason), _path(artifacts, row.artifact)) for row in rows
        ]
        number = _count(session, study_id)
    wanted = _wanted(
        [
            _Object(key, reason, dcmread(path, stop_before_pixels=True))
            for key, reason, path in untold_files
        ]
    )
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


def _path(artifacts: Store, artifact: Artifact) -> Path:
    return artifacts.path_of(artifact.storage_key, artifact.purged_at)


def _wanted(objects: Sequence[_Object]) -> list[_Wanted]:
    """Group by reason and patient: no note speaks of two."""
    groups = sorted({(each.reason, each.patient) for each in objects})
    return [
        _Wanted(
            reason,
            tuple(each for each in objects if (each.reason, each.patient) == (reason, patient)),
        )
        for reason, patient in groups
    ]


def _count(session: Session, study_id: int) -> int:
    query = select(func.count()).where(
        Artifact.study_id == study_id, Artifact.kind == ArtifactKind.KO
    )
    return session.scalar(query) or 0


def _note(wanted: _Wanted, number: int, context: ObjectContext) -> _Note:
    objects = [each.header for each in wanted.objects]
    ds = build_rejection_note(objects, wanted.reason, number, context)
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID)
    return _Note(wanted, number, Product(ArtifactKind.KO, to_bytes(ds), ".dcm", *uids))


def _name(session: Session, study: Study, artifact: Artifact, note: _Note) -> None:
    """Record what the note names: nothing of it is named again."""
    ids = [each.artifact_id for each in note.wanted.objects]
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
