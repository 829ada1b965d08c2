"""Events over a WebSocket (PS3.18 8.10.4, 8.10.5): what a subscriber is to hear, in its order.

One channel per AE title: who opens another one ends the first, which may hang on a lost connection.
What happens while there is none waits, up to `worklist.ups.keep_days`. A WebSocket has no answers:
an event counts as told when it was handed to the connection.
"""

import json
import logging
import time
from contextlib import suppress
from typing import Any, Final

import anyio
from anyio import to_thread
from fastapi import HTTPException
from fastapi.websockets import WebSocket, WebSocketDisconnect
from sqlalchemy.exc import SQLAlchemyError

from dicom_node.web.api.parameters import READING
from dicom_node.web.auth import Principal
from dicom_node.worklist.readings import Reader
from dicom_node.worklist.ups import acts
from dicom_node.worklist.ups.names import PUSH
from dicom_node.worklist.ups.outbox import Outbox
from models.session import Database
from models.settings import Settings
from models.workitem import WorkitemMessage

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0
_LOGIN_SECONDS: Final = 60.0  # how soon a channel ends whose login or token does
_REPLACED: Final = 1001  # RFC 6455 7.4.1: going away
_NOT_ALLOWED: Final = 1008
_EVENT_REPORT_RQ: Final = 0x0100  # Command Field, PS3.7 E.1-1
_MESSAGE_ID_MAX: Final = 0xFFFF


class Channels:
    """The open channels of one process."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._titles = frozenset(settings.worklist.ups.web_subscribers)
        self._delivery = settings.delivery
        self._database = database
        self._open: dict[str, WebSocket] = {}

    def takes(self, ae_title: str) -> bool:
        """Say whether an AE hears of events here."""
        return ae_title in self._titles

    async def serve(self, socket: WebSocket, who: Principal, ae_title: str) -> None:
        """Tell one subscriber of events until it is gone, replaced, or its login is over."""
        await to_thread.run_sync(self._record, who, ae_title)
        await socket.accept()
        self._open[ae_title] = socket
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_until_gone, socket, tasks.cancel_scope)
                await self._tell(socket, ae_title)
                tasks.cancel_scope.cancel()
        finally:
            if self._open.get(ae_title) is socket:
                del self._open[ae_title]

    def _record(self, who: Principal, ae_title: str) -> None:
        with self._database.write() as session:
            acts.record_subscription(session, Reader(who.name), ae_title, "channel")

    async def _tell(self, socket: WebSocket, ae_title: str) -> None:
        outbox = Outbox(self._delivery, self._database, ae_title)
        allowed_at = time.monotonic()
        while self._open.get(ae_title) is socket:
            if time.monotonic() - allowed_at >= _LOGIN_SECONDS:
                if not await _is_allowed(socket):
                    await _close(socket, _NOT_ALLOWED, "the login is over")
                    return
                allowed_at = time.monotonic()
            try:
                if not await self._send_due(socket, outbox, ae_title):
                    return
            except SQLAlchemyError as error:
                log.warning("a channel without the database: %s", type(error).__name__)
            await anyio.sleep(_LOOK_SECONDS)
        await _close(socket, _REPLACED, "another channel of this AE title was opened")

    async def _send_due(self, socket: WebSocket, outbox: Outbox, ae_title: str) -> bool:
        """Send what is due; say whether the connection is still there."""
        for message_id in await to_thread.run_sync(outbox.due):
            if self._open.get(ae_title) is not socket:
                break
            # What is begun is brought to its end: a lease that is left behind holds up all events.
            with anyio.CancelScope(shield=True):
                told = await to_thread.run_sync(self._claimed, outbox, message_id)
                if told is None:
                    break
                problem = await self._send(socket, told)
                await to_thread.run_sync(outbox.record, message_id, problem)
            if problem is not None:
                return False
        return True

    async def _send(self, socket: WebSocket, told: str) -> str | None:
        """Send one message; return why it could not be sent in time."""
        try:
            with anyio.fail_after(self._delivery.timeout_seconds):
                await socket.send_text(told)
        except (WebSocketDisconnect, RuntimeError, TimeoutError):
            return "the channel ended"
        return None

    def _claimed(self, outbox: Outbox, message_id: int) -> str | None:
        """Return a message as it is sent; None where another process has it."""
        message = outbox.claim(message_id)
        if message is None:
            return None
        with self._database.read() as session:
            workitem = session.get_one(WorkitemMessage, message_id).workitem
            return json.dumps(event_report(message, workitem.workitem_uid))


def event_report(message: WorkitemMessage, workitem_uid: str) -> dict[str, Any]:
    """Return an event with its command (PS3.7 Table 10.3-1) in the DICOM JSON Model."""
    return {
        "00000002": {"vr": "UI", "Value": [str(PUSH)]},
        "00000100": {"vr": "US", "Value": [_EVENT_REPORT_RQ]},
        "00000110": {"vr": "US", "Value": [message.id % _MESSAGE_ID_MAX]},
        "00001000": {"vr": "UI", "Value": [workitem_uid]},
        "00001002": {"vr": "US", "Value": [message.event_type]},
        **(message.information or {}),
    }


async def _until_gone(socket: WebSocket, scope: anyio.CancelScope) -> None:
    """Wait for the end of the connection; what the other side says meanwhile is not listened to."""
    try:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass
    except (WebSocketDisconnect, RuntimeError):
        pass
    scope.cancel()


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect, RuntimeError):  # it is closed already
        await socket.close(code, reason)


async def _is_allowed(socket: WebSocket) -> bool:
    """Say whether who opened the channel still may; without the database nobody is sent away."""
    try:
        await READING(socket)
    except HTTPException:
        return False
    except SQLAlchemyError:
        return True
    return True
