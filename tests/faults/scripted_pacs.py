"""A storage SCP in front of a PACS that behaves as a test says: absent, choosy, moody, or well."""

import hashlib
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Final

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.transport import ThreadedAssociationServer
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
        self._behind = (where.partition(":")[0], int(where.rpartition(":")[2]), title)
        self._server: ThreadedAssociationServer | None = None
        self._lock = threading.Lock()

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
            self.bytes_of[uid].add(hashlib.sha256(event.encoded_dataset()).hexdigest())
            if is_stored(status) and self._pass_on(event) != SUCCESS:
                status = _LOST
            self.answers.append((sop_class, uid, status))
        return status

    def _pass_on(self, event: Event) -> int | None:
        ds = event.dataset
        ds.file_meta = event.file_meta
        host, port, title = self._behind
        ae = AE(self.ae_title)
        ae.add_requested_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID)
        assoc = ae.associate(host, port, ae_title=title)
        if not assoc.is_established:
            return None
        answer = assoc.send_c_store(ds)
        assoc.release()
        ae.shutdown()
        return answer.get("Status")

    def given(self) -> set[int]:
        """Return every status that was answered so far."""
        with self._lock:
            return {status for _, _, status in self.answers}
