"""Who we are in the objects we make, and the one rule by which their UIDs are made.

Both sides need it: the worker writes these values, the node recognises its own results by them when
a PACS sends them back. Standard library only.
"""

import hashlib
import uuid
from typing import Final

MANUFACTURER: Final = "dicom-node"
NODE_MODEL_NAME: Final = "CXR opacity node"
DEVICE_SERIAL_NUMBER: Final = "0001"  # type 1 in SEG (PS3.3 C.7.5.2); the node has no serial plate
PRIVATE_SCHEME: Final = "99CXROP"  # coding scheme of concepts that no standard code names

# Segmentation Storage and Comprehensive 3D SR Storage
_RESULT_CLASSES: Final = frozenset(
    {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"}
)
# And Secondary Capture, Grayscale Softcopy Presentation State, Encapsulated PDF and Key Object
# Selection Document Storage
MADE_CLASSES: Final = _RESULT_CLASSES | {
    "1.2.840.10008.5.1.4.1.1.88.59",
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.11.1",
    "1.2.840.10008.5.1.4.1.1.104.1",
}

_UID_MAX = 64  # PS3.5 9.1
_SEPARATOR = "\x1f"


def make_uid(root: str, *parts: str) -> str:
    """Return the same UID for the same parts, always, and another one for any other parts.

    Under a configured `root`: root, a dot and as many digits of a SHA-256 as fit into 64
    characters. With an empty root: `2.25.` and a UUID made from the hash (PS3.5 B.2).
    """
    digest = hashlib.sha256(_SEPARATOR.join(parts).encode()).digest()
    if not root:
        return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
    room = _UID_MAX - len(root) - 1
    return f"{root}.{int.from_bytes(digest, 'big') % 10**room}"


def is_own_object(
    manufacturer: str, model_name: str, sop_class_uid: str, sop_instance_uid: str, uid_root: str
) -> bool:
    """Say whether an object was made by a node like this one: by its equipment, or by its UID.

    The UID root decides only for SEG and SR: the root may be a hospital's, and its own radiographs
    and documents stand below it too. Our other objects are known by their equipment.
    """
    if manufacturer.strip() == MANUFACTURER and model_name.strip() == NODE_MODEL_NAME:
        return True
    is_below_root = bool(uid_root) and sop_instance_uid.startswith(f"{uid_root}.")
    return is_below_root and sop_class_uid in _RESULT_CLASSES
