"""A study is claimed, given back, read. Each act is one transaction with its audit event.

Of two readers who claim a study at the same moment one wins: the study is locked, and the change
names the state it changes. The web, the API and Unified Procedure Steps all act through here.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from dicom_node.errors import ReadingError, UnknownStudyError
from models.audit import AuditAction, record
from models.base import advance, utc_now
from models.fields import ae_title_of
from models.imaging import Study
from models.reading import Reading, open_reading, reading_of
from models.rejection import WithdrawnArtifact
from models.result import Artifact
from models.states import ArtifactKind, ReadingState
from models.workitem import follow

AE_PREFIX = "AE:"  # of the name of a reader that is an AE
_CHANGED = "somebody else changed the reading of this study at the same moment: look again"


@dataclass(frozen=True)
class Reader:
    """Who acts: an account by its name, or an AE. An operator may act for another reader."""

    name: str
    is_operator: bool = False
    calling_aet: str | None = None

    @classmethod
    def of_ae(cls, calling_aet: str) -> "Reader":
        """Return an AE as a reader; no account has its name."""
        return cls(f"{AE_PREFIX}{calling_aet}", calling_aet=calling_aet)

    @property
    def ae_title(self) -> str:
        """The AE title under which other systems hear of it."""
        return self.calling_aet or ae_title_of(self.name, "WEB")

    @property
    def of_event(self) -> dict[str, Any]:
        """Who it is, as columns of an audit event."""
        actor = None if self.calling_aet else self.name
        return {"actor": actor, "calling_aet": self.calling_aet}


def claim(
    session: Session, study_instance_uid: str, reader: Reader, transaction_uid: str | None = None
) -> Reading:
    """Give the study to `reader`; nothing changes where the same one has it already.

    `transaction_uid` is the Locking UID of an AE that claims it as a workitem.

    Raises UnknownStudyError, and ReadingError when it is claimed by another, or read.
    """
    study = locked_study(session, study_instance_uid)
    reading = reading_of(session, study)
    if study.reading_state is ReadingState.CLAIMED and reading.claimed_by == reader.name:
        return reading
    if study.reading_state is not ReadingState.UNREAD:
        raise ReadingError(_why_not_unread(study, reading))
    _advance(session, study, ReadingState.CLAIMED)
    follow(session, study, reader.name, transaction_uid)
    reading.claimed_by, reading.claimed_at = reader.name, utc_now()
    _note_what_is_seen(session, study, reading)
    _record(session, AuditAction.STUDY_CLAIMED, "claimed", study, reading, reader)
    return reading


def release(session: Session, study_instance_uid: str, reader: Reader) -> None:
    """Give a claimed study back to the unread ones. An operator may do so for another reader.

    Raises UnknownStudyError, and ReadingError when it is not claimed, or by another.
    """
    study = locked_study(session, study_instance_uid)
    reading = reading_of(session, study)
    if study.reading_state is not ReadingState.CLAIMED:
        msg = (
            f"the study is {study.reading_state.value}, not claimed: there is nothing to give back"
        )
        raise ReadingError(msg)
    is_own = reading.claimed_by == reader.name
    if not is_own and not reader.is_operator:
        msg = (
            f"{reading.claimed_by} has claimed the study: ask them, or an operator, to give it back"
        )
        raise ReadingError(msg)
    _advance(session, study, ReadingState.UNREAD)
    follow(session, study)
    outcome = "given_back" if is_own else "forced"
    _record(session, AuditAction.STUDY_RELEASED, outcome, study, reading, reader)
    reading.claimed_by = reading.claimed_at = None


def read(
    session: Session, study_instance_uid: str, reader: Reader, revision: int | None = None
) -> Reading:
    """End the reading of a study, claimed by `reader` or by nobody; nothing changes when it has.

    `revision` is that of the report which the reader saw, 0 for none: where a newer one came
    meanwhile, it must be looked at first.
    Raises UnknownStudyError, and ReadingError when another reader has it, or a newer report came.
    """
    study = locked_study(session, study_instance_uid)
    reading = reading_of(session, study)
    if study.reading_state is ReadingState.READ and reading.read_by == reader.name:
        return reading
    is_own = study.reading_state is ReadingState.CLAIMED and reading.claimed_by == reader.name
    if study.reading_state is not ReadingState.UNREAD and not is_own:
        raise ReadingError(_why_not_unread(study, reading))
    if revision is not None and revision < newest_revision(session, study.id):
        msg = "a newer report of this study has come: look at it first"
        raise ReadingError(msg)
    _advance(session, study, ReadingState.READ)
    follow(session, study, reader.name)
    reading.read_by, reading.read_at = reader.name, utc_now()
    _note_what_is_seen(session, study, reading)
    _record(session, AuditAction.STUDY_READ, "read", study, reading, reader)
    return reading


def unread(session: Session, study_instance_uid: str, reader: Reader) -> None:
    """Open a reading again that its reader, or an operator, ended by mistake.

    Raises UnknownStudyError, and ReadingError when it is not read, or by another.
    """
    study = locked_study(session, study_instance_uid)
    reading = reading_of(session, study)
    if study.reading_state is not ReadingState.READ:
        msg = f"the study is {study.reading_state.value}, not read: there is nothing to open again"
        raise ReadingError(msg)
    if reading.read_by != reader.name and not reader.is_operator:
        msg = f"{reading.read_by} has read the study: ask them, or an operator, to open it again"
        raise ReadingError(msg)
    open_reading(session, study, "by_reader", actor=reader.of_event["actor"])


def locked_study(session: Session, study_instance_uid: str) -> Study:
    """Return the study, which nobody else changes until the transaction ends.

    Raises UnknownStudyError.
    """
    query = select(Study).where(Study.study_instance_uid == study_instance_uid)
    study = session.scalar(query.with_for_update())
    if study is None:
        raise UnknownStudyError
    return study


def newest_revision(session: Session, study_id: int) -> int:
    """Return the revision of the newest report that was not taken back; 0 without one."""
    query = select(func.max(Artifact.revision)).where(
        Artifact.study_id == study_id,
        Artifact.kind == ArtifactKind.SR,
        Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)),
    )
    return session.scalar(query) or 0


def _advance(session: Session, study: Study, to: ReadingState) -> None:
    if not advance(session, study, to):
        raise ReadingError(_CHANGED)


def _note_what_is_seen(session: Session, study: Study, reading: Reading) -> None:
    reading.revision = newest_revision(session, study.id)
    reading.percent, reading.severity = study.opacity_percent, study.severity
    reading.reopened_at = None


def _why_not_unread(study: Study, reading: Reading) -> str:
    if study.reading_state is ReadingState.READ:
        return f"{reading.read_by} has read the study already"
    return f"{reading.claimed_by} has claimed the study: choose another one"


def _record(
    session: Session,
    action: AuditAction,
    outcome: str,
    study: Study,
    reading: Reading,
    reader: Reader,
) -> None:
    record(
        session,
        action,
        outcome,
        **reader.of_event,
        study_instance_uid=study.study_instance_uid,
        details={
            "revision": reading.revision,
            "percent": reading.percent,
            "claimed_by": reading.claimed_by,
        },
        patient={"patient_id": study.patient_id},
    )
