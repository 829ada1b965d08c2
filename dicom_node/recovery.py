"""Files without a row: a listener died between rename and commit. They enter intake again."""

import logging
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from sqlalchemy import select

from dicom_node.errors import NodeError
from dicom_node.header import read_identity
from dicom_node.intake import drop_if_extra, record_instance
from dicom_node.receive import data_set_offset
from dicom_node.spool import Spool, digest_in
from dicom_node.types import Peer, SpooledInstance, StoreRequest
from models.audit import AuditAction
from models.files import sha256_of
from models.imaging import Instance
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

_UNKNOWN = "RECOVERED"  # as AE title, of files that a former release wrote


def recover_orphans(
    database: Database, settings: Settings, spool: Spool, older_than_seconds: float
) -> int:
    """Record every complete spool file that has no row; return how many there were.

    Only files older than a running C-STORE can be are looked at. A file that cannot be read any
    more stays where it is and is logged: bytes are never thrown away unseen.
    """
    spool.sweep_incoming(older_than_seconds)
    keys = list(spool.keys(older_than_seconds))
    recovered = 0
    for start in range(0, len(keys), 500):
        block = keys[start : start + 500]
        with database.read() as session:
            known = set(
                session.scalars(select(Instance.storage_key).where(Instance.storage_key.in_(block)))
            )
        for key in block:
            if key not in known:
                recovered += _recover(database, settings, spool, key)
    return recovered


def _recover(database: Database, settings: Settings, spool: Spool, key: str) -> bool:
    path = spool.path(key)
    try:
        if digest_in(key) not in {None, sha256_of(path, data_set_offset(path))}:
            log.warning("spool file %s is cut off, its sender had no answer: set aside", key)
            spool.set_aside(key)
            return False
        spooled = spooled_file(path, key)
    except (OSError, NodeError):
        log.exception("spool file %s has no row and cannot be read", key)
        return False
    outcome = record_instance(database, settings, spooled, AuditAction.INSTANCE_RECOVERED)
    log.warning("spool file %s had no row: %s", key, outcome.value)
    drop_if_extra(database, spool, key, outcome)
    return True


def spooled_file(path: Path, key: str) -> SpooledInstance:
    """Rebuild from the file alone what the handler knew; the file meta is our own.

    Raises OSError when the file cannot be read, NodeError when it cannot be understood.
    """
    meta = read_file_meta_info(path)
    request = StoreRequest(
        sop_class_uid=str(meta.MediaStorageSOPClassUID),
        sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
        transfer_syntax_uid=str(meta.TransferSyntaxUID),
    )
    offset = data_set_offset(path)
    return SpooledInstance(
        storage_key=key,
        path=path,
        identity=read_identity(path, offset, request),
        transfer_syntax_uid=request.transfer_syntax_uid,
        data_set_sha256=sha256_of(path, offset),
        size_bytes=path.stat().st_size,
        peer=Peer(
            calling_aet=str(meta.get("SourceApplicationEntityTitle") or _UNKNOWN),
            called_aet=str(meta.get("ReceivingApplicationEntityTitle") or _UNKNOWN),
            address="",
        ),
    )
