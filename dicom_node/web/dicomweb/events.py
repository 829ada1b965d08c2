"""Audit events of DICOMweb: who asked for what, and what was sent.

A search is a Query, as C-FIND is. Whole objects are Begin Transferring and DICOM Instances
Transferred, as in C-GET. All else that is shown of an object (metadata, frames, pictures, values)
is a read of patient data. Each is one event per study and request, since an event speaks of one
patient; what cannot be recorded is not sent.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import HTTPConnection

from dicom_node.query.events import Asked, asked_of
from dicom_node.query.keys import Query
from dicom_node.query.retrieve import StoredObject
from dicom_node.web.access.gate import address_of
from dicom_node.web.auth import Principal
from dicom_node.web.dicomweb.targets import Target, Targets
from dicom_node.web.reads import record_read
from models.audit import AuditAction, record
from models.session import Database

log = logging.getLogger(__name__)

SEARCH: Final = "QIDO-RS"
RETRIEVE: Final = "WADO-RS"
STORE: Final = "STOW-RS"


@dataclass(frozen=True)
class Events:
    """Writes the events of one request."""

    database: Database
    who: Principal
    connection: HTTPConnection

    @property
    def actor(self) -> dict[str, Any]:
        """Who it is, as columns of an event."""
        return {"actor": self.who.name, "peer": address_of(self.connection)}

    def details(self, service: str, **more: object) -> dict[str, Any]:
        """Return the details of an event."""
        used = {} if self.who.token_id is None else {"token": self.who.token_id}
        return {"service": service, **used, **more}

    def searched(self, query: Query | None, outcome: str, matches: int) -> None:
        """Write that a search ended: what it asked for, and how many matches go out.

        None: it could not be understood.
        """
        asked = asked_of(query) if query is not None else Asked({}, None, None)
        with self.database.write() as session:
            record(
                session,
                AuditAction.QUERY,
                outcome,
                study_instance_uid=asked.study_instance_uid,
                details=self.details(SEARCH, matches=matches, **asked.details),
                patient=asked.patient,
                **self.actor,
            )

    def read(self, what: str, target: Target, patients: dict[str, str | None]) -> None:
        """Write that something of an object is about to be shown."""
        record_read(
            self.database,
            self.who,
            self.connection,
            f"dicomweb_{what}",
            study_instance_uid=target.study,
            sop_instance_uid=target.instance,
            patient={"patient_id": patients.get(target.study)},
            service=RETRIEVE,
        )


class Transfer:
    """Whole objects on their way out: an event when it begins, one when it ends, per study."""

    def __init__(self, events: Events, targets: Targets, objects: Sequence[StoredObject]) -> None:
        self._events = events
        self._wanted = Counter(each.study_instance_uid for each in objects)
        self._sent: Counter[str] = Counter()
        self._patients = targets.patients(list(self._wanted))

    def begin(self) -> None:
        """Write that it begins. Raises SQLAlchemyError: then nothing is sent."""
        self._write(AuditAction.BEGIN_TRANSFERRING, "begun")

    def sent(self, each: StoredObject) -> None:
        """Note that one object went out."""
        self._sent[each.study_instance_uid] += 1

    def pieces(self, body: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the body; write how it ended, by itself or because the client was gone."""
        outcome = "broken_off"
        try:
            yield from body
            outcome = "success"
        finally:
            self._end(outcome)

    def _end(self, outcome: str) -> None:
        try:
            self._write(AuditAction.INSTANCES_TRANSFERRED, outcome)
        except Exception:
            log.exception("audit event instances_transferred could not be written")

    def _write(self, action: AuditAction, outcome: str) -> None:
        with self._events.database.write() as session:
            for study, number in self._wanted.items():
                record(
                    session,
                    action,
                    outcome,
                    study_instance_uid=study,
                    details=self._events.details(
                        RETRIEVE, wanted=number, completed=self._sent[study]
                    ),
                    patient={"patient_id": self._patients.get(study)},
                    **self._events.actor,
                )
