"""The one place that adjusts how pynetdicom accepts connections: who is silent blocks nobody.

pynetdicom 3.0 shakes hands for TLS in its accept loop, so a client that connects and says nothing
keeps everybody else out. It makes an association of every TCP connection: one that is opened and
closed, or brings no A-ASSOCIATE-RQ, holds one of `maximum_associations` for the 30 seconds of the
ACSE time-out, and one that stops in the middle of a PDU holds it for ever, because sockets are read
without a time-out. `NodeServer` admits a connection in its own thread first: address, first
byte, TLS handshake, each with a deadline (and before all of them what a trusted balancer says of
the connection, `proxy_header`); only then is there an association. What pynetdicom cannot
end by itself is cut.

It overrides `fileno`, `server_bind`, `server_activate`, `get_request`, `finish_request`,
`service_actions` and `server_close` of socketserver, and uses `make_server`, `Association._kill`
and `dul` of pynetdicom. test_silent_peers.py and test_tls.py in tests/integration notice when a new
pynetdicom no longer works so.
"""

import contextlib
import logging
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from socketserver import BaseServer
from typing import Any, Final, cast

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.transport import AssociationSocket, ThreadedAssociationServer

from dicom_node.access import AllowList, address_of, is_in
from dicom_node.errors import NothingSaidError, ProxyHeaderError
from dicom_node.proxy_header import read_source
from dicom_node.tls import Refusal, ServerCredentials, refusal_of
from models.fields import Network

log = logging.getLogger(__name__)

CUT_SECONDS: Final = 5.0  # after which an ended association's socket is cut, if it is still read
_ASSOCIATE_RQ: Final = b"\x01"  # PS3.8 9.3.2, PDU-type
# First bytes of what else comes to the plain port: RFC 8446 5.1, ContentType; PROXY 2.1, 2.2.
_HEADER: Final = "a PROXY header, and is not in dicom.proxy_protocol_from,"
_FOREIGN: Final = {b"\x16": "TLS", b"P": _HEADER, b"\r": _HEADER}
# PS3.8 9.3.8: A-ABORT by the service provider, unexpected PDU
_ABORT: Final = bytes((7, 0, 0, 0, 0, 4, 0, 0, 2, 2))
_YIELD_SECONDS, _YIELD_MOST = 0.001, 20  # per association that a process has, before it accepts
_FULL_SECONDS: Final = 0.05  # more, where it can only reject
WAITING_MAX: Final = 256  # connections that said nothing yet; of more the oldest is closed


@dataclass(frozen=True)
class Admission:
    """What a connection must meet before it may ask for an association.

    `refused` is told of each refusal with the peer's address, not of peers that only said nothing.
    """

    allowed: AllowList
    refused: Callable[[Refusal, str], None]
    silence_seconds: float  # longest wait for the first byte
    credentials: ServerCredentials | None = None  # None: no TLS
    handshake_seconds: float = 10.0
    balancers: tuple[Network, ...] = ()  # whose connections begin with a PROXY header


