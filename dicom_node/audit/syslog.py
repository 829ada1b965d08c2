"""Syslog (RFC 5424) over TLS (RFC 5425) or TCP, to an audit repository (PS3.15 A.6).

Syslog has no answers, and what was written to a socket may still be lost when the other side goes
away. So messages go in batches, one connection each, and a batch counts as sent when the receiver
has closed the connection in answer to our close: TLS says so by its closure alert, which comes
after all data was read (RFC 5425 4.4), and TCP resets a connection of which something was not read.
"""

import contextlib
import fcntl
import os
import socket
import ssl
import sys
import termios
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from models.people_sections import RepositorySettings

AUDIT_MESSAGE: Final = "DICOM+RFC3881"  # MSGID (PS3.15 A.6)
SEAL: Final = "AUDIT-SEAL"
NOTICE: Final = 5
_FACILITY: Final = 10  # security/authorization messages
_APP_NAME: Final = "dicom-node"
_BLOCK: Final = 4096
_LOOK_SECONDS: Final = 0.01
_BOM: Final = b"\xef\xbb\xbf"  # RFC 5424 6.4: MSG is UTF-8


@dataclass(frozen=True)
class Line:
    """Where to send, and the TLS context; None: plain TCP."""

    host: str
    port: int
    timeout_seconds: float
    context: ssl.SSLContext | None = None


def repository_name(repository: RepositorySettings) -> str | None:
    """Return the name of the configured repository; None: there is none."""
    return None if repository.host is None else f"{repository.host}:{repository.port}"


def frame(message: bytes, msg_id: str, severity: int, at: datetime, host: str) -> bytes:
    """Return a SYSLOG-FRAME: a message with its header and its length (RFC 5425 4.3)."""
    time = at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    name = "".join(each if "!" <= each <= "~" else "-" for each in host)[:255] or "-"
    head = f"<{_FACILITY * 8 + severity}>1 {time} {name} {_APP_NAME} {os.getpid()} {msg_id} - "
    whole = head.encode() + _BOM + message
    return b"%d %b" % (len(whole), whole)


class UnconfirmedError(OSError):
    """The receiver closed the connection in good order, but without the closure alert of TLS.

    Some never send one; of others it means that they ended before they had read everything.
    """

    def __init__(self) -> None:
        super().__init__("it closed the connection without a closure alert of TLS")


class UnreachableError(OSError):
    """There was no connection, so nothing was sent."""


def send(line: Line, frames: Iterable[bytes]) -> None:
    """Send a batch; when this returns, the receiver has read all of it.

    Raises UnreachableError when it has nothing, UnconfirmedError when it probably has all, other
    OSErrors when it may have some of it.
    """
    with _connect(line) as sock:
        _write(sock, frames)
        if isinstance(sock, ssl.SSLSocket):
            if not _is_confirmed(sock):
                _require_read(sock, line.timeout_seconds)
                raise UnconfirmedError
            return
        sock.shutdown(socket.SHUT_WR)
        _wait_for_end(sock)
        _require_read(sock, line.timeout_seconds)


def _connect(line: Line) -> socket.socket:
    """Return a connection. Raises UnreachableError."""
    try:
        plain = socket.create_connection((line.host, line.port), line.timeout_seconds)
        if line.context is None:
            return plain
        with plain:  # the other one takes it over
            return line.context.wrap_socket(plain, server_hostname=line.host)
    except OSError as error:
        raise UnreachableError(str(error)) from error


def _write(sock: socket.socket, frames: Iterable[bytes]) -> None:
    for each in frames:
        sock.sendall(each)


def _is_confirmed(secure: ssl.SSLSocket) -> bool:
    """Send our closure alert; say whether the receiver answered with its own. Raises OSError."""
    try:
        secure.unwrap()
    except TimeoutError:
        return False
    except ssl.SSLError as error:
        if error.reason is not None and "EOF" not in error.reason:
            raise
        return False
    return True


def _wait_for_end(sock: socket.socket) -> None:
    with contextlib.suppress(TimeoutError):
        while sock.recv(_BLOCK):
            pass


def _require_read(sock: socket.socket, seconds: float) -> None:
    """Wait until the other side's TCP has all we wrote. Raises OSError when it did not take it.

    A process that ends with something unread, or gets something after it ended, resets.
    """
    deadline = time.monotonic() + seconds
    while _unacknowledged(sock):
        if time.monotonic() > deadline:
            msg = "it did not take everything in time"
            raise TimeoutError(msg)
        time.sleep(_LOOK_SECONDS)
    if (error := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)) != 0:
        raise OSError(error, os.strerror(error))


def _unacknowledged(sock: socket.socket) -> int:
    """Return how many bytes wait to be sent or acknowledged; 0 for a connection that is over."""
    waiting = bytearray(4)
    try:
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, waiting)
    except OSError:
        return 0
    return int.from_bytes(waiting, sys.byteorder)
