"""DICOM Web servers that answer what a test tells them to; requests are read from the wire."""

import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread

Say = Callable[[bytes], None]


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def part(self) -> tuple[dict[str, str], bytes]:
        """Headers and bytes of the only part of the multipart body (RFC 2046)."""
        _, _, boundary = self.headers["content-type"].partition("boundary=")
        start, end = f"--{boundary}\r\n".encode(), f"\r\n--{boundary}--\r\n".encode()
        assert self.body.startswith(start)
        assert self.body.endswith(end)
        head, _, data = self.body[len(start) : -len(end)].partition(b"\r\n\r\n")
        lines = (line.split(": ", 1) for line in head.decode().split("\r\n"))
        return {name.lower(): value for name, value in lines}, data

    @property
    def uid(self) -> str:
        """The SOP Instance UID of the object."""
        return str(dcmread(BytesIO(self.part[1]), stop_before_pixels=True).SOPInstanceUID)


def http(code: int, body: bytes = b"", **headers: str) -> bytes:
    """Return an answer; underscores in names of headers are hyphens."""
    lines = [f"HTTP/1.1 {code} Whatever", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def module(referenced: dict[str, int | None], failed: dict[str, int | None]) -> bytes:
    """Return a Store Instances Response Module (PS3.18 Annex I) with their reasons."""
    document: dict[str, Any] = {}
    for tag, reason_tag, uids in (
        ("00081199", "00081196", referenced),
        ("00081198", "00081197", failed),
    ):
        items = []
        for uid, reason in uids.items():
            item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
            if reason is not None:
                item[reason_tag] = {"vr": "US", "Value": [reason]}
            items.append(item)
        if items:
            document[tag] = {"vr": "SQ", "Value": items}
    return json.dumps(document).encode()


@dataclass
class WebPeer:
    """A server; `answer` gets each request and a function that writes to the connection.

    What it returns is written too; None closes the connection without an answer.
    """

    answer: Callable[[Request, Say], bytes | None] = lambda _request, _say: http(200)
    context: ssl.SSLContext | None = None
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    port: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator["WebPeer"]:
        """Serve for a block."""
        with socket.create_server(("127.0.0.1", self.port)) as listening:
            self.port = listening.getsockname()[1]
            accepting = threading.Thread(target=self._accept, args=(listening,))
            accepting.start()
            try:
                yield self
            finally:
                listening.shutdown(socket.SHUT_RDWR)
                accepting.join()
                for thread in self._threads:
                    thread.join(10)

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http{'s' if self.context else ''}://127.0.0.1:{self.port}/dicom-web/"

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                sock, _ = listening.accept()
            except OSError:
                return
            self.connections += 1
            self._threads.append(threading.Thread(target=self._serve, args=(sock,)))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with sock, suppress(OSError, ValueError):  # what is no HTTP gets no answer
            sock.settimeout(20)
            if self.context is None:
                self._converse(sock)
                return
            with self.context.wrap_socket(sock, server_side=True) as secure:
                self._converse(secure)

    def _converse(self, sock: socket.socket) -> None:
        with sock.makefile("rb") as stream:
            while (line := stream.readline()).strip():
                method, target, _ = line.decode().split(" ", 2)
                lines = [it.decode() for it in iter(lambda: stream.readline().strip(), b"")]
                pairs = (it.split(": ", 1) for it in lines)
                headers = {name.lower(): value for name, value in pairs}
                body = stream.read(int(headers.get("content-length", 0)))
                self.requests.append(Request(method, target, headers, body))
                said = self.answer(self.requests[-1], sock.sendall)
                if said is None:
                    return
                sock.sendall(said)
