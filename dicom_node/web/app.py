"""The web application: health, the ledger as JSON, metrics.

Its only state is what it remembers of documents and tables so as not to read them at each request.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Response, status

from dicom_node.doctor import Finding, check_database, check_spool
from dicom_node.documents import Documents
from dicom_node.ledger import compute
from dicom_node.web import problems
from dicom_node.web.access import account_pages, login, sign_on
from dicom_node.web.access.gate import Access
from dicom_node.web.access.headers import SecurityHeaders
from dicom_node.web.access.limits import Limits
from dicom_node.web.access.oidc import IdentityProvider
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.deliveries import router as delivery_routes
from dicom_node.web.metrics import CONTENT_TYPE, Metrics
from models.account import Role
from models.session import Database
from models.settings import Settings

_Counts = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.SYSTEM, are_counts=True))]


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Return the application over the given database."""
    app = FastAPI(title="DICOM node", version="1", docs_url=None, redoc_url=None)
    _add_access(app, settings, database)
    documents = Documents(settings.artifact_dir)
    page = Metrics(settings, database, documents)

    @app.get("/api/v1/health")
    def health(response: Response) -> dict[str, Any]:
        """Answer 200 when database and spool can take a study, else 503; no patient data."""
        findings = [_database(database), _spool(settings)]
        healthy = all(finding.ok for finding in findings)
        if not healthy:
            response.status_code = status.HTTP_503_SERVICE_UNAVAILABLE
        return {
            "status": "ok" if healthy else "unavailable",
            "parts": {finding.name: finding.detail for finding in findings},
        }

    @app.get("/api/v1/ledger")
    def ledger(_who: _Counts) -> dict[str, Any]:
        """Return every equation of the ledger and whether it balances; counts only."""
        lines = compute(database, settings, documents)
        return {
            "balanced": all(line.balanced for line in lines),
            "lines": [
                {
                    "name": line.name,
                    "left": line.left,
                    "right": line.right,
                    "balanced": line.balanced,
                    "parts": line.parts,
                }
                for line in lines
            ],
        }

    app.include_router(delivery_routes(database))

    @app.get("/metrics", include_in_schema=False)
    def metrics(_who: _Counts) -> Response:
        """Return the metrics for Prometheus; no patient data."""
        return Response(page.render(), media_type=CONTENT_TYPE)

    return app


def _add_access(app: FastAPI, settings: Settings, database: Database) -> None:
    """Add what says who may do what, the pages of logging in, and what every answer says."""
    access = Access(settings.web, database)
    app.state.access = access
    problems.install(app)
    app.add_middleware(Limits)
    app.add_middleware(SecurityHeaders)  # added last: outermost, so that every answer has them
    app.include_router(login.router(access))
    app.include_router(account_pages.router(access, settings))
    provider = IdentityProvider.of(settings.web.oidc, settings.web.base_url)
    if provider is not None:
        app.include_router(sign_on.router(access, provider))


def _database(database: Database) -> Finding:
    try:
        return Finding("database", ok=True, detail=check_database(database))
    except Exception as error:  # noqa: BLE001  any failure is the answer; its text may hold a URL
        return Finding("database", ok=False, detail=type(error).__name__)


def _spool(settings: Settings) -> Finding:
    try:
        return Finding("spool", ok=True, detail=check_spool(settings))
    except Exception as error:  # noqa: BLE001  any failure is the answer
        return Finding("spool", ok=False, detail=type(error).__name__)