class NodeServer(ThreadedAssociationServer):
    """An association server that admits each connection in a thread of its own."""

    daemon_threads = True  # server_close closes what they wait for; it need not wait for them
    request_queue_size = 128

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  pynetdicom's
        listening: socket.socket,
        admission: Admission,
        **kwargs: Any,  # noqa: ANN401  pynetdicom's
    ) -> None:
        self._listening, self._admission = listening, admission
        # What the accept loop waits for: a connection, or its end, which it need not look for.
        self._ready, self._end = select.epoll(), os.eventfd(0)
        self._ready.register(listening, select.EPOLLIN)
        self._ready.register(self._end, select.EPOLLIN)
        self._lock = threading.Lock()
        self._waiting: dict[socket.socket, None] = {}
        self._ended: dict[Association, float] = {}
        super().__init__(*args, **kwargs)
        self.bind(evt.EVT_CONN_CLOSE, _end_negotiation)

    @classmethod
    def start(
        cls,
        ae: AE,
        listening: socket.socket,
        handlers: list[EventHandlerType],
        admission: Admission,
    ) -> "NodeServer":
        """Serve on a listening socket that does not block, in a thread."""
        server = ae.make_server(
            listening.getsockname(),
            evt_handlers=handlers,
            server_class=cls,
            listening=listening,
            admission=admission,
        )
        server = cast("NodeServer", server)
        threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
        return server

    @property
    def port(self) -> int:
        """The TCP port that the server got."""
        return self.server_address[1]

    def server_bind(self) -> None:
        """Take the socket that is bound already."""
        cast("socket.socket", self.socket).close()
        self.socket = self._listening
        self.server_address = self._listening.getsockname()

    def server_activate(self) -> None:
        """Do nothing: the socket listens already."""

    def fileno(self) -> int:
        """Return what is readable when there is something to do for the accept loop."""
        return self._ready.fileno()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection. Raises BlockingIOError when another process was faster.

        The busier a process is, the later it tries: connections go to the one with the fewest.
        """
        busy = len(self.active_associations)
        is_full = busy >= self.ae.maximum_associations
        time.sleep(_YIELD_SECONDS * min(busy, _YIELD_MOST) + _FULL_SECONDS * is_full)
        return super().get_request()

    def finish_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401  socketserver's
        """Admit one connection and hand it to pynetdicom, in the connection's own thread."""
        client_address = self._source(request, client_address)
        if client_address is None:
            return
        peer = f"{address_of(client_address[0])}:{client_address[1]}"
        if not self._admission.allowed.admits(client_address[0]):
            self._refuse(request, peer, Refusal("address_not_allowed"))
            return
        sock = self._secure(request, peer) if self._speaks(request, peer) else None
        if sock is None:
            self.shutdown_request(request)
            return
        sock.settimeout(self.ae.network_timeout)  # else a read waits for ever in mid-PDU
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # a response is small and last
        super().finish_request(sock, client_address)

    def service_actions(self) -> None:
        """Cut the sockets of associations that are over and still read; every half second."""
        super().service_actions()
        now = time.monotonic()
        over = [assoc for assoc in self.active_associations if _is_over(assoc)]
        self._ended = {assoc: self._ended.get(assoc, now) for assoc in over}
        for assoc, since in self._ended.items():
            if now - since > CUT_SECONDS:
                _cut_association(assoc)

    def cut(self) -> None:
        """Cut every connection, associations included."""
        for assoc in self.active_associations:
            _cut_association(assoc)

    def shutdown(self) -> None:
        """End the accept loop and close its socket and what waits; associations go on."""
        os.eventfd_write(self._end, 1)
        BaseServer.shutdown(self)  # pynetdicom's would look for a server that `start_server` made
        self.server_close()
        self._ready.close()
        os.close(self._end)

    def server_close(self) -> None:
        """Close the listening socket and every connection that has not asked for an association.

        Close it and no more: to shut it down, as pynetdicom does, ends it in every process.
        """
        self._listening.close()
        with self._lock:
            waiting = list(self._waiting)
        for sock in waiting:
            _cut(sock)
        for assoc in self.active_associations:
            if assoc.requestor.primitive is None:
                _cut_association(assoc)

    def handle_error(self, _request: Any, _client_address: Any) -> None:  # noqa: ANN401  socketserver's
        """Log what went wrong with one connection; the others are not touched."""
        log.exception("a connection could not be served")  # noqa: LOG004  called inside one

    def _source(self, request: socket.socket, client_address: Any) -> Any:  # noqa: ANN401  socketserver's
        """Return where a connection comes from: what a trusted balancer says, else what TCP says.

        None: the balancer said nothing of use, and the connection is closed.
        """
        if not is_in(client_address[0], self._admission.balancers):
            return client_address
        peer = f"{address_of(client_address[0])}:{client_address[1]}"
        try:
            with self._wait(request):
                source = read_source(request)
        except NothingSaidError:
            log.debug("%s connected and was gone", peer)
            self.shutdown_request(request)
        except ProxyHeaderError as error:
            self._refuse(request, peer, Refusal("bad_proxy_header", str(error)))
        except OSError:
            log.debug("%s connected and was gone", peer)
            self.shutdown_request(request)
        else:
            return client_address if source is None else source.as_client_address()
        return None

    def _speaks(self, request: socket.socket, peer: str) -> bool:
        """Wait for the first byte: probes that only open, and close or not, end here.

        Without TLS it is the type of the PDU, and an association begins with A-ASSOCIATE-RQ.
        """
        request.settimeout(self._admission.silence_seconds)
        try:
            with self._wait(request):
                first = request.recv(1, socket.MSG_PEEK)
                if self._admission.credentials is None and first not in (b"", _ASSOCIATE_RQ):
                    request.sendall(_ABORT)
                    what = _FOREIGN.get(first, "no association request")
                    log.warning("%s sent %s to the plain port: aborted", peer, what)
                    return False
                return bool(first)
        except TimeoutError:
            log.info("%s connected and said nothing: closed", peer)
        except OSError:
            log.debug("%s connected and was gone", peer)
        return False

    def _secure(self, request: socket.socket, peer: str) -> socket.socket | None:
        """Return the socket to talk through; None when the handshake failed or nothing follows."""
        if self._admission.credentials is None:
            return request
        sock: socket.socket = request
        try:
            sock = self._admission.credentials.context().wrap_socket(
                request, server_side=True, do_handshake_on_connect=False
            )
            sock.settimeout(self._admission.handshake_seconds)
            with self._wait(sock):
                sock.do_handshake()
                log.debug("%s: %s %s", peer, sock.version(), sock.cipher())
                speaks = self._follows(sock)
        except (OSError, ValueError) as error:
            self._refuse(sock, peer, refusal_of(error))
            return None
        if not speaks:
            log.info("%s said nothing after the TLS handshake: closed", peer)
            self.shutdown_request(sock)
        return sock if speaks else None

    def _follows(self, sock: ssl.SSLSocket) -> bool:
        """Wait for something after the handshake."""
        poller = select.poll()
        poller.register(sock, select.POLLIN)
        milliseconds = self._admission.silence_seconds * 1000
        return bool(sock.pending() or poller.poll(milliseconds))

    def _refuse(self, sock: socket.socket, peer: str, refusal: Refusal) -> None:
        self.shutdown_request(sock)
        log.warning("%s refused: %s (%s)", peer, refusal.outcome, refusal.detail or "no detail")
        self._admission.refused(refusal, peer)

    @contextlib.contextmanager
    def _wait(self, sock: socket.socket) -> Iterator[None]:
        """Keep `sock` where `server_close` finds it; close the oldest when there are too many."""
        with self._lock:
            self._waiting[sock] = None
            oldest = next(iter(self._waiting)) if len(self._waiting) > WAITING_MAX else None
        if oldest is not None:
            _cut(oldest)
        try:
            yield
        finally:
            with self._lock:
                self._waiting.pop(sock, None)


def _is_over(assoc: Association) -> bool:
    """Whether an association only waits for its connection to close (PS3.8 9.2, Sta13)."""
    return assoc._kill or assoc.dul.state_machine.current_state == "Sta13"  # noqa: SLF001  no public name


def _cut_association(assoc: Association) -> None:
    _cut(cast("AssociationSocket", assoc.dul.socket).socket)


def _cut(sock: socket.socket | None) -> None:
    """Shut a socket down under whoever reads it: the read ends, and the reader closes it."""
    if sock is not None:
        with contextlib.suppress(OSError):
            socket.socket.shutdown(sock, socket.SHUT_RDWR)  # SSLSocket's forgets its state first


def _end_negotiation(event: Event) -> None:
    """End an acceptor whose connection closed before the A-ASSOCIATE-RQ: it waits for one.

    None is what its queue gives when the wait has timed out.
    """
    if event.assoc.requestor.primitive is None:
        event.assoc.dul.to_user_queue.put(None)
