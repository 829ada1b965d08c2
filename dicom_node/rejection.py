"""Rejection notes (IHE RAD TF-3 4.66): what one takes back, and where our own answer goes.

Rows only, under the lock of the study: intake takes the same lock, so an image and the note about
it cannot miss each other, whichever comes first.
"""

import logging
from collections.abc import Collection, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.errors import KeyObjectError
from dicom_node.key_object import RejectionNote, read_rejection_note
from dicom_node.spool import Spool
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.delivery import Delivery, Destination
from models.imaging import Instance, Series, Study
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.rejection import (
    KeyObject,
    RejectedReference,
    WithdrawnArtifact,
    receivers_of_note,
    record_withdrawal,
)
from models.result import Analysis, Artifact, ReportedAnalysis, newest_analyses, set_figure
from models.session import Database
from models.settings import Settings
from models.states import (
    MESSAGES,
    ArtifactKind,
    DeliveryState,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)

log = logging.getLogger(__name__)

_BATCH = 50
_WAITING = (InstanceState.RECEIVED, InstanceState.QUEUED)
# In quarantine it may be another patient's; the others count no more already.
_UNTOUCHED = (InstanceState.QUARANTINED, InstanceState.SUPERSEDED, InstanceState.WITHDRAWN)
_DETAIL_LENGTH = 400


def read_key_objects(database: Database, spool: Spool) -> int:
    """Read every key object that came in, and do what the rejection notes among them say.

    Return how many were read. One whose file cannot be opened is tried again, and holds up no
    other one.
    """
    with database.read() as session:
        query = select(KeyObject.id).where(KeyObject.read_at.is_(None))
        waiting = session.scalars(query.order_by(KeyObject.id)).all()
    done, unopened = 0, []
    for key in waiting:
        try:
            done += _read(database, spool, key)
        except OSError as error:
            unopened.append(f"{key} ({type(error).__name__})")
        if done == _BATCH:
            break
    if unopened:
        log.error("%d key objects cannot be opened, first %s", len(unopened), unopened[0])
    return done


def _read(database: Database, spool: Spool, key: int) -> bool:
    with database.read() as session:
        instance = session.get_one(KeyObject, key).instance
        path, syntax = spool.path(instance.storage_key), instance.transfer_syntax_uid
        study_uid = instance.series.study.study_instance_uid
    note, problem = None, None
    try:
        note = read_rejection_note(path, syntax, study_uid)
    except KeyObjectError as error:
        problem = str(error)
        log.error("key object %d: %s", key, problem)  # noqa: TRY400  expected, no traceback
    with database.write() as session:
        study_id = session.get_one(KeyObject, key).study_id
        study = session.get_one(Study, study_id, with_for_update=True)
        key_object = session.get_one(KeyObject, key, populate_existing=True)
        if key_object.read_at is not None:
            return False  # another dispatcher was faster
        key_object.read_at = utc_now()
        if problem is not None:
            _set_aside(session, study, key_object, problem)
        if note is not None:
            _obey(session, study, key_object, note)
    return True


def _set_aside(session: Session, study: Study, key_object: KeyObject, problem: str) -> None:
    """Show a key object that cannot be read: it may have been a rejection note."""
    instance = key_object.instance
    instance.reason, instance.detail = Reason.UNREADABLE.value, problem[:_DETAIL_LENGTH]
    _record_note(session, study, key_object, "unreadable", {"problem": problem})


def _obey(session: Session, study: Study, key_object: KeyObject, note: RejectionNote) -> None:
    key_object.reason = note.reason.value
    session.add_all(
        RejectedReference(key_object_id=key_object.id, sop_instance_uid=uid)
        for uid in sorted(note.references)
    )
    withdrawn = _withdraw(session, study, key_object, note)
    key_object.instance.detail = f"A rejection note ({note.reason.value})."
    figures: dict[str, object] = {
        "reason": note.reason.value,
        "references": len(note.references),
        "elsewhere": note.elsewhere,
        "withdrawn": withdrawn,
    }
    _record_note(session, study, key_object, "obeyed", figures)
    log.info("key object %d: %s, %d images withdrawn", key_object.id, note.reason.value, withdrawn)


def _record_note(
    session: Session, study: Study, key_object: KeyObject, outcome: str, details: dict[str, object]
) -> None:
    record(
        session,
        AuditAction.REJECTION_NOTE,
        outcome,
        calling_aet=key_object.instance.calling_aet,
        study_instance_uid=study.study_instance_uid,
        sop_instance_uid=key_object.instance.sop_instance_uid,
        details=details,
    )


def _withdraw(session: Session, study: Study, key_object: KeyObject, note: RejectionNote) -> int:
    """Withdraw the images that the note names and the node holds; return how many they are."""
    ids = _named(session, study, note)
    # Job before instance, the order in which workers lock them.
    _cancel_jobs(session, ids, note.reason)
    fresh = select(Instance).where(Instance.id.in_(ids)).order_by(Instance.id)
    taken = 0
    for instance in session.scalars(fresh.execution_options(populate_existing=True)).all():
        was = instance.state
        if not _is_taken_back(was, note.reason) or not advance(
            session,
            instance,
            InstanceState.WITHDRAWN,
            reason=note.reason.value,
            detail=SENTENCES[note.reason],
        ):
            continue
        taken += 1
        record_withdrawal(session, study, instance, {"key_object": key_object.id, "was": was.value})
    if note.reason is not Reason.REJECTED_RETENTION:
        take_back(session, study, note.references, note.reason)
    return taken


