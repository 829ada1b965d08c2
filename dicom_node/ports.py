"""The listening sockets, bound before anything else: one that is taken ends the start in words."""

import contextlib
import socket
from dataclasses import dataclass
from typing import Final

from dicom_node.errors import StartError
from models.sections import DicomSettings

_BACKLOG: Final = 128


@dataclass(frozen=True)
class Ports:
    """The sockets of the plain port and of the TLS port; None: switched off.

    They do not block: several processes may wait for the same connection, and one gets it.
    """

    plain: socket.socket | None
    tls: socket.socket | None

    def close(self) -> None:
        """Close them in this process."""
        for sock in (self.plain, self.tls):
            if sock is not None:
                sock.close()


def bind(dicom: DicomSettings) -> Ports:
    """Bind and listen. Raises StartError when a port cannot be had."""
    plain = _bound(dicom, dicom.port, "dicom.port (--dicom-port)") if dicom.plain else None
    try:
        tls = None if dicom.tls.port is None else _bound(dicom, dicom.tls.port, "dicom.tls.port")
    except StartError:
        Ports(plain, None).close()
        raise
    return Ports(plain, tls)


def _bound(dicom: DicomSettings, port: int, name: str) -> socket.socket:
    """Return a listening socket; host and port as pynetdicom takes them: IPv4 or IPv6."""
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                dicom.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            sock = stack.enter_context(socket.socket(family, kind, protocol))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of old connections
            sock.bind(address)
            sock.listen(_BACKLOG)
        except OSError as error:
            msg = (
                f"cannot listen on {dicom.host}:{port} ({error.strerror}): "
                f"choose another {name} or stop the program that has it"
            )
            raise StartError(msg) from error
        sock.setblocking(False)
        stack.pop_all()
        return sock
