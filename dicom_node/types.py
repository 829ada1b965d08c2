"""The frozen values that the steps of intake hand to each other."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True)
class Peer:
    """Who is sending, by the association request; `actor` is the account of a web request."""

    calling_aet: str
    called_aet: str
    address: str
    actor: str | None = None


@dataclass(frozen=True)
class StoreRequest:
    """What a C-STORE command says about the data set that follows it (PS3.7 9.1.1)."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True)
class Identity:
    """Who and what a data set is, by its own attributes; text is cut to the column's length."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str | None
    patient_id: str | None
    issuer_of_patient_id: str | None
    accession_number: str | None
    study_date: str | None
    presentation_intent: str | None
    manufacturer: str | None
    manufacturer_model_name: str | None
    exam_at: datetime | None = None


@dataclass(frozen=True)
class SpooledInstance:
    """A received object; its rows wait until its bytes are durable under this key."""

    storage_key: str
    path: Path
    identity: Identity
    transfer_syntax_uid: str
    data_set_sha256: str
    size_bytes: int
    peer: Peer
