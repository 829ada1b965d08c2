"""Pictures and DICOM objects over REST: by their hash, never by a path, and who sees them."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from api_node import PICTURE, ApiNode, api_node, report_again
from rows import add_instance
from sqlalchemy import select, update

from models.audit import AuditAction, AuditEvent, record
from models.base import utc_now
from models.imaging import Instance, Study
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact
from models.states import ArtifactKind, InstanceState

_PICTURES = {"image.png": "display", "overlay.png": "overlay", "layer.png": "layer"}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[ApiNode]:
    with api_node(tmp_path) as made:
        yield made


def _reads(node: ApiNode) -> list[tuple[str, str | None, str | None]]:
    with node.database.read() as session:
        query = select(AuditEvent).where(AuditEvent.action == AuditAction.PATIENT_DATA_READ)
        return [
            (row.outcome, row.study_instance_uid, row.sop_instance_uid)
            for row in session.scalars(query.order_by(AuditEvent.id))
        ]


def _write(node: ApiNode, artifact: Artifact, data: bytes) -> None:
    file = node.settings.artifact_dir / artifact.storage_key
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    artifact.sha256 = hashlib.sha256(data).hexdigest()


def test_a_picture_is_the_stored_one_under_its_hash(node: ApiNode) -> None:
    image = node.image("severe")
    for name, kind in _PICTURES.items():
        path = f"instances/{image}/{name}"
        answer = node.client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert answer.content.startswith(PICTURE + kind.encode())
        assert answer.headers["etag"] == f'"{hashlib.sha256(answer.content).hexdigest()}"'
        assert answer.headers["cache-control"] == "private, no-cache"
        assert answer.headers["x-content-type-options"] == "nosniff"
        head = node.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == answer.headers["etag"]
        assert head.headers["content-length"] == str(len(answer.content))
    kinds = list(_PICTURES.values())
    assert _reads(node) == [(kind, node.uids["severe"], image) for kind in kinds]


def test_what_the_browser_has_is_not_sent_again_but_recorded(node: ApiNode) -> None:
    path = f"instances/{node.image('severe')}/image.png"
    etag = node.client.get(path).headers["etag"]
    for form in ("{}", "W/{}", '"other", {}', "*"):
        answer = node.client.get(path, headers={"If-None-Match": form.format(etag)})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert len(_reads(node)) == 5
    again = node.client.get(path, headers={"If-None-Match": '"other"'})
    assert again.status_code == 200


def test_downloads_have_a_name_of_digits_and_dots(node: ApiNode) -> None:
    with node.database.read() as session:
        report = session.scalars(select(Artifact).where(Artifact.kind == ArtifactKind.SR)).all()[2]
    path = f"studies/{node.uids['severe']}/sr.dcm"
    answer = node.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom")
    name = f'attachment; filename="{report.sop_instance_uid}.sr.dcm"'
    assert answer.headers["content-disposition"] == name
    assert answer.headers["etag"] == f'"{report.sha256}"'
    segmentation = node.client.get(f"instances/{node.image('severe')}/seg.dcm")
    assert segmentation.content.startswith(PICTURE + b"seg")


def test_the_newest_report_that_was_not_taken_back_is_given(node: ApiNode) -> None:
    report_again(node, "mild", 20.0)
    path = f"studies/{node.uids['mild']}/sr.dcm"
    with node.database.write() as session:
        newest = session.scalar(select(Artifact).where(Artifact.revision == 2))
        assert newest is not None
        _write(node, newest, b"second")
        key, study = newest.id, newest.study_id
    assert node.client.get(path).content == b"second"
    assert node.client.get(path, params={"revision": 1}).content.startswith(PICTURE + b"sr")
    assert node.client.get(path, params={"revision": 3}).status_code == 404
    with node.database.write() as session:
        session.add(WithdrawnArtifact(artifact_id=key, study_id=study, reason="rejected_quality"))
    assert node.client.get(path).content.startswith(PICTURE + b"sr")


def test_an_older_report_is_read_under_the_patient_that_it_names(node: ApiNode) -> None:
    """The study was corrected to another patient since; the newest report names that one."""
    uid = node.uids["mild"]
    report_again(node, "mild", 20.0)
    with node.database.write() as session:
        study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
        was, study.patient_id = study.patient_id, "RIGHT"
        reports = select(Artifact).where(
            Artifact.study_id == study.id, Artifact.kind == ArtifactKind.SR
        )
        first, second = session.scalars(reports.order_by(Artifact.revision))
        _write(node, second, b"second")
        record(
            session,
            AuditAction.REPORT_STORED,
            "stored",
            study_instance_uid=uid,
            sop_instance_uid=first.sop_instance_uid,
            patient={"patient_id": was},
        )
    for revision in (1, 2):
        node.client.get(f"studies/{uid}/sr.dcm", params={"revision": revision}).raise_for_status()
    with node.database.read() as session:
        read = AuditEvent.action == AuditAction.PATIENT_DATA_READ
        query = select(AuditEvent.patient_id).where(read).order_by(AuditEvent.id)
        assert list(session.scalars(query)) == ["P1", "RIGHT"]


def _missing(answer: httpx.Response) -> str:
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == 404
    return str(problem["detail"])


def test_what_cannot_be_shown_is_absent_with_the_reason(node: ApiNode) -> None:
    def get(path: str) -> str:
        return _missing(node.client.get(path))

    assert get("instances/1.2.3/image.png") == "there is no image with this SOP Instance UID"
    assert get("studies/1.2.3/sr.dcm") == "there is no study with this Study Instance UID"
    assert get(f"studies/{node.uids['waits']}/sr.dcm") == "there is no sr of it"
    lateral = f"instances/{node.image('lateral')}/image.png"
    assert get(lateral) == "the image is not_analysed (lateral_view)"
    severe = f"instances/{node.image('severe')}/overlay.png"
    with node.database.write() as session:
        purged = Artifact.kind == ArtifactKind.OVERLAY
        session.execute(update(Artifact).where(purged).values(purged_at=utc_now()))
    assert get(severe) == "retention removed its overlay"
    path = f"instances/{node.image('severe')}/seg.dcm"
    for file in node.settings.artifact_dir.rglob("*"):
        if file.is_file():
            file.unlink()
    assert get(path) == "the stored file is gone"
    assert _reads(node) == []
    with node.database.write() as session:
        session.execute(update(Instance).values(state=InstanceState.WITHDRAWN, reason="x"))
    assert get(path) == "the image is withdrawn (x)"


def test_a_damaged_file_is_not_shown_under_the_hash_of_the_sound_one(node: ApiNode) -> None:
    path = f"instances/{node.image('severe')}/image.png"
    etag = node.client.get(path).headers["etag"]
    for file in node.settings.artifact_dir.rglob("*.display.png"):
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert _missing(node.client.get(path)) == (
        "the stored file is damaged: an operator finds it by `dicom-node scrub`"
    )
    for headers in ({}, {"If-None-Match": etag}):
        assert node.client.head(path, headers=headers).status_code == 404
        assert node.client.get(path, headers=headers).status_code == 404
    assert len(_reads(node)) == 1


def test_only_the_analysis_that_counts_is_shown(node: ApiNode) -> None:
    image = node.image("severe")
    with node.database.write() as session:
        session.execute(update(Analysis).values(is_replaced=True))
    assert _missing(node.client.get(f"instances/{image}/image.png")) == "there is no display of it"


def test_of_two_rows_with_one_uid_the_live_one_is_shown(node: ApiNode) -> None:
    image = node.image("severe")
    add_instance(node.database, sop_instance_uid=image, state=InstanceState.QUARANTINED)
    assert node.client.get(f"instances/{image}/image.png").status_code == 200


def test_a_uid_is_no_path(node: ApiNode) -> None:
    for name in ("..%2F..%2Fnode.db", "%2Fetc%2Fpasswd", "1.2/../..", "1..2", "a"):
        for path in (f"instances/{name}/image.png", f"studies/{name}/sr.dcm"):
            answer = node.client.get(path)
            assert answer.status_code in {404, 422}
            assert "passwd" not in answer.text
