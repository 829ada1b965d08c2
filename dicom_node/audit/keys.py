"""The keys of the seals: a file beside the database, never in it, one key per line, newest last.

Old keys stay in the file: what they sealed is proved by them. A key is known by an id, which is a
hash of it.
"""

import contextlib
import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dicom_node.errors import AuditKeyError
from models.files import atomic_write, fsync_directory
from models.settings import Settings

KEY_BYTES: Final = 32
_OTHERS: Final = 0o007
_OF_OWNER: Final = 0o600


@dataclass(frozen=True)
class Keys:
    """Every key by its id, and the id of the one that seals."""

    by_id: Mapping[str, bytes]
    newest: str

    def __getitem__(self, key_id: str) -> bytes:
        return self.by_id[key_id]

    def __contains__(self, key_id: object) -> bool:
        return key_id in self.by_id


def key_path(settings: Settings) -> Path:
    """Return where the keys are."""
    return settings.audit.key_file or settings.data_dir / "audit.key"


def id_of(key: bytes) -> str:
    """Return the id of a key, which tells nothing of it."""
    return hashlib.sha256(b"dicom-node audit key\0" + key).hexdigest()[:16]


def load_keys(path: Path) -> Keys:
    """Read the keys. Raises AuditKeyError that says what is wrong and what to do."""
    try:
        lines, mode = path.read_text("ascii").split(), path.stat().st_mode
    except FileNotFoundError as error:
        msg = (
            f"the key of the audit is not at {path}: put the back-up of it there, or name it in "
            "audit.key_file"
        )
        raise AuditKeyError(msg) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        msg = f"the key of the audit, {path}, cannot be read: {why}"
        raise AuditKeyError(msg) from error
    if mode & _OTHERS:
        msg = f"every user of this machine can use the key of the audit: chmod 600 {path}"
        raise AuditKeyError(msg)
    try:
        keys = [bytes.fromhex(line) for line in lines]
    except ValueError:
        keys = []
    if not keys or any(len(key) != KEY_BYTES for key in keys):
        msg = f"{path} is no file of audit keys (64 hexadecimal digits per line): use the back-up"
        raise AuditKeyError(msg)
    return Keys({id_of(key): key for key in keys}, id_of(keys[-1]))


def make_first_key(path: Path) -> Keys:
    """Make the file with one key, unless another process was faster, and return what is there.

    Raises AuditKeyError.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        atomic_write(temporary, f"{secrets.token_hex(KEY_BYTES)}\n".encode(), _OF_OWNER)
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
        temporary.unlink()
        fsync_directory(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    return load_keys(path)


def add_key(path: Path) -> Keys:
    """Put a new key behind those that are there, durably, and return all. Raises AuditKeyError."""
    load_keys(path)
    try:
        former = path.read_text("ascii").split()
        lines = [*former, secrets.token_hex(KEY_BYTES)]
        atomic_write(path, "".join(f"{line}\n" for line in lines).encode(), _OF_OWNER)
    except OSError as error:
        raise _unwritable(path, error) from error
    return load_keys(path)


def _unwritable(path: Path, error: OSError) -> AuditKeyError:
    return AuditKeyError(f"the key of the audit cannot be written to {path}: {error.strerror}")
