"""Orthanc as the client of our DICOMweb: it sends to it, searches it, and fetches from it."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from builders import chest_dataset
from dicomweb import WebOrthanc
from dicomweb_client import ROOT, Web, web_of
from pydicom import dcmread
from pydicom.uid import JPEGLSLossless
from querying import send, small_image, stored_files

from models.account import Role, Scope
from models.session import Database
from models.settings import load_settings


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """One kind is enough: what is asked here is whether both understand each other."""
    return f"sqlite:///{tmp_path / 'node.db'}"


@pytest.fixture
def web(tmp_path: Path, database_url: str, database: Database) -> Iterator[Web]:
    """A node with its web side."""
    settings = load_settings(
        None,
        data_dir=tmp_path / "data",
        database_url=database_url,
        dicom={"min_free_bytes": 0},
    )
    with web_of(settings, database, Role.OPERATOR, Scope.STORE, Scope.RESULTS) as opened:
        yield opened


def _ask(orthanc: WebOrthanc, path: str, body: Any, method: str = "POST") -> Any:
    url = f"http://127.0.0.1:{orthanc.http_port}/dicom-web/servers/node{path}"
    answer = httpx.request(method, url, content=json.dumps(body), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.content else None


def test_orthanc_stores_searches_and_retrieves(web: Web, web_orthanc: WebOrthanc) -> None:
    _ask(
        web_orthanc,
        "",
        {
            "Url": f"{web.client.base_url}{ROOT}",
            "HttpHeaders": {"Authorization": web.client.headers["authorization"]},
        },
        "PUT",
    )
    native, coded = small_image("1"), chest_dataset(seed="2")
    coded.compress(JPEGLSLossless, generate_instance_uid=False)
    send(web_orthanc.port, native, coded)
    held = {it.sop_instance_uid: it.key for it in web_orthanc.objects()}
    _ask(web_orthanc, "/stow", {"Resources": list(held.values()), "Synchronous": True})
    stored = stored_files(web.settings.spool_dir)
    assert stored.keys() == held.keys()
    for uid, key in held.items():
        arrived, sent = web.found("instances", SOPInstanceUID=uid), web_orthanc.fetch(key)
        assert str(arrived[0].PatientID) == str(dcmread(BytesIO(sent)).PatientID)

    found = _ask(web_orthanc, "/qido", {"Uri": "/studies", "Arguments": {"00100020": "P-2"}})
    (match,) = found
    assert match["0020000D"]["Value"] == coded.StudyInstanceUID

    for key in held.values():
        httpx.delete(f"http://127.0.0.1:{web_orthanc.http_port}/instances/{key}")
    assert web_orthanc.objects() == []
    studies = [{"Study": str(ds.StudyInstanceUID)} for ds in (native, coded)]
    _ask(web_orthanc, "/retrieve", {"Resources": studies, "Synchronous": True})
    again = {it.sop_instance_uid: web_orthanc.fetch(it.key) for it in web_orthanc.objects()}
    for ds in (native, coded):
        back = dcmread(BytesIO(again[str(ds.SOPInstanceUID)]))
        assert back.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID
        assert back.PixelData == ds.PixelData
