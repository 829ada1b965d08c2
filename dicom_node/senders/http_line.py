"""One HTTP connection on which every wait ends: also for a server that sends byte by byte.

The standard library's client: it follows no redirection and heeds no proxy of the environment, so
objects go where the settings say and nowhere else.
"""

import contextlib
import io
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import Final

from typing_extensions import Buffer, override

from dicom_node.senders.store_response import HttpAnswer
from dicom_node.tls import handshake_problem
from models.web_address import WebAddress

_MAX_BODY: Final = 1 << 20  # bytes of an answer that are read
_CLOSED_THERE: Final = (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError)


class HttpLine:
    """A connection that is opened when it is needed, and again after the server closed it.

    `timeout_seconds` is the longest wait for the connection, for each piece of a request to leave,
    and for a whole answer.
    """

    def __init__(
        self, address: WebAddress, timeout_seconds: float, context: ssl.SSLContext | None
    ) -> None:
        self._connection = (
            HTTPSConnection(address.host, address.port, timeout=timeout_seconds, context=context)
            if context is not None
            else HTTPConnection(address.host, address.port, timeout=timeout_seconds)
        )
        self._connection.response_class = _TimedResponse
        self._address, self._context = address, context
        self._timeout = timeout_seconds

    def connect(self) -> None:
        """Open the connection where it is not. Raises OSError, TLS errors among them."""
        if self._connection.sock is None:
            self._connection.connect()
        self._connection.sock.settimeout(self._timeout)

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        length: int = 0,
        body: Iterable[bytes] = (),
    ) -> HttpAnswer:
        """Send a request and return the answer. Raises OSError or HTTPException without one.

        A server that refuses a request may answer before it has read all of it, and close.
        """
        wanted = {**headers, "Content-Length": str(length)} if length else dict(headers)
        try:
            with contextlib.suppress(*_CLOSED_THERE):
                self._connection.request(method, target, body or None, wanted)
            response = self._connection.getresponse()
            content = response.read(_MAX_BODY)
            if response.length and len(content) < _MAX_BODY:
                raise IncompleteRead(content, response.length)
            if not response.isclosed():
                self.close()  # a longer answer than anybody needs
        except (OSError, HTTPException):
            self.close()
            raise
        return HttpAnswer(response.status, content, response.headers.get("Retry-After"))

    def tls_problem(self) -> str | None:
        """Return what fails in a handshake, part of a sentence; None when TLS is not at fault."""
        address = self._address
        return handshake_problem(self._context, address.host, address.port, self._timeout)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._connection.close()


class _TimedResponse(HTTPResponse):
    """An answer that must be whole within the time-out of its socket."""

    def __init__(
        self,
        sock: socket.socket,
        debuglevel: int = 0,
        method: str | None = None,
        url: str | None = None,
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class _TimedReader(io.RawIOBase):
    """Reads from a socket until a deadline; then TimeoutError."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock, self._raw = sock, raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            msg = "the answer took too long"
            raise TimeoutError(msg)
        self._sock.settimeout(left)
        return self._raw.readinto(memoryview(buffer))

    @override
    def close(self) -> None:
        self._raw.close()
        super().close()


def why(error: Exception) -> str:
    """Return why a connection failed, as a part of a sentence that quotes nothing of the peer."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: its certificate is refused here ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return f"TLS: the handshake failed ({error.reason or type(error).__name__})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"no HTTP answer came ({type(error).__name__})"
