"""The storage SCP: builds the AE from `contexts`, binds `handlers`, serves until stopped."""

import logging
import socket
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Final

from pynetdicom import AE, evt
from pynetdicom.events import EventHandlerType
from pynetdicom.presentation import PresentationContext, build_context

from dicom_node.access import AllowList
from dicom_node.audit.associations import AssociationLog
from dicom_node.commitment.handlers import commitment_contexts, commitment_events
from dicom_node.contexts import ACCEPTED
from dicom_node.handlers import Handlers
from dicom_node.loop import wait_for
from dicom_node.peer import audit
from dicom_node.ports import Ports, bind
from dicom_node.query.service import query_contexts, query_services, with_roles
from dicom_node.receive import Reception
from dicom_node.recorder import Recorder
from dicom_node.server import CUT_SECONDS, Admission, NodeServer
from dicom_node.services import install
from dicom_node.spool import Spool
from dicom_node.tls import Refusal, ServerCredentials
from dicom_node.worklist.ups.service import ups_contexts, ups_services
from models import tracing
from models.audit import AuditAction
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 20.0
ACSE_SECONDS: Final = 30.0  # longest wait for an A-ASSOCIATE-RQ (PS3.8 9.1.5, ARTIM)


def contexts(settings: Settings) -> list[PresentationContext]:
    """Return the presentation contexts of every service that the settings switch on.

    Roles other than the default ones (PS3.7 D.3.3.4) stand in `scu_role` and `scp_role`.
    """
    accepted = [build_context(uid, list(syntaxes)) for uid, syntaxes in ACCEPTED.items()]
    return [
        *with_roles(settings, accepted),
        *commitment_contexts(settings),
        *query_contexts(settings),
        *ups_contexts(settings),
    ]


def event_handlers(
    settings: Settings, database: Database, handlers: Handlers
) -> list[EventHandlerType]:
    """Return the handlers of every service; an intervention event (EVT_C_FIND) takes one only."""
    storage: list[EventHandlerType] = [
        (evt.EVT_REQUESTED, handlers.on_requested),
        (evt.EVT_REJECTED, handlers.on_rejected),
        (evt.EVT_CONN_OPEN, handlers.on_conn_open),
        (evt.EVT_C_ECHO, handlers.on_c_echo),
    ]
    return [*storage, *commitment_events(settings, database)]


def build_ae(settings: Settings) -> AE:
    """Return the application entity with every context of the table and the settings' limits."""
    dicom = settings.dicom
    ae = AE(ae_title=dicom.ae_title)
    for context in contexts(settings):
        ae.add_supported_context(
            context.abstract_syntax or "",
            context.transfer_syntax,
            scu_role=context.scu_role,
            scp_role=context.scp_role,
        )
    ae.maximum_associations = dicom.max_associations
    ae.maximum_pdu_size = dicom.max_pdu
    ae.network_timeout = dicom.network_timeout_seconds
    ae.acse_timeout = min(ACSE_SECONDS, dicom.network_timeout_seconds)
    ae.require_called_aet = dicom.require_called_aet
    ae.require_calling_aet = list(dicom.allowed_calling_aets)
    return ae


class Listener:
    """A running SCP. `port` and `tls_port` are the ports it got (asked for 0: any free one).

    A port that is switched off is None. Raises StartError when a port cannot be had or a file of
    `dicom.tls` cannot be used.
    """

    def __init__(self, settings: Settings, database: Database, ports: Ports | None = None) -> None:
        dicom = settings.dicom
        credentials = None if dicom.tls.port is None else ServerCredentials(dicom.tls)
        spool = Spool(settings.image_store, dicom.min_free_bytes)
        spool.sweep_incoming(settings.dispatch.orphan_seconds)  # dispatchers may be elsewhere
        self.reception = Reception(spool.incoming)
        install(query_services(settings, database) | ups_services(settings, database))
        self._recorder = Recorder(database, settings)
        handlers = Handlers(settings, database, spool, self.reception, self._recorder)
        self._associations = AssociationLog(database)
        accepted: EventHandlerType = (evt.EVT_ACCEPTED, self._associations.on_accepted)
        self._events = [*event_handlers(settings, database, handlers), accepted]
        self._ae = build_ae(settings)
        self._servers: list[NodeServer] = []
        self._stopped = False
        admission = Admission(
            allowed=AllowList.of(dicom),
            refused=partial(_audit_refusal, database),
            silence_seconds=min(ACSE_SECONDS, dicom.network_timeout_seconds),
            handshake_seconds=dicom.tls.handshake_seconds,
            balancers=dicom.proxy_protocol_from,
        )
        ports = ports or bind(dicom)
        self.port = self._serve(ports.plain, admission)
        self.tls_port = self._serve(ports.tls, replace(admission, credentials=credentials))

    def _serve(self, sock: socket.socket | None, admission: Admission) -> int | None:
        if sock is None:
            return None
        server = NodeServer.start(self._ae, sock, self._events, admission)
        self._servers.append(server)
        return server.port

    @property
    def active_associations(self) -> int:
        """How many associations there are, on both ports, negotiating ones included."""
        return sum(len(server.active_associations) for server in self._servers)

    def stop(self) -> None:
        """Stop accepting, let running associations finish for a while, then close."""
        if self._stopped:
            return
        self._stopped = True
        for server in self._servers:
            server.shutdown()  # ends the accept loop and closes its socket; associations go on
        deadline = time.monotonic() + DRAIN_SECONDS
        while self.active_associations and time.monotonic() < deadline:
            time.sleep(0.05)
        cutters = [threading.Timer(CUT_SECONDS, server.cut) for server in self._servers]
        for cutter in cutters:
            cutter.start()
        self._ae.shutdown()  # waits for peers that stopped in mid-PDU, until they are cut
        for cutter in cutters:
            cutter.cancel()
        self._recorder.close()
        self._associations.close()


def _audit_refusal(database: Database, refusal: Refusal, peer: str) -> None:
    """Record a connection that was refused before anything of DICOM was read."""
    details = {"reason": refusal.detail} if refusal.detail else {}
    action = AuditAction.CONNECTION_REFUSED
    audit(database, action, refusal.outcome, peer=peer, details=details)


def serve(settings: Settings, database: Database, ports: Ports, stop: threading.Event) -> None:
    """Serve on bound ports, in this process, until `stop` is set."""
    listener = Listener(settings, database, ports)
    for name, port in {"DICOM": listener.port, "DICOM over TLS": listener.tls_port}.items():
        if port is not None:
            log.info("listening as %s on port %d (%s)", settings.dicom.ae_title, port, name)
    wait_for(stop)
    listener.stop()
    tracing.stop()
    log.info("listener stopped")
