"""C-MOVE and C-GET: the stored objects of a selection, each sent as it is (PS3.4 C.4.2, C.4.3)."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pynetdicom.association import Association
from pynetdicom.dsutils import split_dataset
from sqlalchemy import select
from sqlalchemy.orm import Session

from dicom_node.errors import SmallPduError, TooManyMatchesError
from dicom_node.query.held import Holdings
from dicom_node.query.held_rows import ResultRow, is_held
from dicom_node.query.keys import Selection, tag_of
from dicom_node.query.stored import read_stored, texts_of
from dicom_node.senders.base import Receiver
from dicom_node.senders.cstore import MEDIUM, CStoreSender
from models.imaging import Instance, Series, Study
from models.session import Database

log = logging.getLogger(__name__)

_MAX_CONTEXTS: Final = 128  # of one association: odd numbers up to 255 (PS3.8 9.3.2.2)
MIN_PDU: Final = 4096  # bytes, for C-GET: pynetdicom makes all PDUs of an object before one is sent
_MAX_MESSAGE_ID: Final = 0xFFFF  # VR US


@dataclass(frozen=True)
class StoredObject:
    """One object to send: its file and what has to be negotiated for it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str


@dataclass(frozen=True)
class Originator:
    """Whose C-MOVE it is, as the sub-operations name it (PS3.7 9.1.1.1)."""

    ae_title: str
    message_id: int


def select_objects(
    database: Database, holdings: Holdings, selection: Selection, limit: int
) -> list[StoredObject]:
    """Return the held objects of a selection, study by study, images in front of results.

    Raises TooManyMatchesError when they are more than `limit`.
    """
    with database.read() as session:
        found = list(_instances(session, holdings, selection, limit + 1))
    for row in holdings.results(selection.uids["StudyInstanceUID"]):
        if len(found) > limit:
            break
        if _is_selected(holdings, selection, row):
            found.append(_result(holdings, row))
    if len(found) > limit:
        msg = f"more than {limit} objects match: select fewer"
        raise TooManyMatchesError(msg)
    return sorted(found, key=lambda each: each.study_instance_uid)


def _instances(
    session: Session, holdings: Holdings, selection: Selection, limit: int
) -> Iterator[StoredObject]:
    columns = {
        "StudyInstanceUID": Study.study_instance_uid,
        "SeriesInstanceUID": Series.series_instance_uid,
        "SOPInstanceUID": Instance.sop_instance_uid,
    }
    statement = select(Instance, Study.study_instance_uid).join(Series, Instance.series).join(Study)
    for keyword, uids in selection.uids.items():
        statement = statement.where(columns[keyword].in_(uids))
    statement = statement.where(is_held()).order_by(Study.id, Instance.id).limit(limit)
    for instance, study_instance_uid in session.execute(statement):
        yield StoredObject(
            path=holdings.spool_path(instance.storage_key),
            sop_class_uid=instance.sop_class_uid,
            sop_instance_uid=instance.sop_instance_uid,
            transfer_syntax_uid=instance.transfer_syntax_uid,
            study_instance_uid=study_instance_uid,
        )


def _is_selected(holdings: Holdings, selection: Selection, row: ResultRow) -> bool:
    uids = selection.uids
    if row.sop_instance_uid not in uids.get("SOPInstanceUID", (row.sop_instance_uid,)):
        return False
    if "SeriesInstanceUID" not in uids:
        return True
    head = read_stored(holdings.artifact_path(row), tag_of("SeriesInstanceUID"))
    return not set(texts_of(head, "SeriesInstanceUID")).isdisjoint(uids["SeriesInstanceUID"])


def _result(holdings: Holdings, row: ResultRow) -> StoredObject:
    path = holdings.artifact_path(row)
    try:
        syntax = str(split_dataset(path)[0].TransferSyntaxUID)
    except Exception:  # noqa: BLE001  gone or damaged: its sub-operation will fail
        syntax = ""
    return StoredObject(
        path, row.sop_class_uid, row.sop_instance_uid, syntax, row.study_instance_uid
    )


def require_room(assoc: Association) -> None:
    """Raise SmallPduError for a peer whose largest PDU would make millions of PDUs of an object.

    It may still store, and ask: only whole objects do not fit. 0: it has no limit (PS3.8 D.1).
    """
    if 0 < assoc.dimse.maximum_pdu_size < MIN_PDU:
        msg = f"your largest PDU is below {MIN_PDU} bytes"
        raise SmallPduError(msg)


@contextmanager
def move_association(
    sender: CStoreSender, receiver: Receiver, objects: Sequence[StoredObject]
) -> Iterator[Association | None]:
    """Yield an association with a Move Destination, or None; released at the end.

    One transfer syntax per context, so that each object can go in its own. Objects beyond the
    number of contexts that an association has are not sent.
    """
    pairs = sorted({(it.sop_class_uid, it.transfer_syntax_uid) for it in objects})
    contexts = [pair for pair in pairs if all(pair)][:_MAX_CONTEXTS]
    try:
        assoc = sender.associate(receiver, contexts) if contexts else None
    except OSError:
        assoc = None  # the name of its host does not resolve
    try:
        yield assoc
    finally:
        if assoc is not None and assoc.is_established:
            assoc.release()


def store(
    assoc: Association | None,
    each: StoredObject,
    number: int,
    originator: Originator | None = None,
) -> int | None:
    """Do the C-STORE sub-operation `number`, from 1; return its status, None without an answer.

    Whatever is wrong with a stored file is the end of its own sub-operation, not of the others.
    """
    if assoc is None or not assoc.is_established:
        return None
    try:
        answer = assoc.send_c_store(
            each.path,
            msg_id=(number - 1) % _MAX_MESSAGE_ID + 1,
            priority=MEDIUM,
            originator_aet=originator.ae_title if originator else None,
            originator_id=originator.message_id if originator else None,
        )
    except (RuntimeError, ValueError, AttributeError, OSError):
        return None  # no context for it, no file, or the association ended
    except Exception as error:  # noqa: BLE001  whatever is wrong with it, it is no DICOM file
        log.warning("a stored object is damaged, and was not sent: %s", type(error).__name__)
        return None
    status = answer.get("Status")
    return None if status is None else int(status)
