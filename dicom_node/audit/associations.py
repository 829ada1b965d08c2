"""Accepted associations in the audit, off the path of what comes over them.

A sender may open an association for each image: an event of its own transaction would cost as much
as the image's rows. So they are kept for half a second and written together, in a thread. A process
that is killed takes those of that moment along; what came over them is in the audit all the same.
"""

import logging
import threading
from collections import deque
from datetime import datetime
from ssl import SSLSocket
from typing import TYPE_CHECKING, Any, Final, cast

from pynetdicom.association import Association
from pynetdicom.events import Event

from dicom_node.peer import peer_of
from models.audit import AuditAction, record
from models.base import utc_now
from models.session import Database

if TYPE_CHECKING:
    from pynetdicom.transport import AssociationSocket

log = logging.getLogger(__name__)

_PAUSE_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 5.0
_MOST: Final = 20_000  # while the database is away: some MB
_BATCH: Final = 500

_Noted = tuple[datetime, dict[str, Any]]


class AssociationLog:
    """Those of one process. For use by any number of threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: deque[_Noted] = deque()
        self._lost = 0
        self._lock = threading.Lock()
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def on_accepted(self, event: Event) -> None:
        """Note an association. For pynetdicom's EVT_ACCEPTED."""
        peer = peer_of(event.assoc)
        values = {
            "calling_aet": peer.calling_aet,
            "called_aet": peer.called_aet,
            "peer": peer.address,
            "details": _details(event.assoc),
        }
        with self._lock:
            if len(self._waiting) >= _MOST:
                self._waiting.popleft()
                self._lost += 1
            self._waiting.append((utc_now(), values))
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._run, name="audit-associations")
                self._thread.daemon = True
                self._thread.start()
        self._wanted.set()

    def close(self) -> None:
        """Write what waits, and end."""
        self._ended.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(2 * _RETRY_SECONDS)

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wanted.wait()
            self._ended.wait(_PAUSE_SECONDS)  # others come meanwhile
            self._wanted.clear()
            while self._waiting and not self._write() and not self._ended.wait(_RETRY_SECONDS):
                pass
        self._write()

    def _write(self) -> bool:
        """Write what waits; False: the database did not take it, it still waits."""
        while batch := self._take():
            try:
                with self._database.write(_RETRY_SECONDS) as session:
                    for at, values in batch:
                        action = AuditAction.ASSOCIATION_ACCEPTED
                        record(session, action, "accepted", at=at, **values)
            except Exception:
                log.exception("audit events association_accepted could not be written")
                with self._lock:
                    self._waiting.extendleft(reversed(batch))
                return False
        if self._lost:
            log.error("%d audit events association_accepted were lost", self._lost)
            self._lost = 0
        return True

    def _take(self) -> list[_Noted]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]


def _details(assoc: Association) -> dict[str, Any]:
    """Return what was agreed; `implementation` is what the peer says that it is (PS3.7 D.3.3.2)."""
    sock = cast("AssociationSocket", assoc.dul.socket).socket
    implementation = assoc.requestor.implementation_class_uid
    return {
        "contexts": len(assoc.accepted_contexts),
        "tls": sock.version() if isinstance(sock, SSLSocket) else None,
        "implementation": str(implementation) if implementation else None,
    }
