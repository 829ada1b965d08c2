"""Reads what comes over one association: C-STORE goes straight to disk, the rest to pynetdicom.

pynetdicom 3.0 decodes each PDU into objects, queues it for a second thread, and both threads sleep
a millisecond between two looks: an image of 0.5 MB takes about 4 ms, most of it waiting. It has no
setting for that. It also chooses the service by the SOP Class that a command names, not by the
operation, and ends the association without a status when a temporary file cannot be written.

`StoreReader` takes the place of `DULServiceProvider._read_pdu_data`, in the thread that reads the
socket. C-STORE requests are received, served and answered in that thread, without a queue between;
every other PDU is given to pynetdicom as it would have read it, and so are commands that are no
C-STORE. While nothing comes both threads wait, and do not look a thousand times a second. The state
machine stays in Sta6 (PS3.8 9.2): receiving and sending P-DATA does not leave it.

It uses `_read_pdu_data`, `_is_transport_event`, `_decode_pdu`, `_recv_pdu`, `event_queue`,
`to_provider_queue`, `_idle_timer`, `_kill_thread` and `state_machine.current_state` of pynetdicom's
DUL, and `_accepted_cx` and `_reactor_checkpoint` of its association. test_reader.py in
tests/integration notices when a new pynetdicom no longer works so.
"""

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from pynetdicom.association import Association

from dicom_node.mended import ReactorCheckpoint, close_in_any_case
from dicom_node.pdu import (
    IS_COMMAND,
    IS_LAST,
    P_DATA_TF,
    PDU_HEAD,
    PDV_HEAD,
    PDV_OVERHEAD,
    StoreCommand,
    parse_store_command,
    store_response,
)
from dicom_node.peer import peer_of
from dicom_node.receive import ReceivedFile, Reception
from dicom_node.types import Peer, StoreRequest

if TYPE_CHECKING:
    from pynetdicom.transport import AssociationSocket

log = logging.getLogger(__name__)

Serve = Callable[[Association, StoreCommand, ReceivedFile | None], int]

_CHUNK_BYTES: Final = 1 << 18  # of what is no data set, read at once
_FOREIGN_BYTES: Final = 8 << 20  # longest PDU, or command, that is read into memory
_TICK_SECONDS: Final = 0.05  # between two looks whether pynetdicom has something to do
_AWAKE_SECONDS: Final = 1.0  # after which pynetdicom's threads go back to that pace
_ESTABLISHED: Final = "Sta6"  # PS3.8 9.2.2
_CLOSED, _INVALID = "Evt17", "Evt19"  # PS3.8 9.2.3


class _ConnectionClosedError(Exception):
    """The peer closed the connection."""


class _InvalidPduError(Exception):
    """The peer broke the protocol: the association is aborted (PS3.8 9.2.3, Evt19)."""


@dataclass
class _Message:
    """A C-STORE whose data set is being received."""

    command: StoreCommand
    file: ReceivedFile


