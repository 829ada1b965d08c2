"""What the statement says of DICOMweb is what the routes and tables are."""

from pathlib import Path

import pytest
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute

from dicom_node.conformance import web_services
from dicom_node.contexts import STORAGE_SYNTAXES
from dicom_node.status import STORE_STATUS
from dicom_node.web.dicomweb.errors import STATUS, DicomwebError
from dicom_node.web.dicomweb.media_types import FRAME_TYPES
from dicom_node.web.dicomweb.requests import ROOT, Service
from dicom_node.web.dicomweb.routes import router
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


def test_every_error_has_a_status_and_a_condition() -> None:
    assert set(DicomwebError.__subclasses__()) <= STATUS.keys()
    assert web_services.CONDITIONS.keys() == STATUS.keys()


def test_every_failure_reason_is_one_of_c_store() -> None:
    assert web_services.FAILURES.keys() <= STORE_STATUS.keys()


@pytest.mark.parametrize("syntax", STORAGE_SYNTAXES)
def test_frames_of_every_stored_syntax_have_a_media_type(syntax: str) -> None:
    assert f"`{syntax}` | `{FRAME_TYPES[syntax]}`" in web_services.frame_types()
