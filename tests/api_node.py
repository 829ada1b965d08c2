"""A served node with a few studies of every kind, for tests of the REST API."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import servers
from readings import add_figure, severity_of
from rows import add_analysis, add_destination, add_instance, add_report, random_uid
from sqlalchemy import select, update
from web_accounts import bearer
from web_served import app_of, migrated, serving, web_settings

from models.account import Role
from models.delivery import Delivery
from models.imaging import Instance, Series, Study
from models.result import Analysis, Artifact, newest_analyses, set_figure
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, DeliveryState, InstanceState, StudyState

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
FORMULA = "=cmd|'/c calc'!A1"
PICTURE = b"\x89PNG\r\n\x1a\n picture of "
_KINDS = (ArtifactKind.DISPLAY, ArtifactKind.OVERLAY, ArtifactKind.LAYER)


@dataclass(frozen=True)
class ApiNode:
    """The node, and a client that is an administrator's program. `uids` names the studies."""

    settings: Settings
    database: Database
    client: httpx.Client
    url: str
    uids: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, **query: Any) -> Any:
        """Return the JSON of an answer that must be 200."""
        answer = self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None, status: int = 200) -> Any:
        """Return the JSON of an answer of that status."""
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def names(self, rows: list[dict[str, Any]]) -> list[str]:
        """Return the names of the studies that rows are about."""
        known = {uid: name for name, uid in self.uids.items()}
        return [known[row["study_instance_uid"]] for row in rows]

    def image(self, name: str) -> str:
        """Return the SOP Instance UID of the newest image of a study."""
        query = select(Instance.sop_instance_uid).join(Series).join(Study)
        query = query.where(Study.study_instance_uid == self.uids[name])
        with self.database.read() as session:
            return str(session.scalars(query.order_by(Instance.id.desc())).first())

    def as_role(self, role: Role) -> httpx.Client:
        """Return a client with the token of another role."""
        return httpx.Client(
            base_url=self.url, headers=bearer(self.database, role, name=f"{role}-too"), timeout=20
        )


@contextmanager
def api_node(folder: Path, database_url: str | None = None) -> Iterator[ApiNode]:
    """Yield the node, with six studies, one hour apart, the last one at noon."""
    settings = web_settings(folder, database_url)
    with (
        migrated(settings) as database,
        serving(settings, database, app_of(settings, database)) as served,
    ):
        url = f"{served}/api/v1/"
        with httpx.Client(base_url=url, headers=bearer(database), timeout=20) as client:
            node = ApiNode(settings, database, client, url)
            _fill(node)
            yield node


@contextmanager
def api_node_on(request: pytest.FixtureRequest, folder: Path) -> Iterator[ApiNode]:
    """Yield the node on the kind of database that is the parameter of a module's fixture."""
    with ExitStack() as stack:
        url = None
        if request.param == "postgresql":
            server = request.getfixturevalue("_postgres_server")
            url = stack.enter_context(servers.new_database(server))
        yield stack.enter_context(api_node(folder, url))


def _fill(node: ApiNode) -> None:
    database = node.database
    wanted: dict[str, dict[str, Any]] = {
        "none": {"percent": 0.0, "study_date": "20260301", "state": StudyState.DELIVERED},
        "mild": {"percent": 10.0, "study_date": None, "calling_aet": "MOBILE"},
        "severe": {"percent": 80.0, "study_date": "20260101", "caveats": ("mirrored",)},
        "other": {"percent": 30.0, "model": "other", "patient_id": FORMULA},
        "lateral": {"reason": "lateral_view", "state": StudyState.CLOSED},
        "waits": {"instance_state": InstanceState.QUEUED, "state": StudyState.OPEN},
    }
    for number, (name, values) in enumerate(wanted.items()):
        moment = NOON - timedelta(hours=len(wanted) - 1 - number)
        columns = {"accession_number": f"A{number}", "created_at": moment, **values}
        node.uids[name] = _add_study(database, columns | {"last_received_at": moment})
    _rename_series(database, node.uids["lateral"], "MG")
    _store(node)
    _deliver(database)


def _add_study(database: Database, columns: dict[str, Any]) -> str:
    """Add a study of one image, with figure and report where it has a percentage."""
    percent, caveats = columns.pop("percent", None), columns.pop("caveats", ())
    model, reason = columns.pop("model", "unet"), columns.pop("reason", None)
    uid = random_uid()
    state = columns.pop("instance_state", InstanceState.NOT_ANALYSED)
    image = add_instance(
        database,
        study_instance_uid=uid,
        state=state if percent is None else InstanceState.ANALYSED,
        calling_aet=columns.get("calling_aet", "PACS"),
    )
    with database.write() as session:
        instance = session.get_one(Instance, image)
        study = instance.series.study
        study.state = StudyState.REPORTED
        for name, value in columns.items():
            setattr(study, name, value)
        instance.reason, instance.received_at = reason, study.created_at
        instance.patient_id = study.patient_id
        study_id = study.id
    if percent is not None:
        severity = severity_of(percent)
        key, _ = add_analysis(
            database, image, percent, severity=severity, model=model, caveats=caveats
        )
        add_report(database, [key], study_id=study_id)
        with database.write() as session:
            study = session.get_one(Study, study_id)
            study.revision = 1
            set_figure(study, newest_analyses(session, study_id))
    return uid


def _rename_series(database: Database, uid: str, modality: str) -> None:
    with database.write() as session:
        study = session.scalar(select(Study.id).where(Study.study_instance_uid == uid))
        session.execute(update(Series).where(Series.study_id == study).values(modality=modality))


def _store(node: ApiNode) -> None:
    """Give every analysis its pictures, and every object bytes on disk."""
    with node.database.write() as session:
        for analysis in session.scalars(select(Analysis)).all():
            session.add_all(
                Artifact(
                    kind=kind,
                    analysis_id=analysis.id,
                    storage_key=f"pictures/{analysis.id}.{kind.value}.png",
                    sha256="",
                    size_bytes=0,
                )
                for kind in _KINDS
            )
        session.flush()
        for artifact in session.scalars(select(Artifact)):
            data = PICTURE + f"{artifact.kind} {artifact.id}".encode()
            path = node.settings.artifact_dir / artifact.storage_key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            artifact.sha256, artifact.size_bytes = hashlib.sha256(data).hexdigest(), len(data)


def _deliver(database: Database) -> None:
    """Make every object due at one destination, and dead at another."""
    keys = [add_destination(database, name, 104) for name in ("PACS", "ARCHIVE")]
    with database.write() as session:
        objects = select(Artifact.id).where(Artifact.sop_instance_uid.is_not(None))
        for artifact in session.scalars(objects.order_by(Artifact.id)).all():
            for key, state in zip(keys, (DeliveryState.DUE, DeliveryState.DEAD), strict=True):
                session.add(
                    Delivery(artifact_id=artifact, destination_id=key, state=state, error="why")
                )


def report_again(node: ApiNode, name: str, percent: float) -> None:
    """Let a study have another image and the next revision of its report."""
    add_figure(node.database, node.uids[name], percent, revision=2)
