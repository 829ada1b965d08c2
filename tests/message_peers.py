"""Receivers of messages that run for real: the `hl7` package's MLLP server, and a FHIR server."""

import asyncio
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import hl7
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fhir.resources.R4B.bundle import Bundle
from hl7.mllp import start_hl7_server
from pydantic import ValidationError

HANG, CLOSE = "hang", "close"
Answer = Callable[[Any], str | bytes]


def acknowledged(code: str, *, error: int | None = None, control_id: str | None = None) -> Answer:
    """Return an answer with this MSA-1, by the package's own ACK; `error` is ERR-3."""

    def answer(message: Any) -> str:
        said = str(message.create_ack(code))
        if control_id is not None:
            said = said.replace(str(message.segment("MSH")[10]), control_id)
        return f"{said}\rERR||PID^1|{error}^why^HL70357|E\r" if error is not None else said

    return answer


@dataclass
class MllpPeer:
    """An MLLP server. `answer` gets each message; bytes are written as they are, then it closes.

    HANG: it says nothing and keeps the connection. CLOSE: it closes at once.
    """

    answer: Answer = field(default_factory=lambda: acknowledged("AA"))
    context: ssl.SSLContext | None = None
    messages: list[Any] = field(default_factory=list)
    connections: int = 0
    port: int = 0

    @contextmanager
    def running(self) -> Iterator["MllpPeer"]:
        """Serve for a block."""
        ready = threading.Event()
        loop = asyncio.new_event_loop()
        stop = asyncio.Event()

        async def serve() -> None:
            server = await start_hl7_server(
                self._converse, "127.0.0.1", self.port, encoding="utf-8", ssl=self.context
            )
            self.port = server.sockets[0].getsockname()[1]
            ready.set()
            await stop.wait()
            server.close()
            others = [each for each in asyncio.all_tasks() if each is not asyncio.current_task()]
            for each in others:
                each.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
        thread.start()
        assert ready.wait(10)
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join(10)
            loop.close()

    @property
    def url(self) -> str:
        """What stands in the settings."""
        return f"hl7{'s' if self.context else ''}://127.0.0.1:{self.port}"

    @property
    def control_ids(self) -> list[str]:
        """MSH-10 of what came, in order."""
        return [str(each.segment("MSH")[10]) for each in self.messages]

    async def _converse(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        try:
            while not reader.at_eof():
                message = await reader.readmessage()
                self.messages.append(message)
                said = self.answer(message)
                if said == HANG:
                    await asyncio.sleep(60)
                if said == CLOSE:
                    return
                if isinstance(said, bytes):
                    writer.write(said)
                    await writer.drain()
                    return
                writer.writemessage(hl7.parse(said))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
            with suppress(Exception):  # whoever is at the other end may be gone
                await writer.wait_closed()


@dataclass
class FhirPeer:
    """A FHIR server that takes valid R4B transactions: conditional update, conditional create.

    `scripted` answers come first: status, body, headers.
    """

    scripted: list[tuple[int, bytes, dict[str, str]]] = field(default_factory=list)
    resources: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    bundles: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)
    port: int = 0

    @contextmanager
    def running(self) -> Iterator["FhirPeer"]:
        """Serve for a block."""
        app = FastAPI()
        app.post("/fhir")(self._transaction)
        app.get("/fhir/metadata")(lambda: {"resourceType": "CapabilityStatement"})
        server = uvicorn.Server(
            uvicorn.Config(app, host="127.0.0.1", port=self.port, log_config=None)
        )
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        self.port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.should_exit = True
            thread.join(10)

    @property
    def url(self) -> str:
        """What stands in the settings."""
        return f"fhir+http://127.0.0.1:{self.port}/fhir"

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """Return the resources of a kind."""
        return [each for (name, _), each in self.resources.items() if name == kind]

    async def _transaction(self, request: Request) -> Response:
        body = await request.body()
        self.bundles.append(body)
        self.headers.append(dict(request.headers))
        if self.scripted:
            status, said, headers = self.scripted.pop(0)
            return Response(said, status, headers)
        try:
            Bundle.model_validate_json(body)
        except ValidationError as error:
            issue = {"severity": "error", "code": "invalid", "diagnostics": str(error)}
            outcome = {"resourceType": "OperationOutcome", "issue": [issue]}
            return JSONResponse(outcome, 422)
        entries = [self._entry(each) for each in json.loads(body)["entry"]]
        answer = {"resourceType": "Bundle", "type": "transaction-response", "entry": entries}
        return JSONResponse(answer, media_type="application/fhir+json")

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        resource, request = entry["resource"], entry["request"]
        key = resource["resourceType"], resource["identifier"][0]["value"]
        is_known = key in self.resources
        if not is_known or request["method"] == "PUT":
            self.resources[key] = resource
            self.versions[key] = self.versions.get(key, 0) + 1
        return {"response": {"status": "200 OK" if is_known else "201 Created"}}


def status_of(message: Any) -> str:
    """Return OBR-25."""
    return str(message.segment("OBR")[25])


def names_of(message: Any, status: str) -> set[str]:
    """Return the names of what is told of images with a status."""
    lines = message.segments("OBX")
    return {str(it[3]).partition("^")[0] for it in lines if str(it[4]) and str(it[11]) == status}


def totals_of(message: Any) -> list[float]:
    """Return the total percentages that stand."""
    lines = message.segments("OBX")
    return [float(str(it[5])) for it in lines if "_PCT_TOTAL^" in str(it[3]) and str(it[5])]