def _named(session: Session, study: Study, note: RejectionNote) -> list[int]:
    """Return the ids of the instances that the note is about, our own results left out."""
    query = (
        select(Instance.id, Instance.sop_instance_uid)
        .join(Series)
        .where(
            Series.study_id == study.id,
            Instance.state.not_in(_UNTOUCHED),
            func.coalesce(Instance.reason, "") != Reason.OWN_RESULT.value,
        )
    )
    return [key for key, uid in session.execute(query) if uid in note.references]


def _is_taken_back(state: InstanceState, reason: Reason) -> bool:
    """Say whether the note changes an instance: an expired retention says nothing of results."""
    if reason is Reason.REJECTED_RETENTION:
        return state in _WAITING
    return state not in _UNTOUCHED


def _cancel_jobs(session: Session, instance_ids: Sequence[int], reason: Reason) -> None:
    """End what is queued or running; a worker that has one stores nothing (worker.leases.held)."""
    query = (
        select(Job)
        .where(
            Job.instance_id.in_(instance_ids),
            Job.kind == JobKind.ANALYSE,
            Job.state.in_((JobState.PENDING, JobState.LEASED)),
        )
        .order_by(Job.id)
        .with_for_update()
    )
    for job in session.scalars(query).all():
        advance(session, job, JobState.CANCELLED, finished_at=utc_now(), error=reason.value)


def take_back(session: Session, study: Study, uids: Collection[str], reason: Reason) -> None:
    """Stop sending what speaks of images that count no more, and have the study reported again.

    What was made of an earlier version of an image under the same UID goes with it, also where the
    image has moved to another study. What was taken back before stays as it is.
    """
    gone = (InstanceState.WITHDRAWN, InstanceState.SUPERSEDED)
    of_study = select(Analysis.id, Instance.sop_instance_uid).join(Analysis.instance).join(Series)
    of_study = of_study.where(Series.study_id == study.id, Instance.state.in_(gone))
    analyses = [key for key, uid in session.execute(of_study) if uid in uids]
    if not _stop_sending(session, study, analyses, reason):
        return
    if study.revision:
        set_figure(study, newest_analyses(session, study.id))
    if study.state is not StudyState.OPEN:
        advance(session, study, StudyState.OPEN)


def end_replaced(session: Session, study: Study, instance_ids: Collection[int]) -> None:
    """Stop sending what speaks of images of the study as they were until now.

    No note of ours names it: the next report replaces it.
    """
    query = select(Analysis.id).where(Analysis.instance_id.in_(instance_ids))
    _stop_sending(session, study, session.scalars(query).all(), Reason.UPDATED)


def _stop_sending(
    session: Session, study: Study, analyses: Collection[int], reason: Reason
) -> bool:
    """End what is due of these analyses, and of the documents that name them; say if it was new.

    What was only replaced before may be taken back now; what was taken back stays so.
    """
    of_images = select(Artifact.id).where(
        Artifact.analysis_id.in_(analyses), Artifact.sop_instance_uid.is_not(None)
    )
    reports = select(ReportedAnalysis.artifact_id).where(ReportedAnalysis.analysis_id.in_(analyses))
    revisions = select(Artifact.revision).where(Artifact.id.in_(reports))
    documents = select(Artifact.id).where(  # the reports, and what was made of them
        Artifact.study_id == study.id,
        Artifact.revision.in_(revisions),
        Artifact.kind != ArtifactKind.KO,
        Artifact.sop_instance_uid.is_not(None) | Artifact.kind.in_(MESSAGES),
    )
    found = {*session.scalars(of_images), *session.scalars(documents)}
    known = select(WithdrawnArtifact).where(WithdrawnArtifact.artifact_id.in_(found))
    before = {row.artifact_id: row for row in session.scalars(known)}
    replaced = [row for row in before.values() if row.reason == Reason.UPDATED.value != reason]
    for row in replaced:
        row.reason = reason.value
    new = sorted(found - before.keys())
    session.add_all(
        WithdrawnArtifact(artifact_id=key, study_id=study.id, reason=reason.value) for key in new
    )
    due = select(Delivery).where(Delivery.artifact_id.in_(new), Delivery.state == DeliveryState.DUE)
    for delivery in session.scalars(due).all():
        _end(session, delivery, reason)
    return bool(new or replaced)


def _end(session: Session, delivery: Delivery, reason: Reason) -> None:
    is_replaced = reason is Reason.UPDATED
    error = "its image was corrected" if is_replaced else "its image was rejected"
    advance(session, delivery, DeliveryState.WITHDRAWN, error=error)


def end_if_withdrawn(session: Session, delivery: Delivery) -> bool:
    """End a due delivery whose object was withdrawn while it was on its way; say whether it was."""
    withdrawn = session.get(WithdrawnArtifact, delivery.artifact_id)
    if withdrawn is None:
        return False
    if delivery.state is DeliveryState.DUE:
        _end(session, delivery, Reason(withdrawn.reason))
    return True


def plan_notes(session: Session, settings: Settings, study: Study) -> int:
    """Make our rejection notes of a study due where what they name may be; return how many."""
    notes = select(Artifact.id).where(
        Artifact.study_id == study.id, Artifact.kind == ArtifactKind.KO
    )
    planned = 0
    for note_id in session.scalars(notes).all():
        known = select(Delivery.destination_id).where(Delivery.artifact_id == note_id)
        wanted = receivers_of_note(session, note_id) - set(session.scalars(known))
        query = select(Destination.id).where(
            Destination.enabled,
            Destination.id.in_(wanted),
            Destination.name.in_(settings.destinations_with_notes),
        )
        new = session.scalars(query).all()
        session.add_all(Delivery(artifact_id=note_id, destination_id=key) for key in new)
        planned += len(new)
    return planned
