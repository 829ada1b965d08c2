"""The storage SCP: builds the AE from `contexts`, binds `handlers`, serves until stopped."""

import logging
import threading
import time
from typing import Final

from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from dicom_node.contexts import ACCEPTED
from dicom_node.errors import StartError
from dicom_node.handlers import Handlers
from dicom_node.receive import Reception
from dicom_node.spool import Spool
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 20.0


def build_ae(settings: Settings) -> AE:
    """Return the application entity with every context of the table and the settings' limits."""
    dicom = settings.dicom
    ae = AE(ae_title=dicom.ae_title)
    for sop_class, syntaxes in ACCEPTED.items():
        ae.add_supported_context(sop_class, list(syntaxes))
    ae.maximum_associations = dicom.max_associations
    ae.maximum_pdu_size = dicom.max_pdu
    ae.network_timeout = dicom.network_timeout_seconds
    ae.require_called_aet = dicom.require_called_aet
    ae.require_calling_aet = list(dicom.allowed_calling_aets)
    return ae


class Listener:
    """A running storage SCP. `port` is the port it got (asked for 0: any free one)."""

    def __init__(self, settings: Settings, database: Database) -> None:
        dicom = settings.dicom
        spool = Spool(settings.spool_dir, dicom.min_free_bytes)
        self.reception = Reception(spool)
        self.reception.install()
        handlers = Handlers(settings, database, spool, self.reception)
        self._ae = build_ae(settings)
        try:
            server = self._ae.start_server(
                (dicom.host, dicom.port),
                block=False,
                evt_handlers=[
                    (evt.EVT_REQUESTED, handlers.on_requested),
                    (evt.EVT_REJECTED, handlers.on_rejected),
                    (evt.EVT_CONN_CLOSE, handlers.on_conn_close),
                    (evt.EVT_C_ECHO, handlers.on_c_echo),
                    (evt.EVT_C_STORE, handlers.on_c_store),
                ],
            )
        except OSError as error:
            msg = (
                f"cannot listen on {dicom.host}:{dicom.port} ({error.strerror}): "
                "choose another dicom.port (--dicom-port) or stop the program that has it"
            )
            raise StartError(msg) from error
        if not isinstance(server, ThreadedAssociationServer):  # pragma: no cover  block=False
            raise TypeError
        self._server = server
        self._stopped = False
        self.port: int = server.server_address[1]

    def stop(self) -> None:
        """Stop accepting, let running associations finish for a while, then close."""
        if self._stopped:
            return
        self._stopped = True
        self._server.shutdown()  # ends the accept loop and closes its socket; associations go on
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._server.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        self._ae.shutdown()


def run(settings: Settings, database: Database, stop: threading.Event) -> None:
    """Serve until `stop` is set."""
    listener = Listener(settings, database)
    log.info("listening as %s on port %d", settings.dicom.ae_title, listener.port)
    stop.wait()
    listener.stop()
    log.info("listener stopped")
