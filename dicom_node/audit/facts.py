"""What a message says beyond its event: whose study it is, and of which SOP Classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.imaging import Instance, Study
from models.result import Artifact

Values = dict[str, Any]


@dataclass(frozen=True)
class StudyFacts:
    """What a message says of a study."""

    patient_id: str | None
    accession_number: str | None


@dataclass(frozen=True)
class Facts:
    """Studies by Study Instance UID, SOP Class UIDs by SOP Instance UID."""

    studies: dict[str, StudyFacts] = field(default_factory=dict)
    sop_classes: dict[str, str] = field(default_factory=dict)


def facts_of(session: Session, events: Sequence[Values]) -> Facts:
    """Return what the rows say of the studies and objects of some events."""
    studies = {it["study_instance_uid"] for it in events if it["study_instance_uid"]}
    objects = {it["sop_instance_uid"] for it in events if it["sop_instance_uid"]}
    of_studies = select(Study.study_instance_uid, Study.patient_id, Study.accession_number)
    rows = session.execute(of_studies.where(Study.study_instance_uid.in_(studies)))
    classes: dict[str, str] = {}
    for table in (Instance, Artifact):
        of_objects = select(table.sop_instance_uid, table.sop_class_uid)
        found = session.execute(of_objects.where(table.sop_instance_uid.in_(objects)))
        classes |= {uid: sop_class for uid, sop_class in found if uid and sop_class}
    return Facts({uid: StudyFacts(patient, accession) for uid, patient, accession in rows}, classes)
