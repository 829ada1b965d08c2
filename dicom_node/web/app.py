"""The web application: pages, the REST API, metrics.

Its only state is what it remembers of documents and tables so as not to read them at each request.
"""

from typing import Annotated

from fastapi import Depends, FastAPI, Response

from dicom_node.documents import Documents
from dicom_node.web import api, problems
from dicom_node.web.access import account_pages, login, sign_on
from dicom_node.web.access.gate import Access
from dicom_node.web.access.headers import SecurityHeaders
from dicom_node.web.access.limits import Limits
from dicom_node.web.access.oidc import IdentityProvider
from dicom_node.web.auth import Principal, Requires, Scope
from dicom_node.web.changes import Changes
from dicom_node.web.dicomweb import routes as dicomweb
from dicom_node.web.metrics import CONTENT_TYPE, Metrics
from dicom_node.web.pages.routes import page_routes, published
from dicom_node.web.pages.site import Site
from dicom_node.web.workitems import routes as workitems
from models.account import Role
from models.session import Database
from models.settings import Settings

_Counts = Annotated[Principal, Depends(Requires(Role.OPERATOR, Scope.SYSTEM, are_counts=True))]


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Return the application over the given database."""
    app = FastAPI(title="DICOM node", version="1", openapi_url=None)
    dicomweb.install(app, settings, database)
    workitems.install(app, settings, database)
    _add_access(app, settings, database)
    documents = Documents(settings.artifact_store)
    page = Metrics(settings, database, documents)

    api.install(app, settings, database, documents)
    _add_pages(app, Site(settings, database, documents))

    @app.get("/metrics", include_in_schema=False)
    def metrics(_who: _Counts) -> Response:
        """Return the metrics for Prometheus; no patient data."""
        return Response(page.render(), media_type=CONTENT_TYPE)

    return app


def _add_pages(app: FastAPI, site: Site) -> None:
    """Add the pages and their files. `app.state.changes` is closed when the node ends."""
    app.state.changes = Changes(site.database)
    app.include_router(page_routes(site, app.state.changes))
    app.mount("/static", published(), name="static")


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
