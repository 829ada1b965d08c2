"""UPS-RS for tests: a node with the service, and programs that work on its workitems."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from web_accounts import bearer
from web_served import app_of, migrated, serving
from websockets.sync.client import ClientConnection, connect

from models.account import Role, Scope
from models.session import Database
from models.settings import Settings, load_settings

JSON = "application/dicom+json"


@dataclass
class Station:
    """A program with a token that reads the list, claims and completes."""

    url: str
    headers: dict[str, str]
    lock: str = field(default_factory=lambda: str(generate_uid()))

    def ask(
        self, method: str, path: str, ds: Dataset | None = None, **params: Any
    ) -> httpx.Response:
        body = None if ds is None else json.dumps([ds.to_json_dict()])
        headers = self.headers | ({} if body is None else {"Content-Type": JSON})
        address = f"{self.url}/ups-rs{path}"
        return httpx.request(
            method, address, content=body, headers=headers, params=params, timeout=20
        )

    def found(self, **keys: Any) -> list[Dataset]:
        answer = self.ask("GET", "/workitems", **keys)
        assert answer.status_code in {200, 204}, answer.text
        return [Dataset.from_json(each) for each in answer.json()] if answer.content else []

    def get(self, uid: str) -> Dataset:
        answer = self.ask("GET", f"/workitems/{uid}")
        assert answer.status_code == 200, answer.text
        (model,) = answer.json()
        return Dataset.from_json(model)

    def change(self, uid: str, state: str, lock: str | None = "") -> httpx.Response:
        ds = Dataset()
        ds.ProcedureStepState = state
        if lock is not None:
            ds.TransactionUID = lock or self.lock
        return self.ask("PUT", f"/workitems/{uid}/state", ds)

    def update(self, uid: str, ds: Dataset, lock: str | None = "") -> httpx.Response:
        params = {} if lock is None else {"transaction-uid": lock or self.lock}
        return self.ask("POST", f"/workitems/{uid}", ds, **params)

    def channel(self, title: str = "VIEWER1") -> ClientConnection:
        address = f"ws{self.url.removeprefix('http')}/ups-rs/subscribers/{title}"
        return connect(address, additional_headers=self.headers, proxy=None)


@dataclass(frozen=True)
class Node:
    """The web side of a node with the service."""

    settings: Settings
    database: Database
    url: str

    def station(self, name: str = "viewer", role: Role = Role.VIEWER) -> Station:
        return Station(self.url, bearer(self.database, role, Scope.WORKLIST, name=name))


@contextmanager
def ups_node(folder: Path, database_url: str) -> Iterator[Node]:
    """Yield a node with the service; VIEWER1 and VIEWER2 may hear over a WebSocket."""
    ups = {"enabled": True, "web": True, "web_subscribers": ["VIEWER1", "VIEWER2"]}
    settings = load_settings(
        None,
        data_dir=folder / "data",
        database_url=database_url,
        worklist={"ups": ups},
        delivery={"backoff_seconds": 0.1},
    )
    with (
        migrated(settings) as database,
        serving(settings, database, app_of(settings, database)) as url,
    ):
        yield Node(settings, database, url)


def progress(percent: str) -> Dataset:
    """Return what a performer says of its progress."""
    item, ds = Dataset(), Dataset()
    item.ProcedureStepProgress = percent
    ds.ProcedureStepProgressInformationSequence = [item]
    return ds
