"""What an operator does about an object in quarantine: look, release, correct, reject.

Each act is one transaction with its audit event. The bytes in the spool are never changed: a
correction is data of the row, which the worker puts over the header when it makes objects.
"""

import os
import pwd
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from dicom_node.errors import LostRaceError, OperatorError
from dicom_node.identity_update import (
    live_row,
    lock_studies,
    makes_a_second_patient,
    take_place,
)
from models.audit import AuditAction, record
from models.base import utc_now
from models.imaging import IN_QUARANTINE, Instance, Series, Study
from models.reasons import SENTENCES, Reason
from models.rejection import rejected_before
from models.session import Database
from models.settings import Settings
from models.states import InstanceState

_ACTOR_LENGTH = 64
_RACE = "something else changed the object or its study at the same moment: look again"


@dataclass(frozen=True)
class Operator:
    """Who acts, and why. The reason is free text and may name a patient: it stands apart."""

    name: str
    why: str

    @classmethod
    def of_this_process(cls, why: str) -> "Operator":
        """Return the user of the operating system who runs the command."""
        try:
            name = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:
            name = str(os.getuid())
        behind = os.environ.get("SUDO_USER")
        return cls(f"{behind} as {name}" if behind else name, why)


@dataclass(frozen=True)
class QuarantineFilter:
    """Which objects to list; None means any."""

    study_instance_uid: str | None = None
    patient_id: str | None = None
    with_rejected: bool = False
    after: int | None = None  # ids above this one, for the next page
    limit: int | None = None


def objects(session: Session, wanted: QuarantineFilter) -> Iterator[dict[str, Any]]:
    """Yield one JSON-ready row per object in quarantine, oldest first."""
    query = select(Instance).join(Series).join(Study)
    query = query.where(text(IN_QUARANTINE)).order_by(Instance.id).limit(wanted.limit)
    if wanted.study_instance_uid is not None:
        query = query.where(Study.study_instance_uid == wanted.study_instance_uid)
    if wanted.patient_id is not None:
        query = query.where(Instance.patient_id == wanted.patient_id)
    if wanted.after is not None:
        query = query.where(Instance.id > wanted.after)
    if not wanted.with_rejected:
        query = query.where(Instance.reason != Reason.REJECTED_BY_OPERATOR.value)
    for instance in session.scalars(query):
        yield _row(instance)


def details(session: Session, settings: Settings, instance_id: int) -> dict[str, Any]:
    """Return all that is known of one object, and of what else has its SOP Instance UID.

    Raises OperatorError when there is no such object.
    """
    instance = session.get(Instance, instance_id)
    if instance is None:
        msg = f"there is no object {instance_id}: `dicom-node quarantine list` shows the numbers"
        raise OperatorError(msg)
    same_uid = select(Instance).where(
        Instance.sop_instance_uid == instance.sop_instance_uid, Instance.id != instance.id
    )
    study = instance.series.study
    return _row(instance) | {
        "study_patient_id": study.patient_id,
        "sop_class_uid": instance.sop_class_uid,
        "transfer_syntax_uid": instance.transfer_syntax_uid,
        "data_set_sha256": instance.data_set_sha256,
        "path": settings.image_store.name(instance.storage_key),
        "compared": instance.decided_at is not None,
        "correction": instance.correction or {},
        "same_sop_instance_uid": [
            f"{row.id} {row.state.value}" for row in session.scalars(same_uid.order_by(Instance.id))
        ],
    }


def _row(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.id,
        "received_at": instance.received_at.isoformat(timespec="milliseconds"),
        "calling_aet": instance.calling_aet,
        "status": instance.state.value,
        "reason": instance.reason,
        "detail": instance.detail,
        "patient_id": instance.patient_id,
        "issuer_of_patient_id": instance.issuer_of_patient_id,
        "study_instance_uid": instance.series.study.study_instance_uid,
        "series_instance_uid": instance.series.series_instance_uid,
        "sop_instance_uid": instance.sop_instance_uid,
    }


def release(
    database: Database,
    settings: Settings,
    instance_id: int,
    operator: Operator,
    *,
    replace: bool = False,
) -> None:
    """Have the object analysed as it is; with `replace` in place of the one that has its UID.

    Raises OperatorError when it is in no quarantine, when its UID is taken, or when its study
    belongs to another patient.
    """
    _end(database, settings, instance_id, operator, None, replace=replace)


