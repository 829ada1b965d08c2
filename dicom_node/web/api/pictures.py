"""Stored objects as they are: pictures for people, SEG and SR to download.

The bytes are found by the key of a row, never by what was asked. Their ETag is their SHA-256.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query, Request, Response, status

from dicom_node.stored_objects import StoredObject, image_object, report_object
from dicom_node.web.api.node import Node
from dicom_node.web.api.parameters import InstanceUid, Known, StudyUid, Viewer
from dicom_node.web.api.schemas import problems
from dicom_node.web.auth import Principal
from dicom_node.web.reads import record_read
from models.states import ArtifactKind

_DICOM: Final = "application/dicom"
# The browser may keep it, and must ask each time whether it may show it (and is asked to say who).
_CACHE: Final = "private, no-cache"
# Path, what it is, media type.
_OF_IMAGES: Final = (
    ("image.png", ArtifactKind.DISPLAY, "image/png", "The radiograph as a grey picture."),
    ("overlay.png", ArtifactKind.OVERLAY, "image/png", "The radiograph with what was found on it."),
    ("layer.png", ArtifactKind.LAYER, "image/png", "What was found alone, to lie over the image."),
    ("seg.dcm", ArtifactKind.SEG, _DICOM, "The Segmentation of the image."),
)


@dataclass(frozen=True)
class _Kind:
    """One kind of stored object, and how it is answered."""

    name: str
    kind: ArtifactKind
    media_type: str


def router(node: Node) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(dependencies=[Known])
    for name, kind, media_type, summary in _OF_IMAGES:
        what = _Kind(name, kind, media_type)
        _add(routes, f"/instances/{{uid}}/{name}", _of_image(node, what), media_type, summary)
    _add(routes, "/studies/{uid}/sr.dcm", _of_study(node), _DICOM, "The report of the study.")
    return routes


def _add(
    routes: APIRouter, path: str, endpoint: Callable[..., Response], media_type: str, summary: str
) -> None:
    """Add a route for GET and HEAD; the schema names the one."""
    content = {media_type: {"schema": {"type": "string", "format": "binary"}}}
    told: dict[str, Any] = {
        "summary": summary,
        "response_class": Response,
        "responses": {
            200: {"description": "The bytes; their ETag is their SHA-256", "content": content},
            304: {"description": "The client has them"},
            **problems(404),
        },
    }
    name = path.rpartition("/")[2].replace(".", "_")
    routes.add_api_route(path, endpoint, methods=["GET"], operation_id=f"get_{name}", **told)
    routes.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)


def _of_image(node: Node, what: _Kind) -> Callable[..., Response]:
    def get(request: Request, who: Viewer, uid: InstanceUid) -> Response:
        """Answer 404 where the image was not analysed, or retention took the bytes."""
        with node.database.read() as session:
            found = image_object(session, uid, what.kind)
        return _answer(node, request, who, found, what)

    return get


def _of_study(node: Node) -> Callable[..., Response]:
    def get(
        request: Request,
        who: Viewer,
        uid: StudyUid,
        revision: Annotated[int | None, Query(ge=1, le=1_000_000)] = None,
    ) -> Response:
        """Answer the newest report that was not taken back, or the one of a revision."""
        with node.database.read() as session:
            found = report_object(session, uid, revision)
        return _answer(node, request, who, found, _Kind("sr.dcm", ArtifactKind.SR, _DICOM))

    return get


def _answer(
    node: Node, request: Request, who: Principal, found: StoredObject, what: _Kind
) -> Response:
    """Return the bytes, or that the client has them: both show the picture, and are recorded."""
    if found.artifact is None:
        raise HTTPException(status.HTTP_404_NOT_FOUND, found.missing)
    etag = f'"{found.artifact.sha256}"'
    headers = {"ETag": etag, "Cache-Control": _CACHE}
    path = node.settings.artifact_store.path(found.artifact.storage_key)
    data = _read(path, found.artifact.sha256)
    if request.method != "HEAD":
        record_read(
            node.database,
            who,
            request,
            what.kind.value,
            study_instance_uid=found.study_instance_uid,
            sop_instance_uid=found.sop_instance_uid,
            patient={"patient_id": found.patient_id},
        )
    if _has(request.headers.get("if-none-match"), etag):
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers=headers)
    if what.media_type == _DICOM:
        name = f"{found.artifact.sop_instance_uid}.{what.kind.value}.dcm"
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return Response(data, headers=headers, media_type=what.media_type)


def _read(path: Path, sha256: str) -> bytes:
    """Return the bytes, as long as they are what was stored. Raises HTTPException 404."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "the stored file is gone") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise HTTPException(
            status.HTTP_404_NOT_FOUND,
            "the stored file is damaged: an operator finds it by `dicom-node scrub`",
        )
    return data


def _has(header: str | None, etag: str) -> bool:
    """Say whether If-None-Match names it, by the weak comparison (RFC 9110 13.1.2)."""
    if header is None:
        return False
    named = {each.strip().removeprefix("W/") for each in header.split(",")}
    return bool(named & {etag, "*"})
