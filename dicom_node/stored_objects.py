"""Which stored object an image or a study has now: found by its row, or why there is none."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.audit import AuditAction, AuditEvent
from models.imaging import SET_ASIDE, Instance, Series, Study
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact
from models.states import ArtifactKind, InstanceState


@dataclass(frozen=True)
class StoredObject:
    """An object with whom it is about; without `artifact`, `missing` says why."""

    artifact: Artifact | None = None
    missing: str = ""
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None
    patient_id: str | None = None


def image_object(session: Session, sop_instance_uid: str, kind: ArtifactKind) -> StoredObject:
    """Return the object of that kind of the image's analysis that counts.

    What is not analysed, or was withdrawn, has none that may be shown.
    """
    query = select(Instance, Study).join(Series, Instance.series_id == Series.id)
    query = query.join(Study, Series.study_id == Study.id)
    live = (Instance.sop_instance_uid == sop_instance_uid, Instance.state.not_in(SET_ASIDE))
    row = session.execute(query.where(*live)).one_or_none()
    if row is None:
        return StoredObject(missing="there is no image with this SOP Instance UID")
    instance, study = row
    if instance.state is not InstanceState.ANALYSED:
        reason = f" ({instance.reason})" if instance.reason else ""
        return StoredObject(missing=f"the image is {instance.state.value}{reason}")
    artifact = session.scalar(
        select(Artifact)
        .join(Analysis, Artifact.analysis_id == Analysis.id)
        .where(
            Analysis.instance_id == instance.id,
            Analysis.is_replaced.is_(False),
            Artifact.kind == kind,
        )
        .order_by(Analysis.id.desc())
        .limit(1)
    )
    return _stored(artifact, kind, study.study_instance_uid, sop_instance_uid, instance.patient_id)


def report_object(
    session: Session, study_instance_uid: str, revision: int | None = None
) -> StoredObject:
    """Return the SR of that revision, by default the newest one that was not taken back."""
    study = session.scalar(select(Study).where(Study.study_instance_uid == study_instance_uid))
    if study is None:
        return StoredObject(missing="there is no study with this Study Instance UID")
    query = select(Artifact).where(Artifact.study_id == study.id, Artifact.kind == ArtifactKind.SR)
    if revision is not None:
        query = query.where(Artifact.revision == revision)
    else:
        query = query.where(Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)))
    artifact = session.scalar(query.order_by(Artifact.revision.desc()).limit(1))
    uid = artifact.sop_instance_uid if artifact else None
    patient_id = (uid and _patient_in(session, study_instance_uid, uid)) or study.patient_id
    return _stored(artifact, ArtifactKind.SR, study_instance_uid, uid, patient_id)


def _patient_in(session: Session, study_instance_uid: str, sop_instance_uid: str) -> str | None:
    """Return the patient that a report names: the study may have been corrected since."""
    return session.scalar(
        select(AuditEvent.patient_id)
        .where(
            AuditEvent.study_instance_uid == study_instance_uid,
            AuditEvent.sop_instance_uid == sop_instance_uid,
            AuditEvent.action == AuditAction.REPORT_STORED,
        )
        .order_by(AuditEvent.at, AuditEvent.id)
        .limit(1)
    )


def _stored(
    artifact: Artifact | None,
    kind: ArtifactKind,
    study_instance_uid: str,
    sop_instance_uid: str | None,
    patient_id: str | None,
) -> StoredObject:
    missing = ""
    if artifact is None:
        missing = f"there is no {kind.value} of it"
    elif artifact.purged_at is not None:
        artifact, missing = None, f"retention removed its {kind.value}"
    return StoredObject(artifact, missing, study_instance_uid, sop_instance_uid, patient_id)
