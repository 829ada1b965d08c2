"""The bytes of storage on the wire: P-DATA-TF PDUs (PS3.8 9.3.5) and C-STORE command sets.

Pure functions over bytes; command sets are in Implicit VR Little Endian (PS3.7 6.3.1).
"""

import struct
from dataclasses import dataclass
from typing import Final

P_DATA_TF: Final = 0x04  # PS3.8 9.3.1, PDU-type
PDU_HEAD: Final = struct.Struct(">BxL")  # type, reserved, length of what follows
PDV_HEAD: Final = struct.Struct(">LBB")  # length of what follows, context ID, control header
PDV_OVERHEAD: Final = 6
IS_COMMAND, IS_LAST = 0x01, 0x02  # PS3.8 E.2, message control header

_C_STORE_RQ, _C_STORE_RSP = 0x0001, 0x8001  # PS3.7 E.1-1, Command Field
_NO_DATA_SET: Final = 0x0101  # PS3.7 E.1-1, Command Data Set Type
_ELEMENT: Final = struct.Struct("<HHL")
_US: Final = struct.Struct("<H")
_GROUP_LENGTH, _AFFECTED_SOP_CLASS_UID, _COMMAND_FIELD = 0x0000, 0x0002, 0x0100
_MESSAGE_ID, _MESSAGE_ID_RESPONDED_TO, _DATA_SET_TYPE = 0x0110, 0x0120, 0x0800
_STATUS, _AFFECTED_SOP_INSTANCE_UID = 0x0900, 0x1000


@dataclass(frozen=True)
class StoreCommand:
    """A C-STORE-RQ (PS3.7 9.3.1.1) as its sender wrote it. `context_id` is that of its PDVs."""

    context_id: int
    message_id: int
    sop_class_uid: str
    sop_instance_uid: str
    has_data_set: bool


def parse_store_command(raw: bytes, context_id: int) -> StoreCommand | None:
    """Read a command set; None when it is no C-STORE-RQ with a Message ID, or is malformed."""
    elements: dict[int, bytes] = {}
    at = 0
    while at + _ELEMENT.size <= len(raw):
        group, element, length = _ELEMENT.unpack_from(raw, at)
        at += _ELEMENT.size
        if group != 0 or length > len(raw) - at:
            return None
        elements[element] = raw[at : at + length]
        at += length
    if _number(elements, _COMMAND_FIELD) != _C_STORE_RQ or at != len(raw):
        return None
    message_id = _number(elements, _MESSAGE_ID)
    if message_id is None:
        return None
    return StoreCommand(
        context_id,
        message_id,
        _uid(elements, _AFFECTED_SOP_CLASS_UID),
        _uid(elements, _AFFECTED_SOP_INSTANCE_UID),
        _number(elements, _DATA_SET_TYPE) != _NO_DATA_SET,
    )


def _number(elements: dict[int, bytes], element: int) -> int | None:
    value = elements.get(element, b"")
    return int(_US.unpack(value)[0]) if len(value) == _US.size else None


def _uid(elements: dict[int, bytes], element: int) -> str:
    return elements.get(element, b"").decode("ascii", "replace").strip("\0 ")


def store_response(command: StoreCommand, status: int, max_pdu: int) -> bytes:
    """Return the PDUs of a C-STORE-RSP (PS3.7 9.3.1.2) for a peer's longest PDU; 0: any length."""
    body = b""
    if command.sop_class_uid:
        body += _element(_AFFECTED_SOP_CLASS_UID, _padded(command.sop_class_uid))
    body += _element(_COMMAND_FIELD, _US.pack(_C_STORE_RSP))
    body += _element(_MESSAGE_ID_RESPONDED_TO, _US.pack(command.message_id))
    body += _element(_DATA_SET_TYPE, _US.pack(_NO_DATA_SET))
    body += _element(_STATUS, _US.pack(status))
    if command.sop_instance_uid:
        body += _element(_AFFECTED_SOP_INSTANCE_UID, _padded(command.sop_instance_uid))
    body = _element(_GROUP_LENGTH, struct.pack("<L", len(body))) + body
    room = max(1, max_pdu - PDV_OVERHEAD) if max_pdu else len(body)
    return b"".join(
        _pdu(
            command.context_id,
            IS_COMMAND | (IS_LAST if start + room >= len(body) else 0),
            body[start : start + room],
        )
        for start in range(0, len(body), room)
    )


def _pdu(context_id: int, control: int, fragment: bytes) -> bytes:
    item = PDV_HEAD.pack(len(fragment) + 2, context_id, control) + fragment
    return PDU_HEAD.pack(P_DATA_TF, len(item)) + item


def _element(element: int, value: bytes) -> bytes:
    return _ELEMENT.pack(0, element, len(value)) + value


def _padded(uid: str) -> bytes:
    """Return a UID of even length, padded with NUL (PS3.5 9.1)."""
    value = uid.encode("ascii", "replace")
    return value + b"\0" * (len(value) % 2)
