"""Sends over a pynetdicom association whose other thread keeps its hands off the answer.

pynetdicom 3.0 reads an association in a thread of its own, the reactor, which pauses while another
thread sends a request and waits for the answer. It says `_is_paused`, looks whether it may go on,
and only then takes the word back; who begins to send in between believes in a pause that is over.
The reactor then takes the answer ("Received unexpected C-STORE service message"), and the sender
waits for its time-out (pydicom/pynetdicom#875): on a busy machine one request in some hundreds.

A `ReactorCheckpoint` in place of the association's `_reactor_checkpoint` takes the word back in the
same step in which the reactor may go on. Not for `network_timeout_response` "A-RELEASE", for which
the reactor counts on its own pause after the wait; ours is "A-ABORT", the default. It uses
`_reactor_checkpoint` and `_is_paused` of pynetdicom's association; test_checkpoint.py in
tests/unit/dicom_node notices when a new pynetdicom no longer works so.
"""

import threading
from typing import Final

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType


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


def _install(event: Event) -> None:
    event.assoc._reactor_checkpoint = ReactorCheckpoint(event.assoc)  # noqa: SLF001  the same


# For `evt_handlers` of AE.associate: the connection is open, the reactor does not run yet.
CHECKPOINT: Final[EventHandlerType] = (evt.EVT_CONN_OPEN, _install)
