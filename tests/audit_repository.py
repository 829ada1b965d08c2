"""An audit repository for tests: receives syslog frames over TCP or TLS, and can misbehave."""

import contextlib
import socket
import ssl
import threading
from dataclasses import dataclass, field
from io import BufferedReader
from types import TracebackType
from typing import Self, cast

from certificates import Pair

_SECONDS = 10.0


@dataclass
class Behaviour:
    """What goes wrong."""

    break_after: int | None = None  # messages of a connection; then the receiver is gone
    stay_open: bool = False  # does not close when the sender did
    is_curt: bool = False  # closes without a closure alert of TLS
    confirms_at_most: int | None = None  # messages of a connection; of more it says nothing


@dataclass
class AuditRepository:
    """A running receiver; `messages` are the SYSLOG-MSGs, in order of arrival."""

    pair: Pair | None = None
    port: int = 0
    behaviour: Behaviour = field(default_factory=Behaviour)
    messages: list[bytes] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listening.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(_SECONDS)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]  # a method
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                self._start(self._serve, sock)

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(_SECONDS)
        with plain, contextlib.suppress(OSError):
            sock = plain
            if self.pair is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.pair.certificate, self.pair.private_key)
                sock = context.wrap_socket(plain, server_side=True)
            with sock, sock.makefile("rb") as stream:
                self._receive(sock, cast("BufferedReader", stream))

    def _receive(self, sock: socket.socket, stream: BufferedReader) -> None:
        received = 0
        while (length := self._length(stream)) is not None:
            self.messages.append(stream.read(length))
            received += 1
            if received == self.behaviour.break_after:
                return  # whatever else was read is lost, and no alert says so
        if self.behaviour.stay_open:
            self._ended.wait(_SECONDS)
        most = self.behaviour.confirms_at_most
        is_curt = self.behaviour.is_curt or (most is not None and received > most)
        if isinstance(sock, ssl.SSLSocket) and not is_curt:
            sock.unwrap()

    @staticmethod
    def _length(stream: BufferedReader) -> int | None:
        digits = b""
        while (each := stream.read(1)) not in {b" ", b""}:
            digits += each
        return int(digits) if each else None
