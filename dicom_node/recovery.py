"""Files without a row: a listener died between rename and commit. They enter intake again."""

import logging
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from sqlalchemy import select
from sqlalchemy.exc import DataError, IntegrityError

from dicom_node.errors import NodeError, NotUnderstoodError
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
_BLOCK = 500
_WHOLE_SECONDS = 86400.0
_MARGIN_SECONDS = 3600.0
_SHARE = 19.0


class OrphanSweep:
    """The sweep of one process: whole at first and once a day, between them only what is new.

    What is new says the time of a file's last change of name; an hour is added, so that a clock
    that goes back a little hides nothing, and one that goes back further makes a whole sweep.
    A shared storage can only be listed whole: that may take a twentieth of the time.
    """

    def __init__(self, database: Database, settings: Settings, spool: Spool) -> None:
        self._database = database
        self._settings = settings
        self._spool = spool
        self._last: float | None = None
        self._next_whole = 0.0

    def run(self) -> int:
        """Record every complete spool file that has no row; return how many there were."""
        age = self._settings.dispatch.orphan_seconds
        if self._spool.store.is_shared:
            return self._run_shared(age)
        now, since = time.time(), None
        if self._last is not None and self._last <= now and time.monotonic() < self._next_whole:
            since = self._last - age - _MARGIN_SECONDS
        recovered = recover_orphans(self._database, self._settings, self._spool, age, since)
        if since is None:
            self._next_whole = time.monotonic() + _WHOLE_SECONDS
        self._last = now  # of the start: what came in the meantime belongs to the next sweep
        return recovered

    def _run_shared(self, age: float) -> int:
        self._spool.store.tidy()
        self._settings.artifact_store.tidy()
        began = time.monotonic()
        if began < self._next_whole:
            self._spool.sweep_incoming(age)
            return 0
        recovered = recover_orphans(self._database, self._settings, self._spool, age)
        self._next_whole = time.monotonic() + _SHARE * (time.monotonic() - began)
        return recovered


def recover_orphans(
    database: Database,
    settings: Settings,
    spool: Spool,
    older_than_seconds: float,
    since: float | None = None,
) -> int:
    """Record every complete spool file that has no row; return how many there were.

    Only files older than a running C-STORE can be are looked at, and with `since` (seconds of the
    epoch) only those that got their name then or later. A file that cannot be read any more stays
    where it is and is logged: bytes are never thrown away unseen.
    """
    spool.sweep_incoming(older_than_seconds)
    keys = spool.keys(older_than_seconds)
    if since is not None:
        keys = _recent_keys(spool.root, since, older_than_seconds)
    recovered = 0
    while block := list(islice(keys, _BLOCK)):
        with database.read() as session:
            known = set(
                session.scalars(select(Instance.storage_key).where(Instance.storage_key.in_(block)))
            )
        for key in block:
            if key not in known:
                recovered += _recover(database, settings, spool, key)
    return recovered


def _recent_keys(root: Path, since: float, older_than_seconds: float) -> Iterator[str]:
    """Yield the keys of files that were named since then; a folder without any is not listed."""
    limit = time.time() - older_than_seconds
    for shard in sorted(root.glob("[0-9a-f][0-9a-f]")):
        if shard.stat().st_mtime < since:
            continue
        for entry in os.scandir(shard):
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            is_new = found.st_ctime >= since and found.st_mtime <= limit
            if is_new and entry.name.endswith(".dcm"):
                yield f"{shard.name}/{entry.name}"


def _recover(database: Database, settings: Settings, spool: Spool, key: str) -> bool:
    """Record one file; one that cannot be is told of, and holds up no other."""
    spooled = _readable(spool, key)
    if spooled is None:
        return False
    try:
        outcome = record_instance(database, settings, spooled, AuditAction.INSTANCE_RECOVERED)
    except (DataError, IntegrityError) as error:  # the file's fault, not that of a database away
        log.error("spool file %s cannot be recorded: %s", key, type(error).__name__)  # noqa: TRY400  parameters stay out
        return False
    log.warning("spool file %s had no row: %s", key, outcome.value)
    drop_if_extra(database, spool, key, outcome)
    return True


def _readable(spool: Spool, key: str) -> SpooledInstance | None:
    """Return what a file holds, durable by now; None when it is cut off or cannot be read."""
    path = spool.path(key)
    try:
        if digest_in(key) not in {None, sha256_of(path, data_set_offset(path))}:
            log.warning("spool file %s is cut off, its sender had no answer: set aside", key)
            spool.set_aside(key)
            return None
        spool.sync(key)
        return spooled_file(path, key)
    except (OSError, NodeError) as error:
        log.error("spool file %s has no row and cannot be read: %s", key, error)  # noqa: TRY400  expected, no traceback
        return None


def _meta(path: Path) -> tuple[Dataset, StoreRequest]:
    """Return the file meta information, and what was announced. Raises as `spooled_file`."""
    try:
        meta = read_file_meta_info(path)
        request = StoreRequest(
            sop_class_uid=str(meta.MediaStorageSOPClassUID),
            sop_instance_uid=str(meta.MediaStorageSOPInstanceUID),
            transfer_syntax_uid=str(meta.TransferSyntaxUID),
        )
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  any file may lie there, and raise anything
        msg = f"it has no readable file meta information ({type(error).__name__})"
        raise NotUnderstoodError(msg) from None  # the text may quote the file
    return meta, request


def spooled_file(path: Path, key: str) -> SpooledInstance:
    """Rebuild from the file alone what the handler knew; the file meta is our own.

    Raises OSError when the file cannot be read, NodeError when it cannot be understood.
    """
    meta, request = _meta(path)
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
