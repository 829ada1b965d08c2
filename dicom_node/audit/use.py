"""Who looks at patient data, or at the audit, by a command is in the audit before it is shown."""

from collections.abc import Mapping
from typing import Any, Final

from models.audit import AuditAction, record
from models.session import Database

_ABOUT_PATIENTS: Final = ("patient_id", "accession_number")


def record_use(
    database: Database,
    action: AuditAction,
    outcome: str,
    by: str,
    asked: Mapping[str, object],
    **details: object,
) -> None:
    """Write who looks for what. Values None mean that nothing was asked of that kind."""
    given: dict[str, object] = {key: value for key, value in asked.items() if value is not None}
    patient: dict[str, Any] = {key: given.pop(key) for key in _ABOUT_PATIENTS if key in given}
    study = given.pop("study_instance_uid", None)
    with database.write() as session:
        record(
            session,
            action,
            outcome,
            actor=by[:64],
            study_instance_uid=None if study is None else str(study)[:64],
            details={**{key: str(value) for key, value in given.items()}, **details},
            patient=patient,
        )
