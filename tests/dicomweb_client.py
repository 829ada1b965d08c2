"""A DICOMweb client for tests: multipart bodies are taken apart by the standard library."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email import message_from_bytes
from typing import Any

import httpx
from pydicom.dataset import Dataset, FileDataset
from querying import small_image
from sqlalchemy import select
from web_accounts import bearer
from web_served import app_of, serving

from models.account import Role, Scope
from models.audit import AuditAction, AuditEvent
from models.session import Database
from models.settings import Settings

ROOT = "/dicom-web"
BOUNDARY = "a-boundary-of-the-test"


@dataclass(frozen=True)
class Part:
    """One part of a multipart body."""

    kind: str
    data: bytes


def parts_of(answer: httpx.Response) -> list[Part]:
    """Return the parts of a body, as the email package reads them (RFC 2046)."""
    kind = answer.headers["content-type"]
    assert kind.startswith("multipart/related"), kind
    head = f"MIME-Version: 1.0\r\nContent-Type: {kind}\r\n\r\n".encode()
    message = message_from_bytes(head + answer.content)
    assert message.is_multipart()
    assert not message.defects
    found = []
    for part in message.walk():
        data = part.get_payload(decode=True)
        if isinstance(data, bytes):
            found.append(Part(str(part["Content-Type"]), data))
    return found


def multipart(*files: bytes, kind: str = "application/dicom", boundary: str = BOUNDARY) -> bytes:
    """Return a body with these parts."""
    body = b"".join(
        f"--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode() + each + b"\r\n" for each in files
    )
    return body + f"--{boundary}--\r\n".encode()


def multipart_type(kind: str = "application/dicom") -> dict[str, str]:
    """Return the Content-Type of `multipart`."""
    return {"Content-Type": f'multipart/related; type="{kind}"; boundary={BOUNDARY}'}


@dataclass(frozen=True)
class Web:
    """The DICOMweb of a node, asked with a token."""

    client: httpx.Client
    settings: Settings
    database: Database

    def get(self, path: str, accept: str | None = None, **parameters: Any) -> httpx.Response:
        """GET below the root; `path` without a slash in front."""
        headers = {"Accept": accept} if accept else {}
        return self.client.get(f"{ROOT}/{path}", headers=headers, params=parameters)

    def found(self, path: str, **parameters: Any) -> list[Dataset]:
        """Search, and return the matches."""
        answer = self.get(path, **parameters)
        if answer.status_code == httpx.codes.NO_CONTENT:
            return []
        assert answer.status_code == httpx.codes.OK, answer.text
        assert answer.headers["content-type"] == "application/dicom+json"
        return [Dataset.from_json(json.dumps(each)) for each in answer.json()]

    def store(self, *files: bytes, study: str | None = None) -> httpx.Response:
        """Send Part 10 files."""
        path = f"{ROOT}/studies" + (f"/{study}" if study else "")
        return self.client.post(path, content=multipart(*files), headers=multipart_type())

    def events(self, *actions: AuditAction) -> list[AuditEvent]:
        """Return the audit events of these kinds, in order."""
        with self.database.read() as session:
            query = select(AuditEvent).where(AuditEvent.action.in_(actions))
            return list(session.scalars(query.order_by(AuditEvent.id)))


@contextmanager
def web_of(
    settings: Settings,
    database: Database,
    role: Role = Role.OPERATOR,
    *scopes: Scope,
) -> Iterator[Web]:
    """Serve the web side of a node, and yield a client with a token of this role and scopes."""
    with (
        serving(settings, database, app_of(settings, database)) as url,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        wanted = scopes or (Scope.RESULTS, Scope.STORE)
        client.headers.update(bearer(database, role, *wanted))
        yield Web(client, settings, database)


def path_of(ds: FileDataset) -> str:
    """Return the address of an instance below the root."""
    series = f"studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}"
    return f"{series}/instances/{ds.SOPInstanceUID}"


__all__ = ["Web", "multipart", "multipart_type", "parts_of", "path_of", "small_image", "web_of"]
