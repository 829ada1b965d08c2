"""Two patient identities turn out to be one person: results are issued again under the one left.

Study by study, each in one transaction with its audit event, so that a run which is interrupted is
finished by the next. A study that is being analysed is left for that next run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.errors import LostRaceError, OperatorError
from dicom_node.identity_update import admit, admit_matching, reopen
from dicom_node.quarantine import Operator, apply_correction
from dicom_node.rejection import end_replaced
from models.audit import AuditAction, record
from models.imaging import SET_ASIDE, Instance, Series, Study
from models.session import Database
from models.settings import Settings
from models.states import InstanceState


class MergeOutcome(StrEnum):
    """What became of one study of a merge."""

    FOUND = "found"  # a dry run changes nothing
    MERGED = "merged"
    BUSY = "busy"  # its images are being analysed: run the merge again
    PURGED = "purged"  # images to analyse again are not here any more: have them sent again


@dataclass(frozen=True)
class PatientIdentity:
    """A Patient ID and who issued it; None where the issuer is not told (PS3.3 C.7.1.1)."""

    patient_id: str
    issuer: str | None = None


@dataclass(frozen=True)
class _Act:
    """What a merge does to each study, and who does it."""

    correction: Mapping[str, str]
    operator: Operator
    old_patient_id: str


def merge(
    database: Database,
    settings: Settings,
    old: PatientIdentity,
    correction: Mapping[str, str],
    operator: Operator,
    *,
    study_instance_uid: str | None = None,
    dry_run: bool = False,
) -> list[dict[str, Any]]:
    """Put the studies of `old` under the identity in `correction`; return one row per study.

    With `study_instance_uid` that study alone.
    `correction` holds keywords of the standard, PatientID and IssuerOfPatientID among them. A study
    that already has the new identity is not found again, so repeating the merge adds nothing.
    Raises OperatorError when both identities are one, or `old` has several issuers.
    """
    new = PatientIdentity(correction["PatientID"], correction["IssuerOfPatientID"] or None)
    if new == old:
        msg = "both identities are the same: nothing can be merged"
        raise OperatorError(msg)
    with database.read() as session:
        found = _studies(session, old, new, study_instance_uid)
    rows = []
    for study_id, uid in found:
        outcome, reissued = MergeOutcome.FOUND, None
        if not dry_run:
            act = _Act(correction, operator, old.patient_id)
            outcome, reissued = _merge_study(database, settings, study_id, act)
        rows.append(
            {
                "study_instance_uid": uid,
                "outcome": outcome.value,
                "images_reissued": reissued,
            }
        )
    return rows


def _studies(
    session: Session, old: PatientIdentity, new: PatientIdentity, only: str | None
) -> Sequence[tuple[int, str]]:
    query = select(Study).where(Study.patient_id == old.patient_id).order_by(Study.id)
    if only is not None:
        query = query.where(Study.study_instance_uid == only)
    if old.issuer is not None:
        query = query.where(Study.issuer_of_patient_id == old.issuer)
    studies = [
        study
        for study in session.scalars(query)
        if PatientIdentity(old.patient_id, study.issuer_of_patient_id) != new
    ]
    if len({study.issuer_of_patient_id for study in studies}) > 1:
        msg = (
            "the studies of this PatientID have several issuers, which may be several people: "
            "say whose is meant with --from-issuer"
        )
        raise OperatorError(msg)
    return [(study.id, study.study_instance_uid) for study in studies]


def _merge_study(
    database: Database, settings: Settings, study_id: int, act: _Act
) -> tuple[MergeOutcome, int | None]:
    try:
        with database.write() as session:
            study = session.get_one(Study, study_id, with_for_update=True)
            if study.patient_id != act.old_patient_id:
                return MergeOutcome.MERGED, 0  # by another run, a moment ago
            instances = _instances(session, study)
            if any(row.state is InstanceState.QUEUED for row in instances):
                return MergeOutcome.BUSY, None
            if any(_is_missing(row) for row in instances):
                return MergeOutcome.PURGED, None
            return MergeOutcome.MERGED, _correct(session, settings, study, instances, act)
    except (LostRaceError, IntegrityError):
        return MergeOutcome.BUSY, None


def _is_missing(row: Instance) -> bool:
    return row.state is InstanceState.ANALYSED and row.purged_at is not None


def _instances(session: Session, study: Study) -> Sequence[Instance]:
    """Return what counts in the study and is under its patient."""
    return session.scalars(
        select(Instance)
        .join(Series)
        .where(Series.study_id == study.id, Instance.state.not_in(SET_ASIDE))
        .where(Instance.patient_id.is_(None) | (Instance.patient_id == study.patient_id))
        .order_by(Instance.id)
    ).all()


def _correct(
    session: Session,
    settings: Settings,
    study: Study,
    instances: Sequence[Instance],
    act: _Act,
) -> int:
    """Give every image of the study the identity; return how many are analysed again."""
    before = {"patient_id": study.patient_id, "issuer_of_patient_id": study.issuer_of_patient_id}
    reissued = 0
    end_replaced(session, study, {instance.id for instance in instances})
    for instance in instances:
        apply_correction(instance, act.correction)
        if instance.state is InstanceState.ANALYSED:
            admit(session, settings, instance)
            reissued += 1
    study.patient_id = act.correction["PatientID"]
    study.issuer_of_patient_id = act.correction["IssuerOfPatientID"] or None
    if reissued:
        reopen(session, study)
    admit_matching(session, settings, study)
    record(
        session,
        AuditAction.PATIENT_MERGED,
        "merged",
        actor=act.operator.name[:64],
        study_instance_uid=study.study_instance_uid,
        details={"by": act.operator.name, "images_reissued": reissued},
        patient={
            "why": act.operator.why,
            "patient_id": before["patient_id"],  # by the other it is found by its study
            "before": before,
            "correction": dict(act.correction),
        },
    )
    return reissued
