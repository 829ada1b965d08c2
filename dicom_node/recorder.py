"""Rows for received objects at the rate at which they come: one commit for all that wait for it.

`intake.record_instance` knows every case, one object and one transaction at a time, and takes some
milliseconds. Nearly every object is a plain one: unknown, with a patient, in a study that is open
and of the same patient, named by no rejection note. For these the same rows are written here, by
few statements, and those that arrive at the same time share a transaction. Whatever is not plain,
and whatever meets a race, goes to `record_instance`.
"""

import logging
import threading
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    Connection,
    Row,
    String,
    bindparam,
    exists,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.intake import (
    audit_values,
    detail_of,
    is_another_patient,
    judge_content,
    priority_of,
    record_instance,
)
from dicom_node.types import SpooledInstance
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance, Series, Study
from models.job import Job
from models.rejection import KEY_OBJECT, RejectedReference
from models.result import Artifact
from models.session import Database
from models.settings import Settings
from models.states import InstanceState, JobKind, StoreOutcome, StudyState

log = logging.getLogger(__name__)

_BATCH: Final = 64  # objects in one transaction

_ONE = select(literal(1)).subquery()
_UID: Final = bindparam("sop_instance_uid", type_=String)
_LOOK = (
    select(
        (
            exists().where(Instance.sop_instance_uid == _UID)
            | exists().where(Artifact.sop_instance_uid == _UID)
            | exists().where(RejectedReference.sop_instance_uid == _UID)
        ).label("is_known"),
        Study.id.label("study_id"),
        Study.state,
        Study.patient_id,
        Study.issuer_of_patient_id,
        Series.id.label("series_id"),
    )
    .select_from(_ONE)
    .outerjoin(Study, Study.study_instance_uid == bindparam("study_instance_uid"))
    .outerjoin(
        Series,
        (Series.study_id == Study.id)
        & (Series.series_instance_uid == bindparam("series_instance_uid")),
    )
)
# The state is asked again: the dispatcher may have settled the study since we looked, and a row
# that we change is ours until we commit.
_TOUCH = (
    update(Study)
    .where(Study.id == bindparam("study_id"), Study.state == StudyState.OPEN)
    .values(last_received_at=bindparam("now"))
)


@dataclass(eq=False)
class _Waiting:
    """One object on its way to its rows."""

    spooled: SpooledInstance
    outcome: StoreOutcome | None = None
    error: Exception | None = None
    is_done: bool = field(default=False)


class _NotPlainError(Exception):
    """The object is one for `record_instance`."""


