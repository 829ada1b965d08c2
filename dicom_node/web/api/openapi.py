"""`openapi.json`: what the API looks like, for whoever may see results."""

from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi

from dicom_node.web.access.public import PUBLIC
from dicom_node.web.api.parameters import Known, Viewer
from dicom_node.web.api.schemas import Problem, problems

PREFIX: Final = "/api/v1"
_ABOUT: Final = (
    "Results of AI analysis of chest radiographs. Research use only, not a medical device. "
    "Every listing is read in pages: `next` of one is `cursor` of the following."
)
_REFERENCE: Final = "#/components/schemas/"


def router(app: FastAPI) -> APIRouter:
    """Return the route that shows the schema of this application."""
    routes = APIRouter(dependencies=[Known])
    made: dict[str, Any] = {}

    @routes.get(
        "/openapi.json",
        summary="This schema",
        responses=problems(),
    )
    def openapi(_who: Viewer) -> dict[str, Any]:
        """OpenAPI 3.1 of everything under `/api/v1`."""
        if not made:
            made.update(schema_of(app))
        return made

    return routes


def schema_of(app: FastAPI) -> dict[str, Any]:
    """Return the schema: routes of the API only, the error they share, and how to log in."""
    schema = get_openapi(title="DICOM node", version="1", description=_ABOUT, routes=app.routes)
    paths = {path: each for path, each in schema["paths"].items() if path.startswith(PREFIX)}
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template=_REFERENCE + "{model}")
    schemas |= {**problem.pop("$defs", {}), "Problem": problem}
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer"},
        "session": {"type": "apiKey", "in": "cookie", "name": "dicom-node-session"},
    }
    for path, operations in paths.items():
        if path not in PUBLIC:
            for operation in operations.values():
                operation["security"] = [{"token": []}, {"session": []}]
    components["schemas"] = _used(paths, schemas)
    return {**schema, "paths": paths}


def _used(paths: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    """Return the schemas that the paths refer to, and those that these refer to."""
    used: dict[str, Any] = {}
    waiting = list(_references(paths))
    while waiting:
        name = waiting.pop()
        if name not in used:
            used[name] = schemas[name]
            waiting += _references(schemas[name])
    return dict(sorted(used.items()))


def _references(part: Any) -> set[str]:  # noqa: ANN401  a part of a JSON document
    if isinstance(part, list):
        return {name for each in part for name in _references(each)}
    if not isinstance(part, dict):
        return set()
    named = part.get("$ref")
    own = {named.removeprefix(_REFERENCE)} if isinstance(named, str) else set()
    return own | {name for each in part.values() for name in _references(each)}
