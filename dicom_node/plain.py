"""The rows of a plain object: one that nothing is known of and nothing is against.

It has a patient; its UID is unknown and in no rejection note; its study is new, or open and of the
same patient. `intake` decides all other cases, and writes the same rows for these.
"""

from typing import Final, NamedTuple

from sqlalchemy import (
    Connection,
    Dialect,
    String,
    bindparam,
    exists,
    insert,
    literal_column,
    select,
    update,
)

from dicom_node.intake import (
    audit_values,
    instance_values,
    is_another_patient,
    judge_content,
    priority_of,
)
from dicom_node.types import SpooledInstance
from models.audit import AuditAction, AuditEvent
from models.base import Base, utc_now
from models.imaging import Instance, Series, Study
from models.job import Job
from models.prepared import Prepared
from models.rejection import KEY_OBJECT, RejectedReference
from models.result import Artifact
from models.settings import Settings
from models.states import InstanceState, JobKind, JobState, StoreOutcome, StudyState

_ONE = select(literal_column("1")).subquery()
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
# Before the look, where others may write at the same time: a rejection note, a merge or the end of
# the settle time that somebody is just writing is waited for, and then seen.
_LOCK = (
    select(Study.id)
    .where(Study.study_instance_uid == bindparam("study_instance_uid"))
    .with_for_update()
)
_ENTER = (
    update(Study)
    .where(Study.id == bindparam("study_id"), Study.state == StudyState.OPEN)
    .values(last_received_at=bindparam("now"))
)


class _Found(NamedTuple):
    """What `_LOOK` finds, as the driver gives it."""

    is_known: bool
    study_id: int | None
    state: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    series_id: int | None


class _NotPlainError(Exception):
    """The object is one for `intake.record_instance`."""


class PlainRows:
    """The statements, prepared for one kind of database."""

    def __init__(self, dialect: Dialect, settings: Settings) -> None:
        self.settings = settings
        self.look, self.enter = Prepared(_LOOK, dialect), Prepared(_ENTER, dialect)
        self.lock = None if dialect.name == "sqlite" else Prepared(_LOCK, dialect)
        self._dialect = dialect
        self._inserts: dict[type[Base], tuple[Prepared, dict[str, object]]] = {}

    def add(self, connection: Connection, spooled: SpooledInstance) -> bool:
        """Write the rows of one object in the caller's transaction; False: it is not plain."""
        try:
            _Writer(self, connection, spooled).write()
        except _NotPlainError:
            return False
        return True

    def insert(self, connection: Connection, model: type[Base], values: dict[str, object]) -> int:
        """Add one row and return its id; columns that are not named get their fixed defaults."""
        if model not in self._inserts:
            columns = model.__table__.columns
            fixed = {
                column.name: column.default.arg
                for column in columns
                if column.name not in values and column.default is not None
                if column.default.is_scalar
            }
            statement = insert(model).returning(columns["id"])
            prepared = Prepared(statement, self._dialect, *values, *fixed)
            self._inserts[model] = prepared, fixed
        prepared, fixed = self._inserts[model]
        return int(prepared.row(connection, {**fixed, **values})[0])


class _Writer:
    """The rows of one object, in the transaction of `connection`."""

    def __init__(self, rows: PlainRows, connection: Connection, spooled: SpooledInstance) -> None:
        self._rows, self._connection = rows, connection
        self._spooled, self._identity = spooled, spooled.identity
        self._now = utc_now()

    def write(self) -> None:
        """Write them. Raises _NotPlainError before anything is written."""
        identity = self._identity
        if identity.patient_id is None or identity.sop_class_uid == KEY_OBJECT:
            raise _NotPlainError
        keys = {
            "sop_instance_uid": identity.sop_instance_uid,
            "study_instance_uid": identity.study_instance_uid,
            "series_instance_uid": identity.series_instance_uid,
        }
        if self._rows.lock is not None:
            self._rows.lock.row(self._connection, keys)
        found = _Found(*self._rows.look.row(self._connection, keys))
        if found.is_known:
            raise _NotPlainError
        study_id = self._add_study() if found.study_id is None else self._enter(found)
        self._add_instance(found.series_id or self._add_series(study_id))
        event = audit_values(StoreOutcome.STORED, self._spooled)
        self._insert(AuditEvent, action=AuditAction.INSTANCE_STORED, at=self._now, **event)

    def _enter(self, found: _Found) -> int:
        """Let the object into a study that is there."""
        if (
            found.state != StudyState.OPEN
            or found.patient_id is None
            or is_another_patient(found, self._identity)
        ):
            raise _NotPlainError
        values = {"study_id": found.study_id, "now": self._now}
        if self._rows.enter.count(self._connection, values) != 1:
            raise _NotPlainError
        return found.study_id or 0

    def _add_study(self) -> int:
        identity = self._identity
        return self._insert(
            Study,
            study_instance_uid=identity.study_instance_uid,
            state=StudyState.OPEN,
            patient_id=identity.patient_id,
            issuer_of_patient_id=identity.issuer_of_patient_id,
            accession_number=identity.accession_number,
            study_date=identity.study_date,
            exam_at=identity.exam_at,
            calling_aet=self._spooled.peer.calling_aet,
            created_at=self._now,
            last_received_at=self._now,
        )

    def _add_series(self, study_id: int) -> int:
        return self._insert(
            Series,
            study_id=study_id,
            series_instance_uid=self._identity.series_instance_uid,
            modality=self._identity.modality,
        )

    def _add_instance(self, series_id: int) -> None:
        spooled = self._spooled
        verdict = judge_content(self._rows.settings, self._identity)
        values = instance_values(spooled, verdict)
        instance_id = self._insert(Instance, series_id=series_id, received_at=self._now, **values)
        if verdict.state is InstanceState.QUEUED:
            self._insert(
                Job,
                kind=JobKind.ANALYSE,
                state=JobState.PENDING,
                instance_id=instance_id,
                model_selector=self._rows.settings.model_for(spooled.peer.calling_aet),
                priority=priority_of(self._rows.settings, spooled.peer.calling_aet),
                not_before=self._now,
                created_at=self._now,
            )

    def _insert(self, model: type[Base], **values: object) -> int:
        return self._rows.insert(self._connection, model, values)
