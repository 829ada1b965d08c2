"""The same bytes come again: they take the place of a stored file that is purged, lost or damaged.

So "have it sent again" mends whatever retention or a bad disk took. A sound file stays as it is,
and the bytes that came again are dropped by intake.
"""

from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.types import SpooledInstance
from models.audit import AuditAction, record
from models.base import utc_now
from models.imaging import Instance, Study
from models.settings import Settings

DAMAGED: Final = "damaged"  # below the spool: set aside for whoever looks into the disk


def take_bytes(
    session: Session, settings: Settings, row: Instance, spooled: SpooledInstance
) -> bool:
    """Give `row` the file of the same bytes that came again, where its own is not usable.

    Returns whether it did; in the caller's transaction, for a row with the same data set hash. The
    row gets the new file's storage key, so that a purge of the old one which is under way deletes
    nothing else. Raises OSError when a damaged file cannot be set aside.
    """
    if row.storage_key == spooled.storage_key or _fault(settings, row) is None:
        return False
    # The study before the instance, the order of everybody.
    study = Study.id == row.series.study_id
    session.scalars(select(Study.id).where(study).with_for_update()).one()
    session.refresh(row, with_for_update=True)
    why = _fault(settings, row)
    if why is None:
        return False
    if why == DAMAGED:
        # Out of the spool, where it would be taken in again as another object.
        settings.image_store.set_aside(row.storage_key, DAMAGED)
    session.execute(
        update(Instance)
        .where(Instance.id == row.id)
        .values(
            storage_key=spooled.storage_key,
            size_bytes=spooled.size_bytes,
            stored_at=utc_now(),
            purged_at=None,
            damaged_at=None,
            scrubbed_at=None,
        )
        .execution_options(synchronize_session=False)
    )
    session.refresh(row)
    record(
        session,
        AuditAction.INSTANCE_RESTORED,
        why,
        calling_aet=spooled.peer.calling_aet,
        study_instance_uid=spooled.identity.study_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        details={"instance": row.id, "size_bytes": spooled.size_bytes},
        patient={"patient_id": spooled.identity.patient_id},
    )
    return True


def _fault(settings: Settings, row: Instance) -> str | None:
    """Return what is wrong with the stored file; None when it is here with its size."""
    if row.purged_at is not None:
        return "purged"
    try:
        is_whole = settings.image_store.size(row.storage_key) == row.size_bytes
    except FileNotFoundError:
        return "missing"
    return None if is_whole and row.damaged_at is None else DAMAGED
