"""Audit events of queries and retrieves: who asked for what, and what was sent (PS3.15 A.5.3).

Query (110112), Begin Transferring DICOM Instances (110102), DICOM Instances Transferred (110104);
the last two once per study, since an event speaks of one patient.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pynetdicom.dimse_primitives import C_FIND
from sqlalchemy import select

from dicom_node.peer import peer_of
from dicom_node.query.exchange import Exchange, SubOperations
from dicom_node.query.keys import Query, Selection
from dicom_node.query.retrieve import StoredObject
from models.audit import AuditAction, record
from models.imaging import Study
from models.session import Database

log = logging.getLogger(__name__)

_STUDY: Final = "StudyInstanceUID"
_MAX_TEXT: Final = 1024  # characters of one key's values in an event


@dataclass(frozen=True)
class Asked:
    """What an event says of a query: its keys, and as patient data the values that it asks for."""

    details: dict[str, Any]
    patient: dict[str, Any] | None
    study_instance_uid: str | None  # when it asks for one study


def asked_of(query: Query) -> Asked:
    """Return what an event says of a query."""
    asked = {key: it for key, it in query.conditions.items() if not it.is_universal}
    values = {key: "\\".join(it.values)[:_MAX_TEXT] for key, it in asked.items() if it.vr != "UI"}
    studies = asked[_STUDY].values if _STUDY in asked else ()
    return Asked(
        details={"level": query.level.value, "keys": sorted(asked)},
        patient=values or None,
        study_instance_uid=studies[0] if len(studies) == 1 else None,
    )


class QueryLog:
    """Collects what one request is and does, and writes its events."""

    def __init__(self, database: Database, exchange: Exchange) -> None:
        self._database = database
        self._is_query = isinstance(exchange.request, C_FIND)
        peer = peer_of(exchange.assoc)
        self._peer: dict[str, Any] = {
            "calling_aet": peer.calling_aet,
            "called_aet": peer.called_aet,
            "peer": peer.address,
        }
        self._details: dict[str, Any] = {"service": exchange.name}
        self._patient: dict[str, Any] | None = None
        self._study: str | None = None
        self._studies: dict[str, SubOperations] = {}
        self._patients: dict[str, str | None] = {}
        self.matches = 0

    def to(self, ae_title: str) -> None:
        """Note the Move Destination."""
        self._details["destination"] = ae_title

    def asked(self, query: Query) -> None:
        """Note a query."""
        asked = asked_of(query)
        self._details |= asked.details
        self._patient, self._study = asked.patient, asked.study_instance_uid

    def selected(self, selection: Selection) -> None:
        """Note what a retrieve selects."""
        self._details |= {"level": selection.level.value}
        if len(selection.uids[_STUDY]) == 1:
            (self._study,) = selection.uids[_STUDY]

    def found(self) -> None:
        """Write that a query ended with success."""
        self._write(AuditAction.QUERY, "success", 0)

    def begin(self, objects: Sequence[StoredObject]) -> None:
        """Write, for each study, that its objects are about to be sent."""
        for each in objects:
            tally = self._studies.setdefault(each.study_instance_uid, SubOperations(0))
            tally.remaining += 1
        with self._database.read() as session:
            query = select(Study.study_instance_uid, Study.patient_id)
            named = session.execute(query.where(Study.study_instance_uid.in_(self._studies)))
            self._patients = {row.study_instance_uid: row.patient_id for row in named}
        self._write_studies(AuditAction.BEGIN_TRANSFERRING, "begun", None)

    def sent(self, each: StoredObject, status: int | None) -> None:
        """Note what became of one sub-operation."""
        self._studies[each.study_instance_uid].count(each.sop_instance_uid, status)

    def transferred(self, outcome: str, status: int) -> None:
        """Write, for each study, what was sent; a failure to write is logged."""
        try:
            if self._studies:
                self._write_studies(AuditAction.INSTANCES_TRANSFERRED, outcome, status)
            else:
                self._write(AuditAction.INSTANCES_TRANSFERRED, outcome, status)
        except Exception:
            log.exception("audit event instances_transferred could not be written")

    def failed(self, error: Exception, status: int) -> None:
        """Write that the request was refused, cancelled or broke; a failure to write is logged."""
        outcome = type(error).__name__[:40]
        if not self._is_query:
            self.transferred(outcome, status)
            return
        try:
            self._write(AuditAction.QUERY, outcome, status)
        except Exception:
            log.exception("audit event query could not be written")

    def _write(self, action: AuditAction, outcome: str, status: int) -> None:
        with self._database.write() as session:
            record(
                session,
                action,
                outcome,
                status=status,
                study_instance_uid=self._study,
                details=self._details | ({"matches": self.matches} if self._is_query else {}),
                patient=self._patient,
                **self._peer,
            )

    def _write_studies(self, action: AuditAction, outcome: str, status: int | None) -> None:
        with self._database.write() as session:
            for uid, tally in self._studies.items():
                record(
                    session,
                    action,
                    outcome,
                    status=status,
                    study_instance_uid=uid,
                    details=self._details | tally.numbers(),
                    patient={"patient_id": self._patients.get(uid)},
                    **self._peer,
                )
