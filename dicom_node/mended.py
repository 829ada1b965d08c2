"""Two faults of pynetdicom 3.0, mended in every association that we request or accept.

An answer is stolen. pynetdicom reads an association in a thread of its own, the reactor, which
pauses while another thread sends a request and waits for the answer. It says `_is_paused`, looks
whether it may go on, and only then takes the word back; who begins to send in between believes in a
pause that is over. The reactor then takes the answer ("Received unexpected C-STORE service
message"), and the sender waits for its time-out (pydicom/pynetdicom#875): on a busy machine one
request in some hundreds. A `ReactorCheckpoint` in place of the association's `_reactor_checkpoint`
takes the word back in the same step in which the reactor may go on. Not for
`network_timeout_response` "A-RELEASE", for which the reactor counts on its own pause after the
wait; ours is "A-ABORT", the default.

A socket stays open. pynetdicom closes one only if it could shut it down, which it cannot when the
peer was faster: the descriptor is left to the garbage collector. `close_in_any_case` closes it.

They use `_reactor_checkpoint` and `_is_paused` of pynetdicom's association and `_shutdown_socket`
of its transport; test_mended.py in tests/unit/dicom_node notices when a new pynetdicom no longer
works so.
"""

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Final, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType

if TYPE_CHECKING:
    from pynetdicom.transport import AssociationSocket


class ReactorCheckpoint(threading.Event):
    """Where the reactor of one association pauses; set: it may go on."""

    def __init__(self, assoc: Association) -> None:
        super().__init__()
        self._assoc = assoc
        self._passing = threading.Lock()
        self.set()

    def clear(self) -> None:
        """Stop the reactor; whether it stands by now says `_is_paused`, truly."""
        with self._passing:
            super().clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the reactor may go on, and take back that it is paused."""
        while super().wait(timeout):
            with self._passing:
                if self.is_set():
                    self._assoc._is_paused = False  # noqa: SLF001  no public name
                    return True
        return False


def close_in_any_case(assoc: Association) -> None:
    """Have the connection's socket closed at its end, whoever ends it."""
    transport = cast("AssociationSocket", assoc.dul.socket)

    def close() -> None:
        if transport.socket is not None:
            with contextlib.suppress(OSError):
                transport.socket.shutdown(socket.SHUT_RDWR)
            transport.socket.close()

    vars(transport).update(_shutdown_socket=close)


def _mend(event: Event) -> None:
    event.assoc._reactor_checkpoint = ReactorCheckpoint(event.assoc)  # noqa: SLF001  no public name
    close_in_any_case(event.assoc)


# For `evt_handlers` of AE.associate: the connection is open, the reactor does not run yet.
MENDED: Final[EventHandlerType] = (evt.EVT_CONN_OPEN, _mend)
