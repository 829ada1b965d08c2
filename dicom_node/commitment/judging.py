"""Which of the instances that a sender asks about are stored here, and why others are not.

Stored: a row that counts (neither in quarantine nor superseded by a corrected one), its file on
disk with the size that was received, and no other object under the same SOP Instance UID in
quarantine as a conflict (the question names a UID and no bytes). What a rejection note withdrew is
stored all the same. What this node made itself counts as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from dicom_node.commitment.messages import (
    CLASS_CONFLICT,
    DUPLICATE_TRANSACTION,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    Failure,
    Reference,
    Report,
)
from models.base import utc_now
from models.commitment import CommitmentOrder
from models.imaging import Instance
from models.reasons import Reason
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import InstanceState
from models.storage import Store

_BLOCK: Final = 500  # UIDs in one query


@dataclass(frozen=True)
class _Version:
    """One object under a SOP Instance UID."""

    sop_class_uid: str
    store: Store
    storage_key: str
    size_bytes: int
    counts: bool = True
    is_conflict: bool = False
    is_purged: bool = False

    def is_whole(self) -> bool:
        """Say whether the file is there with its size, and stays."""
        try:
            return not self.is_purged and self.store.size(self.storage_key) == self.size_bytes
        except OSError:
            return False


def judge(database: Database, settings: Settings, order: CommitmentOrder) -> Report:
    """Return what may be said about the instances of a question now."""
    references = [Reference(*pair) for pair in order.instances]
    failures: list[Failure] = []
    if order.is_duplicate:
        failures = [Failure(each, DUPLICATE_TRANSACTION) for each in references]
        return Report(order.transaction_uid, (), tuple(failures))
    committed: list[Reference] = []
    for start in range(0, len(references), _BLOCK):
        block = references[start : start + _BLOCK]
        with database.read() as session:
            found = _versions(session, settings, [each.sop_instance_uid for each in block])
        for reference in block:
            reason = _reason(reference, found.get(reference.sop_instance_uid, []))
            if reason is None:
                committed.append(reference)
            else:
                failures.append(Failure(reference, reason))
    return Report(order.transaction_uid, tuple(committed), tuple(failures))


def promise(database: Database, report: Report) -> Report:
    """Mark what a report commits to, so that retention keeps it; call before it is sent.

    What retention took since it was judged is reported as missing.
    """
    uids = [each.sop_instance_uid for each in report.committed]
    gone: set[str] = set()
    for start in range(0, len(uids), _BLOCK):
        with database.write() as session:
            for table in (Instance, Artifact):
                gone |= _promise(session, table, uids[start : start + _BLOCK])
    if not gone:
        return report
    kept = [each for each in report.committed if each.sop_instance_uid not in gone]
    lost = [Failure(each, NO_SUCH_INSTANCE) for each in report.committed if each not in kept]
    return replace(report, committed=tuple(kept), failed=(*report.failed, *lost))


def _promise(
    session: Session, table: type[Instance] | type[Artifact], uids: Sequence[str]
) -> set[str]:
    """Mark the stored rows of these UIDs; return the UIDs that have none among purged ones."""
    named = table.sop_instance_uid.in_(uids)
    session.execute(
        update(table)
        .where(named, table.purged_at.is_(None), table.promised_at.is_(None))
        .values(promised_at=utc_now())
        .execution_options(synchronize_session=False)
    )
    purged = session.scalars(
        select(table.sop_instance_uid).where(named, table.purged_at.is_not(None))
    )
    stored = select(table.sop_instance_uid).where(named, table.purged_at.is_(None))
    return {uid for uid in purged if uid is not None} - set(session.scalars(stored))


def _reason(reference: Reference, versions: Sequence[_Version]) -> int | None:
    """Return why an instance is not committed (PS3.3 C.14.1.1); None when it is."""
    if not versions:
        return NO_SUCH_INSTANCE
    live = [each for each in versions if each.counts]
    if not live or any(each.is_conflict for each in versions):
        return PROCESSING_FAILURE  # stored, but a person must decide what it is
    if all(each.sop_class_uid != reference.sop_class_uid for each in live):
        return CLASS_CONFLICT
    return None if all(each.is_whole() for each in live) else NO_SUCH_INSTANCE


def _versions(
    session: Session, settings: Settings, uids: Sequence[str]
) -> dict[str, list[_Version]]:
    """Return every object that is recorded under each UID."""
    found: dict[str, list[_Version]] = {}
    images, artifacts = settings.image_store, settings.artifact_store
    for row in session.scalars(select(Instance).where(Instance.sop_instance_uid.in_(uids))):
        version = _Version(
            row.sop_class_uid,
            images,
            row.storage_key,
            row.size_bytes,
            counts=row.state not in {InstanceState.QUARANTINED, InstanceState.SUPERSEDED},
            is_conflict=row.state is InstanceState.QUARANTINED
            and row.reason == Reason.UID_CONFLICT.value,
            is_purged=row.purged_at is not None,
        )
        found.setdefault(row.sop_instance_uid, []).append(version)
    for artifact in session.scalars(select(Artifact).where(Artifact.sop_instance_uid.in_(uids))):
        is_purged = artifact.purged_at is not None
        made = _Version(
            artifact.sop_class_uid or "",
            artifacts,
            artifact.storage_key,
            artifact.size_bytes,
            is_purged=is_purged,
        )
        found.setdefault(artifact.sop_instance_uid or "", []).append(made)
    return found