class _Checkpoint(ReactorCheckpoint):
    """The pause between two looks of pynetdicom's second thread, which it makes 1 ms long.

    That thread serves what is no C-STORE, and notices the end of the association. It may rest until
    the reader has something for it. While it waits here, others may use the association: for
    pynetdicom it is paused.
    """

    def __init__(self, assoc: Association) -> None:
        super().__init__(assoc)
        self._wanted = threading.Event()
        self._awake_until = 0.0

    @property
    def is_awake(self) -> bool:
        """Whether the thread has had something to do just now."""
        return time.monotonic() < self._awake_until

    def wake(self) -> None:
        """Have the thread look at once, and for a while as often as it likes."""
        self._awake_until = time.monotonic() + _AWAKE_SECONDS
        self._wanted.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for something to do, not long, and while another thread uses the association."""
        if not self.is_awake:
            self._wanted.wait(_TICK_SECONDS)
        is_set = super().wait(timeout)
        self._wanted.clear()
        return is_set


class StoreReader:
    """The reading side of one association, in its DUL thread."""

    def __init__(self, assoc: Association, reception: Reception, serve: Serve) -> None:
        self._assoc, self._dul = assoc, assoc.dul
        self._reception, self._serve = reception, serve
        self._sock: socket.socket | None = None
        self._poller = select.poll()
        self._message: _Message | None = None
        self._fragments: list[tuple[int, int, bytes]] = []  # of a command, until it is whole
        self._foreign: list[tuple[int, int, bytes]] = []  # fragments of pynetdicom's messages
        self._held = 0  # bytes of both
        self._peer: Peer | None = None
        self._checkpoint = _Checkpoint(assoc)
        self._look = self._dul._is_transport_event  # noqa: SLF001  no public name

    def attach(self) -> None:
        """Read for the association from now on. Call before it is accepted."""
        self._sock = cast("AssociationSocket", self._dul.socket).socket
        if self._sock is not None:
            self._poller.register(self._sock, select.POLLIN)
        vars(self._dul).update(_read_pdu_data=self.read, _is_transport_event=self.look)
        self._assoc._reactor_checkpoint = self._checkpoint  # noqa: SLF001  no public name
        close_in_any_case(self._assoc)

    def look(self) -> bool:
        """Read if there is something to read. In place of `_is_transport_event`."""
        if self._dul.state_machine.current_state == _ESTABLISHED and not self._checkpoint.is_awake:
            self._follows()
        return self._look()

    def read(self) -> None:
        """Read PDUs until pynetdicom has something to do. In place of `_read_pdu_data`."""
        try:
            self._read_pdu()
            while self._follows():
                self._read_pdu()
        except (OSError, _ConnectionClosedError) as error:
            self._drop(type(error).__name__)
            self._end(_CLOSED)
        except _InvalidPduError as error:
            log.warning("association aborted: %s", error)
            self._drop(str(error))
            self._end(_INVALID)
        except Exception:
            self._drop("an error of the node")
            raise  # pynetdicom logs it and aborts the association

    def _end(self, event: str) -> None:
        self._checkpoint.wake()
        self._dul.event_queue.put(event)

    def _drop(self, why: str) -> None:
        """Remove what was half received."""
        message, self._message = self._message, None
        if message is not None:
            self._reception.end(message.file)
            log.warning("connection ended in the middle of a data set: %s", why)
        else:
            log.debug("connection ended: %s", why)

    def _follows(self) -> bool:
        """Wait for the next PDU; False as soon as pynetdicom has something to do."""
        if self._message is not None:
            return True  # a data set is read to its end, or to the time-out of the socket
        while not self._is_wanted():
            if isinstance(self._sock, ssl.SSLSocket) and self._sock.pending():
                return True
            if self._poller.poll(1000 * _TICK_SECONDS):
                return True
        return False

    def _is_wanted(self) -> bool:
        """Whether pynetdicom has something to send, to act on, or to end."""
        dul = self._dul
        is_idle = dul.to_provider_queue.empty() and dul.event_queue.empty()
        return not is_idle or dul._kill_thread  # noqa: SLF001  no public name

    def _read_pdu(self) -> None:
        head = self._exactly(PDU_HEAD.size)
        kind, length = PDU_HEAD.unpack(head)
        if kind == P_DATA_TF and self._dul.state_machine.current_state == _ESTABLISHED:
            self._read_p_data(length)
            self._pass_fragments_on()
            return
        if self._message is not None:
            self._drop(f"PDU of type {kind}")
        if length > _FOREIGN_BYTES:
            msg = f"a PDU of {length} bytes"
            raise _InvalidPduError(msg)
        self._pass_on(head + self._exactly(length))

    def _pass_on(self, raw: bytes) -> None:
        """Give a PDU to pynetdicom, as its own method does."""
        try:
            pdu, event = self._dul._decode_pdu(bytearray(raw))  # noqa: SLF001  no public name
        except Exception as error:
            raise _InvalidPduError(type(error).__name__) from error
        self._checkpoint.wake()
        self._dul.event_queue.put(event)
        self._dul._recv_pdu.put(pdu)  # noqa: SLF001  no public name

    def _pass_fragments_on(self) -> None:
        if not self._foreign:
            return
        self._held = 0
        items = b"".join(
            PDV_HEAD.pack(len(fragment) + 2, context_id, control) + fragment
            for context_id, control, fragment in self._foreign
        )
        self._foreign = []
        self._pass_on(PDU_HEAD.pack(P_DATA_TF, len(items)) + items)

    def _read_p_data(self, left: int) -> None:
        """Read the presentation data values of one P-DATA-TF PDU (PS3.8 9.3.5)."""
        self._dul._idle_timer.restart()  # noqa: SLF001  no public name
        while left:
            if left < PDV_OVERHEAD:
                msg = "a P-DATA-TF PDU that ends in the middle of an item"
                raise _InvalidPduError(msg)
            length, context_id, control = PDV_HEAD.unpack(self._exactly(PDV_OVERHEAD))
            left -= length + 4
            if length < 2 or left < 0:  # noqa: PLR2004  context ID and control header
                msg = "an item that is longer than its P-DATA-TF PDU"
                raise _InvalidPduError(msg)
            self._read_fragment(context_id, control, length - 2)

    def _read_fragment(self, context_id: int, control: int, length: int) -> None:
        message = self._message
        if message is None or control & IS_COMMAND:
            self._read_other_fragment(context_id, control, length)
            return
        if context_id != message.command.context_id:
            msg = "a data set in another presentation context than its command"
            raise _InvalidPduError(msg)
        self._receive(message.file, length)
        if control & IS_LAST:
            self._message = None
            self._answer(message.command, message.file)

    def _read_other_fragment(self, context_id: int, control: int, length: int) -> None:
        """Read a fragment of a command, or of a data set that is not ours."""
        if self._message is not None:
            msg = "a command in the middle of a data set"
            raise _InvalidPduError(msg)
        self._held += length + PDV_OVERHEAD
        if self._held > _FOREIGN_BYTES:
            msg = "a message that is too long for any service"
            raise _InvalidPduError(msg)
        fragment = (context_id, control, self._exactly(length))
        if not control & IS_COMMAND:
            self._foreign.append(fragment)
            return
        self._fragments.append(fragment)
        if control & IS_LAST:
            fragments, self._fragments = self._fragments, []
            command = parse_store_command(b"".join(each[2] for each in fragments), context_id)
            if command is None:
                self._foreign += fragments
            else:
                self._held = 0
                self._begin(command)

    def _begin(self, command: StoreCommand) -> None:
        context = self._assoc._accepted_cx.get(command.context_id)  # noqa: SLF001  no public name
        if context is None or not (command.sop_class_uid and command.sop_instance_uid):
            msg = "a C-STORE without an accepted context, SOP Class UID or SOP Instance UID"
            raise _InvalidPduError(msg)
        if not command.has_data_set:
            self._answer(command, None)
            return
        request = StoreRequest(
            command.sop_class_uid, command.sop_instance_uid, str(context.transfer_syntax[0])
        )
        if self._peer is None:
            self._peer = peer_of(self._assoc)
        self._message = _Message(command, self._reception.open(request, self._peer))

    def _receive(self, file: ReceivedFile, length: int) -> None:
        sock = self._connected()
        while length:
            room = file.room()
            count = sock.recv_into(room, min(length, len(room)))
            if count == 0:
                raise _ConnectionClosedError
            file.filled(count)
            length -= count
            self._dul._idle_timer.restart()  # noqa: SLF001  no public name

    def _answer(self, command: StoreCommand, file: ReceivedFile | None) -> None:
        """Serve one C-STORE and send its response."""
        idle = self._dul._idle_timer  # noqa: SLF001  no public name
        idle.stop()  # the peer waits for us
        try:
            status = self._serve(self._assoc, command, file)
        finally:
            idle.restart()
            if file is not None:
                self._reception.end(file)
        self._connected().sendall(
            store_response(command, status, self._assoc.requestor.maximum_length or 0)
        )

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise _ConnectionClosedError
        return self._sock

    def _exactly(self, length: int) -> bytes:
        """Read so many bytes. Raises _ConnectionClosedError, OSError when the time is up."""
        sock, data = self._connected(), bytearray()
        while len(data) < length:
            part = sock.recv(min(length - len(data), _CHUNK_BYTES))
            if not part:
                raise _ConnectionClosedError
            data += part
        return bytes(data)
