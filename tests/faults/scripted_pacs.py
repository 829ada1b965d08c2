"""A storage SCP in front of a PACS that behaves as a test says: absent, choosy, moody, or well."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer
from senders import associate, store_bytes
from servers import free_port

from dicom_node.demo.pacs import Pacs
from dicom_node.status import is_stored

SUCCESS: Final = 0x0000
_LOST: Final = 0x0110  # PS3.7 C.4.2, processing failure: the PACS behind it did not take the object


class ScriptedPacs:
    """Answers C-STORE with what `status` returns, and passes on to `behind` what it says it took.

    `status` is called with the SOP Class UID of each object. Two starts are two processes to a
    sender: what it remembers between them is for the test alone.
    """

    ae_title = "SCRIPTED"

    def __init__(self, behind: Pacs) -> None:
        self.port = free_port()
        self.status: Callable[[str], int] = lambda _sop_class: SUCCESS
        self.answers: list[tuple[str, str, int]] = []
        self.bytes_of: defaultdict[str, set[str]] = defaultdict(set)
        title, _, where = behind.address.partition("@")
        self._behind = (int(where.rpartition(":")[2]), title)
        self._server: ThreadedAssociationServer | None = None
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        """AET@HOST:PORT."""
        return f"{self.ae_title}@127.0.0.1:{self.port}"

    def start(self, *, without: str | None = None) -> None:
        """Listen; the SOP Class `without` gets no presentation context."""
        ae = AE(self.ae_title)
        for context in AllStoragePresentationContexts:
            if context.abstract_syntax != without:
                ae.add_supported_context(str(context.abstract_syntax))
        self._server = ae.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )

    def stop(self) -> None:
        """Be gone: nobody listens on the port."""
        if self._server is not None:
            self._server.ae.shutdown()
            self._server = None

    def _store(self, event: Event) -> int:
        sop_class = str(event.request.AffectedSOPClassUID)
        uid = str(event.request.AffectedSOPInstanceUID)
        status = self.status(sop_class)
        with self._lock:
            self.bytes_of[uid].add(hashlib.sha256(event.request.DataSet.getvalue()).hexdigest())
            if is_stored(status) and self._pass_on(event) != SUCCESS:
                status = _LOST
            self.answers.append((sop_class, uid, status))
        return status

    def _pass_on(self, event: Event) -> int | None:
        """Send the data set on, byte for byte, and return the answer."""
        port, title = self._behind
        sop_class, uid = (
            str(event.request.AffectedSOPClassUID),
            event.request.AffectedSOPInstanceUID,
        )
        syntax = str(event.context.transfer_syntax)
        with associate(port, (sop_class, syntax), calling=self.ae_title, called=title) as assoc:
            if not assoc.is_established:
                return None
            return store_bytes(assoc, sop_class, str(uid), event.request.DataSet.getvalue())

    def given(self) -> set[tuple[str, int]]:
        """Return every pair of SOP Class UID and status that was answered so far."""
        with self._lock:
            return {(sop_class, status) for sop_class, _, status in self.answers}

    def versions(self) -> int:
        """Return in how many versions the object came that came in most."""
        with self._lock:
            return max((len(digests) for digests in self.bytes_of.values()), default=0)
