"""A TCP proxy on 127.0.0.1 that misbehaves when told: cuts, goes deaf, dawdles byte by byte."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close sends RST
_PIECE_BYTES = 65536


@dataclass(frozen=True)
class Manner:
    """How bytes are passed on in one direction: at most `piece_bytes`, then a pause."""

    piece_bytes: int = _PIECE_BYTES
    pause_seconds: float = 0.0


PROMPT = Manner()


@dataclass(eq=False)
class _Pair:
    """One connection: the client's socket and ours to the server."""

    client: socket.socket
    server: socket.socket
    is_deaf: bool = False
    halves_open: int = 2

    def reset(self) -> None:
        """End both sides with RST."""
        for sock in (self.client, self.server):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RD)  # wakes the pump that reads it
            sock.close()


class Proxy:
    """Passes connections on to `target_port`; the manner may change while they are open."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.to_server, self.to_client = PROMPT, PROMPT
        self.accepted = 0
        self.refused = 0
        self.passed = 0  # bytes, both ways
        self.is_open = True
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        with self._lock:
            return len(self._pairs)

    def cut(self) -> int:
        """Reset every open connection; return how many."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def deafen(self) -> int:
        """Swallow from now on what open connections carry, as a firewall that forgot them.

        Nobody is told: no FIN, no RST. New connections are passed on. Returns how many went deaf.
        """
        with self._lock:
            for pair in self._pairs:
                pair.is_deaf = True
            return len(self._pairs)

    @contextlib.contextmanager
    def manner(self, *, to_server: Manner = PROMPT, to_client: Manner = PROMPT) -> Iterator[None]:
        """Pass bytes on in another manner for a block."""
        self.to_server, self.to_client = to_server, to_client
        try:
            yield
        finally:
            self.to_server, self.to_client = PROMPT, PROMPT

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Reset every connection, and every new one at once, for a block."""
        self.is_open = False
        self.cut()
        try:
            yield
        finally:
            self.is_open = True

    def close(self) -> None:
        """Stop accepting and reset what is open."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            server = self._connect() if self.is_open else None
            if server is None:
                self.refused += 1
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                client.close()
                continue
            pair = _Pair(client, server)
            with self._lock:
                self._pairs.add(pair)
            for way in (True, False):
                threading.Thread(target=self._pump, args=(pair, way), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        try:
            sock = socket.create_connection(("127.0.0.1", self.target_port), 5.0)
        except OSError:
            return None
        sock.settimeout(None)
        return sock

    def _pump(self, pair: _Pair, is_request: bool) -> None:  # noqa: FBT001  a direction
        source, target = (pair.client, pair.server)[:: 1 if is_request else -1]
        try:
            while data := source.recv(self._manner(is_request).piece_bytes):
                if not pair.is_deaf:
                    target.sendall(data)
                    self.passed += len(data)
                time.sleep(self._manner(is_request).pause_seconds)
            if not pair.is_deaf:
                target.shutdown(socket.SHUT_WR)
        except OSError:
            pair.halves_open = 0
        else:
            pair.halves_open -= 1
        if not pair.halves_open and not pair.is_deaf:
            with self._lock:
                self._pairs.discard(pair)
            pair.reset()

    def _manner(self, is_request: bool) -> Manner:  # noqa: FBT001  a direction
        return self.to_server if is_request else self.to_client
