"""`health`, `ledger` and `models`: how the node is, whether nothing is lost, what measured."""

from typing import Final

from fastapi import APIRouter, HTTPException, Response, status
from sqlalchemy import func, select

from dicom_node.doctor import Finding, check_database, check_spool
from dicom_node.ledger import Line, compute
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import Counts, Known, RowIdInPath, Viewer
from dicom_node.web.api.remembered import Remembered
from dicom_node.web.api.schemas import (
    Health,
    Ledger,
    LedgerLine,
    ModelCard,
    RegisteredModel,
    problems,
)
from migrations.schema import NewerSchemaError
from models.result import Analysis, ModelVersion
from models.session import Database
from models.settings import Settings

_MAX_MODELS: Final = 1000


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])
    _add_health(routes, node)
    _add_ledger(routes, node)
    _add_models(routes, node)
    return routes


def _add_health(routes: APIRouter, node: Node) -> None:
    @routes.get(
        "/health",
        summary="Whether the node can take a study",
        responses={503: {"model": Health, "description": "It cannot"}},
    )
    def health(response: Response) -> Health:
        """Answer 200 when database and spool can take a study, else 503; no patient data."""
        findings = [_database(node.database), _spool(node.settings)]
        is_healthy = all(finding.ok for finding in findings)
        if not is_healthy:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        parts = {finding.name: finding.detail for finding in findings}
        return Health(status="ok" if is_healthy else "unavailable", parts=parts)


def _database(database: Database) -> Finding:
    try:
        return Finding("database", ok=True, detail=check_database(database))
    except NewerSchemaError:  # while several hosts are upgraded; this release goes on
        return Finding("database", ok=True, detail="schema of a newer release")
    except Exception as error:  # noqa: BLE001  any failure is the answer; its text may hold a URL
        return Finding("database", ok=False, detail=type(error).__name__)


def _spool(settings: Settings) -> Finding:
    try:
        return Finding("spool", ok=True, detail=check_spool(settings))
    except Exception as error:  # noqa: BLE001  any failure is the answer
        return Finding("spool", ok=False, detail=type(error).__name__)


def _add_ledger(routes: APIRouter, node: Node) -> None:
    def read() -> list[Line]:
        return compute(node.database, node.settings, node.documents)

    lines = Remembered(read)

    @routes.get(
        "/ledger",
        summary="Whether nothing is lost",
        responses=problems(),
    )
    def ledger(_who: Counts) -> Ledger:
        """Every equation of the ledger, counts only, as they were some seconds ago."""
        counted = lines.value()
        return Ledger(
            at=counted.at,
            balanced=all(line.balanced for line in counted.value),
            lines=[
                LedgerLine(
                    name=line.name,
                    left=line.left,
                    right=line.right,
                    balanced=line.balanced,
                    parts=line.parts,
                )
                for line in counted.value
            ],
        )


def _add_models(routes: APIRouter, node: Node) -> None:
    def count() -> dict[int, int]:
        query = select(Analysis.model_version_id, func.count()).group_by(Analysis.model_version_id)
        with node.database.read() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    counts = Remembered(count)

    @routes.get(
        "/models",
        summary="The networks that workers have loaded",
        responses=problems(),
    )
    def list_models(_who: Viewer) -> list[RegisteredModel]:
        """Newest first, with the number of analyses, as it was some seconds ago."""
        query = select(ModelVersion).order_by(ModelVersion.id.desc()).limit(_MAX_MODELS)
        counted = counts.value()
        with node.database.read() as session:
            return [
                RegisteredModel(
                    id=row.id,
                    name=row.name,
                    version=row.version,
                    sha256=row.sha256,
                    registered_at=row.created_at,
                    analyses=counted.value.get(row.id, 0),
                    counted_at=counted.at,
                    has_card=row.card is not None,
                )
                for row in session.scalars(query)
            ]

    @routes.get(
        "/models/{key}",
        summary="The model card and metrics of one of them",
        responses=problems(404),
    )
    def get_model(_who: Viewer, key: RowIdInPath) -> ModelCard:
        """As its bundle has them; text for people, null where the bundle has none."""
        with node.database.read() as session:
            row = session.get(ModelVersion, key)
        if row is None:
            raise HTTPException(status.HTTP_404_NOT_FOUND, "there is no model with this id")
        return ModelCard(
            id=row.id,
            name=row.name,
            version=row.version,
            sha256=row.sha256,
            card=row.card,
            metrics=row.metrics,
        )