def correct(
    database: Database,
    settings: Settings,
    instance_id: int,
    operator: Operator,
    correction: Mapping[str, str],
    *,
    replace: bool = False,
) -> None:
    """Have the object analysed under the identity in `correction` (keywords of the standard).

    Raises OperatorError as `release` does.
    """
    _end(database, settings, instance_id, operator, correction, replace=replace)


def reject(database: Database, instance_id: int, operator: Operator) -> None:
    """Leave the object in quarantine for good: it waits for nobody any more.

    A release is still possible. Raises OperatorError when it is in no quarantine.
    """
    with database.write() as session:
        instance = _quarantined(session, instance_id)
        lock_studies(session, instance)
        _require_quarantine(instance)
        before = instance.reason
        instance.reason = Reason.REJECTED_BY_OPERATOR.value
        instance.detail = SENTENCES[Reason.REJECTED_BY_OPERATOR]
        instance.decided_at = utc_now()
        _record(session, instance, "rejected", operator, before, None)


def apply_correction(instance: Instance, correction: Mapping[str, str]) -> None:
    """Put an identity over that of the file; what a worker read of the header is void."""
    instance.correction = {**(instance.correction or {}), **correction}
    instance.patient_id = correction["PatientID"]
    instance.issuer_of_patient_id = correction["IssuerOfPatientID"] or None
    instance.identity_revision += 1
    instance.header_sha256 = None


def _end(
    database: Database,
    settings: Settings,
    instance_id: int,
    operator: Operator,
    correction: Mapping[str, str] | None,
    *,
    replace: bool,
) -> None:
    try:
        with database.write() as session:
            instance = _quarantined(session, instance_id)
            live = live_row(session, instance.sop_instance_uid)
            lock_studies(session, instance, live)
            _require_quarantine(instance)
            _require_place(session, instance, live, replace=replace)
            before, patient_id = instance.reason, instance.patient_id
            if correction is not None:
                apply_correction(instance, correction)
            _require_patient(instance, live)
            take_place(session, settings, instance, live)
            outcome = "released" if correction is None else "corrected"
            _record(session, instance, outcome, operator, before, patient_id)
    except (LostRaceError, IntegrityError) as error:
        raise OperatorError(_RACE) from error


def _quarantined(session: Session, instance_id: int) -> Instance:
    instance = session.get(Instance, instance_id)
    if instance is None:
        msg = f"there is no object {instance_id}: `dicom-node quarantine list` shows the numbers"
        raise OperatorError(msg)
    return instance


def _require_quarantine(instance: Instance) -> None:
    if instance.state is not InstanceState.QUARANTINED:
        msg = f"object {instance.id} is not in quarantine but {instance.state.value}"
        raise OperatorError(msg)


def _require_place(
    session: Session, instance: Instance, live: Instance | None, *, replace: bool
) -> None:
    rejected = rejected_before(session, instance.series.study_id, instance.sop_instance_uid)
    if rejected is not None:
        msg = f"a rejection note of the sender names object {instance.id} ({rejected.value})"
    elif live is None:
        return
    elif not replace:
        msg = (
            f"object {live.id} ({live.state.value}) already counts for the SOP Instance UID of "
            f"object {instance.id}: reject it, or put it in that place with --replace"
        )
    elif live.state is InstanceState.QUEUED or (
        live.state is InstanceState.WITHDRAWN and live.reason != Reason.REJECTED_RETENTION.value
    ):
        msg = f"object {live.id} is {live.state.value} and cannot be replaced now"
    else:
        return
    raise OperatorError(msg)


def _require_patient(instance: Instance, live: Instance | None) -> None:
    """Refuse a second patient in a study, unless the one that is replaced makes room for it."""
    if makes_a_second_patient(instance, live):
        msg = (
            f"the study of object {instance.id} has another patient: give that identity with "
            "`dicom-node quarantine correct`, or reject the object"
        )
        raise OperatorError(msg)


def _record(
    session: Session,
    instance: Instance,
    outcome: str,
    operator: Operator,
    reason: str | None,
    patient_id: str | None,
) -> None:
    record(
        session,
        AuditAction.QUARANTINE_ENDED,
        outcome,
        actor=operator.name[:_ACTOR_LENGTH],
        study_instance_uid=instance.series.study.study_instance_uid,
        sop_instance_uid=instance.sop_instance_uid,
        details={
            "by": operator.name,
            "instance": instance.id,
            "reason": reason,
            "replaces": instance.supersedes_id,
            "identity_revision": instance.identity_revision,
        },
        patient={
            "why": operator.why,
            "patient_id": instance.patient_id,
            "patient_id_before": patient_id,
            "correction": instance.correction,
        },
    )
