"""Every user's read of patient data is an event; what cannot be recorded is not shown.

Call it before the answer is made: an event that cannot be written raises SQLAlchemyError, which
ends the request with 503.
"""

from collections.abc import Mapping
from typing import Any

from starlette.requests import HTTPConnection

from dicom_node.web.access.gate import address_of
from dicom_node.web.auth import Principal
from models.audit import AuditAction, record
from models.session import Database


def record_read(
    database: Database,
    principal: Principal,
    connection: HTTPConnection,
    what: str,
    *,
    study_instance_uid: str | None = None,
    sop_instance_uid: str | None = None,
    patient: Mapping[str, Any] | None = None,
    **details: object,
) -> None:
    """Write who reads `what`, a code of at most 40 characters such as `study` or `image`.

    What identifies a patient goes into `patient`, as everywhere in the audit; `details` are free of
    it. When this returns the event is committed.
    """
    used = {} if principal.token_id is None else {"token": principal.token_id}
    with database.write() as session:
        record(
            session,
            AuditAction.PATIENT_DATA_READ,
            what,
            actor=principal.name,
            peer=address_of(connection),
            study_instance_uid=study_instance_uid,
            sop_instance_uid=sop_instance_uid,
            patient=dict(patient) if patient else None,
            details={**used, **details},
        )
