"""An end for every wait on an association of ours, also on a peer that sends byte by byte.

pynetdicom takes the time-out off a connection once it is there, and reads a PDU to its end before
it looks at any clock: a peer that freezes or dribbles would keep the association and its thread for
as long as it likes. Its own time-outs cover only what is between PDUs.
"""

import time
from functools import partial
from typing import Final, cast

from pynetdicom.events import Event
from pynetdicom.transport import AssociationSocket

_PIECE: Final = 1 << 16


def set_deadline(event: Event) -> None:
    """On EVT_CONN_OPEN: let each read, write and whole PDU end after the network time-out."""
    transport = cast("AssociationSocket", event.assoc.dul.socket)
    seconds = event.assoc.network_timeout
    if transport.socket is not None and seconds is not None:
        transport.socket.settimeout(seconds)
        vars(transport)["recv"] = partial(_receive, transport, seconds)


def _receive(transport: AssociationSocket, seconds: float, size: int) -> bytearray:
    """Return `size` bytes, fewer where the peer closed. Raises TimeoutError, OSError."""
    sock, data = transport.socket, bytearray()
    if sock is None:
        msg = "the connection is closed"
        raise OSError(msg)
    deadline = time.monotonic() + seconds
    try:
        while len(data) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                msg = "the peer sent too slowly"
                raise TimeoutError(msg)
            sock.settimeout(left)
            piece = sock.recv(min(_PIECE, size - len(data)))
            if not piece:
                break
            data += piece
    finally:
        sock.settimeout(seconds)
    return data
