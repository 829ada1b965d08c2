"""What the statement says of DICOMweb and UPS-RS is what the routes and tables are."""

from pathlib import Path

import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute

from dicom_node.conformance import ups_web, web_services
from dicom_node.contexts import STORAGE_SYNTAXES
from dicom_node.status import STORE_STATUS
from dicom_node.web.dicomweb.errors import STATUS, DicomwebError
from dicom_node.web.dicomweb.media_types import FRAME_TYPES
from dicom_node.web.dicomweb.requests import ROOT, Service
from dicom_node.web.dicomweb.routes import router
from dicom_node.web.workitems import answers
from dicom_node.web.workitems import routes as workitems
from dicom_node.web.workitems import service as ups
from models.session import Database
from models.settings import load_settings


def _resource(route: BaseRoute) -> tuple[str, str]:
    assert isinstance(route, APIRoute)
    (method,) = route.methods
    return method, route.path.removeprefix(ROOT).replace("{place:path}", "{place}")


def test_every_route_is_a_resource_of_the_statement(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    database = Database(url)
    service = Service(load_settings(None, data_dir=tmp_path, database_url=url), database)
    routes = [_resource(route) for route in router(service).routes]
    database.dispose()
    assert sorted(routes) == sorted((it[1], it[2]) for it in web_services.RESOURCES)


def _ups_resource(route: BaseRoute) -> tuple[str, str]:
    if isinstance(route, APIWebSocketRoute):
        return "GET", route.path
    assert isinstance(route, APIRoute)
    (method,) = route.methods
    return method, route.path


def test_every_route_of_ups_is_a_resource_of_the_statement(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'node.db'}"
    database = Database(url)
    settings = load_settings(None, data_dir=tmp_path, database_url=url)
    routes = [_ups_resource(route) for route in workitems.router(settings, database).routes]
    database.dispose()
    found = sorted((method, path.removeprefix(ups.ROOT)) for method, path in routes)
    listed = sorted((it[1], it[2].replace("{aetitle}", "{ae_title}")) for it in ups_web.RESOURCES)
    assert found == [each for each in listed if each[0]]


def test_every_status_code_of_ups_has_a_condition() -> None:
    assert ups_web.CONDITIONS.keys() == answers.STATUS.keys()


def test_every_error_has_a_status_and_a_condition() -> None:
    assert set(DicomwebError.__subclasses__()) <= STATUS.keys()
    assert web_services.CONDITIONS.keys() == STATUS.keys()


def test_every_failure_reason_is_one_of_c_store() -> None:
    assert web_services.FAILURES.keys() <= STORE_STATUS.keys()


@pytest.mark.parametrize("syntax", STORAGE_SYNTAXES)
def test_frames_of_every_stored_syntax_have_a_media_type(syntax: str) -> None:
    assert f"`{syntax}` | `{FRAME_TYPES[syntax]}`" in web_services.frame_types()
