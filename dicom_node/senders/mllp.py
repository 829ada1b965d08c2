"""One MLLP connection (HL7 Transport Specification MLLP, release 1) on which every wait ends.

A block is <VT> message <FS><CR>. The answer to a block must be whole within the time-out, also
from a peer that sends byte by byte.
"""

import contextlib
import socket
import ssl
import time
from typing import Final

from dicom_node.tls import handshake_problem
from models.web_address import WebAddress

_START: Final = b"\x0b"
_END: Final = b"\x1c\r"
_BETWEEN: Final = b"\r\n"  # what some send between two blocks
_PIECE: Final = 1 << 16
_MAX_BLOCK: Final = 1 << 20
_LOOK_SECONDS: Final = 0.5


# The peer has closed the connection, or closes it while something is said to it.
ENDED: Final = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class MllpError(Exception):
    """What came is no block."""


class MllpLine:
    """A connection that is opened when it is needed."""

    def __init__(
        self, address: WebAddress, timeout_seconds: float, context: ssl.SSLContext | None
    ) -> None:
        self._address, self._timeout, self._context = address, timeout_seconds, context
        self._sock: socket.socket | None = None
        self._rest = b""  # what came behind the last block

    def connect(self) -> bool:
        """Open the connection where it is not, or was ended by the peer; say whether it was open.

        Raises OSError, TLS errors among them.
        """
        if self._sock is not None and not self._has_ended(self._sock):
            return True
        self.close()
        address = self._address
        sock = socket.create_connection((address.host, address.port), self._timeout)
        try:
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_hostname=address.host)
        except BaseException:
            sock.close()
            raise
        self._sock, self._rest = sock, b""
        return False

    def _has_ended(self, sock: socket.socket) -> bool:
        """Say whether the peer has ended the connection; what came before that is kept.

        Many do so after each acknowledgement.
        """
        sock.settimeout(0)
        try:
            while len(self._rest) <= _MAX_BLOCK:
                piece = sock.recv(_PIECE)
                if not piece:
                    return True
                self._rest += piece
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return False

    def say(self, message: bytes) -> None:
        """Send a block over the connection, which is open. Raises OSError."""
        assert self._sock is not None  # noqa: S101  connected
        self._sock.settimeout(self._timeout)
        self._sock.sendall(_START + message + _END)

    def hear(self, deadline: float) -> bytes:
        """Return the content of the next block, which must be whole by then (monotonic clock).

        Raises MllpError where something else comes, OSError where nothing does.
        """
        while True:
            self._rest = self._rest.lstrip(_BETWEEN)
            if self._rest and not self._rest.startswith(_START):
                msg = "what came does not begin as a block"
                raise MllpError(msg)
            content, end, rest = self._rest[1:].partition(_END)
            if end:
                self._rest = rest
                return content
            if len(self._rest) > _MAX_BLOCK:
                msg = "the block does not end"
                raise MllpError(msg)
            self._rest += self._receive(deadline)

    def _receive(self, deadline: float) -> bytes:
        left = deadline - time.monotonic()
        if left <= 0 or self._sock is None:
            msg = "the answer took too long"
            raise TimeoutError(msg)
        self._sock.settimeout(left)
        piece = self._sock.recv(_PIECE)
        if not piece:
            msg = "the connection was closed"
            raise ConnectionResetError(msg)
        return piece

    def is_closed_there(self) -> bool:
        """Say whether the peer ends a new connection at once, before anything is said."""
        try:
            self._rest += self._receive(time.monotonic() + _LOOK_SECONDS)
        except TimeoutError:
            return False
        except OSError:
            return True
        return False

    def deadline(self) -> float:
        """Return until when an answer to what is said now must be whole."""
        return time.monotonic() + self._timeout

    def tls_problem(self) -> str | None:
        """Return what fails in a handshake, part of a sentence; None when TLS is not at fault."""
        address = self._address
        return handshake_problem(self._context, address.host, address.port, self._timeout)

    def close(self) -> None:
        """Close the connection."""
        sock, self._sock, self._rest = self._sock, None, b""
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.close()