class Recorder:
    """Writes the rows of one process's received objects. For use by any number of threads."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database, self._settings = database, settings
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()
        self._writing = threading.Lock()

    def record(self, spooled: SpooledInstance) -> StoreOutcome:
        """Write the rows of one object; when this returns, they are committed.

        Raises sqlalchemy.exc.SQLAlchemyError when the database cannot be written.
        """
        mine = _Waiting(spooled)
        with self._lock:
            self._waiting.append(mine)
        with self._writing:  # who comes first writes for all who came meanwhile
            while not mine.is_done:
                with self._lock:
                    batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
                self._write(batch)
        if mine.error is not None:
            raise mine.error
        if mine.outcome is None:
            return record_instance(self._database, self._settings, spooled)
        return mine.outcome

    def _write(self, batch: list[_Waiting]) -> None:
        """Write the plain ones of a batch in one transaction, or leave each to its own thread."""
        written: list[_Waiting] = []
        try:
            with self._database.connect() as connection:
                in_order = sorted(batch, key=_order)  # of locks: the same in every process
                written = [x for x in in_order if self._is_written(connection, x.spooled)]
        except SQLAlchemyError as error:
            written = []
            log.info(
                "rows of %d objects are written one by one: %s", len(batch), type(error).__name__
            )
        for each in written:
            each.outcome = StoreOutcome.STORED
        for each in batch:
            each.is_done = True

    def _is_written(self, connection: Connection, spooled: SpooledInstance) -> bool:
        try:
            _Writer(connection, self._settings, spooled).write()
        except _NotPlainError:
            return False
        return True


def _order(waiting: _Waiting) -> str:
    return waiting.spooled.identity.study_instance_uid


class _Writer:
    """The rows of one plain object, in the transaction of `connection`."""

    def __init__(
        self, connection: Connection, settings: Settings, spooled: SpooledInstance
    ) -> None:
        self._connection, self._settings = connection, settings
        self._spooled, self._identity = spooled, spooled.identity
        self._now = utc_now()

    def write(self) -> None:
        """Write them. Raises _NotPlainError before anything is written."""
        identity = self._identity
        if identity.patient_id is None or identity.sop_class_uid == KEY_OBJECT:
            raise _NotPlainError
        found = self._connection.execute(
            _LOOK,
            {
                "sop_instance_uid": identity.sop_instance_uid,
                "study_instance_uid": identity.study_instance_uid,
                "series_instance_uid": identity.series_instance_uid,
            },
        ).one()
        if found.is_known:
            raise _NotPlainError
        study_id = found.study_id
        if study_id is None:
            study_id = self._add_study()
        else:
            self._enter(found)
        series_id = found.series_id or self._add_series(study_id)
        self._add_instance(series_id)
        self._connection.execute(
            _ADD_EVENT,
            {
                **audit_values(StoreOutcome.STORED, self._spooled),
                "action": AuditAction.INSTANCE_STORED,
                "at": self._now,
            },
        )

    def _enter(self, found: Row[*tuple[Any, ...]]) -> None:
        """Let the object into a study that is there."""
        if (
            found.state is not StudyState.OPEN
            or found.patient_id is None
            or is_another_patient(found, self._identity)
        ):
            raise _NotPlainError
        values = {"study_id": found.study_id, "now": self._now}
        if self._connection.execute(_TOUCH, values).rowcount != 1:
            raise _NotPlainError

    def _add_study(self) -> int:
        identity = self._identity
        return self._insert(
            _ADD_STUDY,
            study_instance_uid=identity.study_instance_uid,
            state=StudyState.OPEN,
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            accession_number=identity.accession_number,
            study_date=identity.study_date,
            calling_aet=self._spooled.peer.calling_aet,
            created_at=self._now,
            last_received_at=self._now,
        )

    def _add_series(self, study_id: int) -> int:
        return self._insert(
            _ADD_SERIES,
            study_id=study_id,
            series_instance_uid=self._identity.series_instance_uid,
            modality=self._identity.modality,
        )

    def _add_instance(self, series_id: int) -> None:
        spooled, identity = self._spooled, self._identity
        verdict = judge_content(self._settings, identity)
        instance_id = self._insert(
            _ADD_INSTANCE,
            series_id=series_id,
            sop_instance_uid=identity.sop_instance_uid,
            sop_class_uid=identity.sop_class_uid,
            transfer_syntax_uid=spooled.transfer_syntax_uid,
            data_set_sha256=spooled.data_set_sha256,
            size_bytes=spooled.size_bytes,
            storage_key=spooled.storage_key,
            state=verdict.state,
            reason=verdict.reason.value if verdict.reason else None,
            detail=detail_of(verdict),
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            presentation_intent=identity.presentation_intent,
            calling_aet=spooled.peer.calling_aet,
            called_aet=spooled.peer.called_aet,
            received_at=self._now,
        )
        if verdict.state is InstanceState.QUEUED:
            self._insert(
                _ADD_JOB,
                kind=JobKind.ANALYSE,
                instance_id=instance_id,
                model_selector=self._settings.model_for(spooled.peer.calling_aet),
                priority=priority_of(self._settings, spooled.peer.calling_aet),
                not_before=self._now,
                created_at=self._now,
            )

    def _insert(self, statement: Any, **values: object) -> int:  # noqa: ANN401  Insert of any table
        key = self._connection.execute(statement, values).inserted_primary_key
        return int(key[0]) if key else 0


_ADD_STUDY, _ADD_SERIES = insert(Study), insert(Series)
_ADD_INSTANCE, _ADD_JOB = insert(Instance), insert(Job)
_ADD_EVENT = insert(AuditEvent)
