"""Which roles of the node run, and under which settings: events at the start and end of a role.

The settings as they are in effect, without secrets, stand in an event whenever they differ from
those with which the role started before. So the audit also answers what applied at some time.
"""

import hashlib
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from models.audit import AuditAction, AuditEvent, record
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 5.0
_SECRET_NAMES: Final = ("password", "secret", "token")
_HIDDEN: Final = "(hidden)"
_USER_INFO: Final = re.compile(r"(?<=://)[^/@\s]*@")
_URL_QUERY: Final = re.compile(r"(://[^?\s]*)\?.*")


@contextmanager
def attended(settings: Settings, role: str) -> Iterator[None]:
    """Write that a role starts, and its settings if they changed; at the end, that it stopped.

    What cannot be written is logged: it keeps nothing from starting.
    """
    note_start(settings, role)
    try:
        yield
    finally:
        note_stop(settings, role)


def note_start(settings: Settings, role: str) -> None:
    """Write that a role starts, and its settings if they are others than at its last start."""

    def write(session: Session) -> None:
        record(session, AuditAction.APPLICATION_STARTED, role, details=_process())
        _note_settings(session, settings, role)

    _write(settings, write, "start")


def note_stop(settings: Settings, role: str) -> None:
    """Write that a role ended in order."""
    _write(
        settings,
        lambda session: record(session, AuditAction.APPLICATION_STOPPED, role, details=_process()),
        "end",
    )


def _write(settings: Settings, act: Callable[[Session], None], what: str) -> None:
    """Write over connections of its own: the caller may be about to fork."""
    try:
        database = Database(settings.effective_database_url)
        try:
            with database.write(_PATIENCE_SECONDS) as session:
                act(session)
        finally:
            database.dispose()
    except Exception as error:  # noqa: BLE001  whatever it is, the role is to run
        log.warning("the %s of this role is not in the audit: %s", what, type(error).__name__)


def _process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "version": version("dicom-node")}


def _note_settings(session: Session, settings: Settings, role: str) -> None:
    now = shown_settings(settings)
    text = json.dumps(now, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    of_role = AuditEvent.details["role"].as_string() == role
    query = select(AuditEvent.details).where(
        AuditEvent.action == AuditAction.CONFIGURATION_CHANGED, of_role
    )
    last = session.scalars(query.order_by(AuditEvent.id.desc()).limit(1)).first()
    if last is not None and last.get("sha256") == digest:
        return
    before: dict[str, Any] = (last or {}).get("settings", {})
    changed = sorted(
        key for key in {*before, *now} if before.get(key, _HIDDEN) != now.get(key, _HIDDEN)
    )
    record(
        session,
        AuditAction.CONFIGURATION_CHANGED,
        "first" if last is None else "changed",
        details={
            "role": role,
            "sha256": digest,
            "changed": [] if last is None else changed,
            "settings": now,
        },
    )


def shown_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings in effect by dotted names, without anything secret."""
    return dict(_flat(settings.model_dump(mode="json"), ""))


def _flat(value: object, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the leaves. Members of a list that have a name go by it, not by their place."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        for place, each in enumerate(value):
            known = each.get("name") if isinstance(each, Mapping) else None
            yield from _flat(each, f"{name}.{known or place}")
    else:
        yield name, _shown(name, value)


def _shown(name: str, value: object) -> object:
    if isinstance(value, list):
        return [_shown(name, each) for each in value]
    if not isinstance(value, str):
        return value
    if name.rpartition(".")[2].endswith(_SECRET_NAMES):
        return _HIDDEN
    return _URL_QUERY.sub(rf"\1?{_HIDDEN}", _USER_INFO.sub(f"{_HIDDEN}@", value))
