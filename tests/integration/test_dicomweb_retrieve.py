"""WADO-RS over HTTP: objects byte for byte, metadata, frames, pictures, values; its events."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import RunningListener
from dicomweb_client import ROOT, Web, parts_of, path_of, web_of
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, JPEGLSLossless
from querying import add_results, send, stored_files, two_images
from rows import SC
from servers import wait_until
from sqlalchemy import select, update

from models.account import Role, Scope
from models.audit import AuditAction
from models.base import utc_now
from models.files import atomic_write
from models.imaging import Instance, Study
from models.result import Artifact
from models.states import ArtifactKind

Listen = Callable[..., RunningListener]
JLS = str(JPEGLSLossless)
FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
PNG = b"\x89PNG\r\n\x1a\n" + b"picture" * 100
PDF = b"%PDF-1.4 " + b"page " * 1001


@dataclass(frozen=True)
class Desk:
    """A study of a native image, a JPEG-LS image, and a SEG and SR of the native one."""

    web: Web
    native: FileDataset
    coded: FileDataset
    seg: str
    report: str

    @property
    def study(self) -> str:
        """Its address."""
        return f"studies/{self.native.StudyInstanceUID}"

    @property
    def files(self) -> dict[str, bytes]:
        """The data set of every stored object, by SOP Instance UID."""
        settings = self.web.settings
        return stored_files(settings.spool_dir) | stored_files(settings.artifact_dir)

    def events(self, action: AuditAction) -> list[Any]:
        """What was written of one kind."""
        return self.web.events(action)

    def artifact_of(self, kind: ArtifactKind, data: bytes, **columns: Any) -> Path:
        """Store a result of the native image, or of its study where it has a revision."""
        key = f"ab/{kind.value}"
        path = self.web.settings.artifact_dir / key
        atomic_write(path, data)
        with self.web.database.write() as session:
            seg = select(Artifact).where(Artifact.sop_instance_uid == self.seg)
            if "revision" in columns:
                columns["study_id"] = session.scalars(select(Study)).one().id
            else:
                columns["analysis_id"] = session.scalars(seg).one().analysis_id
            stored = {"storage_key": key, "sha256": "0" * 64, "size_bytes": len(data)}
            session.add(Artifact(kind=kind, **stored, **columns))
        return path


@pytest.fixture
def desk(listen: Listen) -> Iterator[Desk]:
    """The study, and a viewer."""
    node = listen()
    native, coded = two_images()
    coded.compress(JPEGLSLossless, generate_instance_uid=False)
    send(node.port, native, coded)
    seg, report = add_results(node.settings, node.database, native)
    with web_of(node.settings, node.database, Role.VIEWER, Scope.RESULTS) as web:
        yield Desk(web, native, coded, seg, report)


def _data_set(data: bytes) -> tuple[str, bytes]:
    """Return SOP Instance UID and data set of a Part 10 file."""
    meta = dcmread(BytesIO(data), stop_before_pixels=True).file_meta
    return str(meta.MediaStorageSOPInstanceUID), data[144 + meta.FileMetaInformationGroupLength :]


def test_objects_come_as_they_are_stored(desk: Desk) -> None:
    answer = desk.web.get(desk.study, 'multipart/related; type="application/dicom"')
    assert answer.status_code == 200
    parts = parts_of(answer)
    assert dict(_data_set(part.data) for part in parts) == desk.files
    assert len(parts) == 4
    kinds = {dcmread(BytesIO(part.data)).SOPInstanceUID: part.kind for part in parts}
    assert kinds[desk.coded.SOPInstanceUID] == f"application/dicom; transfer-syntax={JLS}"
    (series,) = parts_of(desk.web.get(f"{desk.study}/series/{desk.coded.SeriesInstanceUID}"))
    assert _data_set(series.data)[1] == desk.files[desk.coded.SOPInstanceUID]
    single = desk.web.get(path_of(desk.coded), "application/dicom")
    assert single.headers["content-type"] == f"application/dicom; transfer-syntax={JLS}"
    assert _data_set(single.content)[1] == desk.files[desk.coded.SOPInstanceUID]
    (found,) = desk.web.found("series", Modality="SEG")
    (seg,) = parts_of(desk.web.get(found.RetrieveURL.partition(f"{ROOT}/")[2]))
    assert _data_set(seg.data) == (desk.seg, desk.files[desk.seg])


def test_a_transfer_syntax_that_is_not_there_is_not_made(desk: Desk) -> None:
    native = f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"
    assert desk.web.get(path_of(desk.coded), native).status_code == 406
    assert JLS in desk.web.get(path_of(desk.coded), native).json()["detail"]
    wanted = f'multipart/related; type="application/dicom"; transfer-syntax={JLS}'
    answer = desk.web.get(desk.study, wanted)
    assert answer.status_code == 206  # the others are not in it
    (part,) = parts_of(answer)
    assert _data_set(part.data)[0] == desk.coded.SOPInstanceUID
    assert desk.web.get(desk.study, "text/html").status_code == 406
    Path(desk.web.settings.spool_dir, _key(desk, desk.coded)).unlink()
    assert desk.web.get(path_of(desk.coded)).status_code == 404
    assert desk.web.get(desk.study).status_code == 206


def _key(desk: Desk, ds: Dataset) -> str:
    with desk.web.database.read() as session:
        query = select(Instance.storage_key).where(Instance.sop_instance_uid == ds.SOPInstanceUID)
        return session.scalars(query).one()


def test_metadata_are_the_header_and_name_where_the_pixels_are(desk: Desk) -> None:
    answer = desk.web.get(f"{desk.study}/metadata")
    assert answer.headers["content-type"] == "application/dicom+json"
    found = {each["00080018"]["Value"][0]: each for each in answer.json()}
    assert found.keys() == desk.files.keys()
    for uid in (desk.native.SOPInstanceUID, desk.coded.SOPInstanceUID):
        uri = found[uid]["7FE00010"]["BulkDataURI"]
        assert uri.endswith(f"/instances/{uid}/bulkdata/7FE00010")
        assert "InlineBinary" not in found[uid]["7FE00010"]
    assert found[desk.seg]["00620001"] == {"vr": "CS", "Value": ["BINARY"]}
    assert found[desk.report]["0040A730"]["Value"]
    (one,) = desk.web.get(f"{path_of(desk.native)}/metadata", "application/json").json()
    assert one == found[desk.native.SOPInstanceUID]
    (series,) = desk.web.get(f"{desk.study}/series/{desk.native.SeriesInstanceUID}/metadata").json()
    assert series == one
    assert desk.web.get(f"{desk.study}/metadata", "application/dicom+xml").status_code == 406


def test_frames_are_plain_or_as_they_are_coded(desk: Desk) -> None:
    native, coded = f"{path_of(desk.native)}/frames/1", f"{path_of(desk.coded)}/frames/1"
    (plain,) = parts_of(desk.web.get(native))
    kind = f"application/octet-stream; transfer-syntax={ExplicitVRLittleEndian}"
    assert (plain.kind, plain.data) == (kind, desk.native.PixelData)
    assert desk.web.get(native, "application/octet-stream").content == desk.native.PixelData
    (jls,) = parts_of(desk.web.get(coded, 'multipart/related; type="image/jls"'))
    assert jls.kind == f"image/jls; transfer-syntax={JLS}"
    assert jls.data in desk.coded.PixelData
    assert jls.data.startswith(b"\xff\xd8\xff\xf7")
    (octets,) = parts_of(desk.web.get(coded, FRAMES))  # as viewers ask
    assert octets.kind == f"application/octet-stream; transfer-syntax={JLS}"
    assert octets.data == jls.data
    assert desk.web.get(coded, "image/*").content == jls.data
    assert desk.web.get(coded, "application/octet-stream").status_code == 406
    assert desk.web.get(native, 'multipart/related; type="image/jpeg"').status_code == 406
    assert desk.web.get(native[:-1] + "2").status_code == 404
    assert desk.web.get(native[:-1] + "1,x").status_code == 422
    for path, data in ((native, plain.data), (coded, jls.data)):
        uri = path.replace("frames/1", "bulkdata/7FE00010")
        (part,) = parts_of(desk.web.get(uri))
        assert part.data == data


def test_each_frame_of_a_segmentation_is_a_mask(desk: Desk) -> None:
    (found,) = desk.web.found("instances", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4")
    path = found.RetrieveURL.partition(f"{ROOT}/")[2]
    assert found.NumberOfFrames == 3
    parts = parts_of(desk.web.get(f"{path}/frames/1,2,3", FRAMES))
    seg = dcmread(BytesIO(parts_of(desk.web.get(path))[0].data))
    masks = seg.pixel_array.reshape(3, -1)
    for part, mask in zip(parts, masks, strict=True):
        bits = [byte >> bit & 1 for byte in part.data for bit in range(8)]
        assert bits[: mask.size] == mask.tolist()


def _result(desk: Desk, sop_class: str, uid: str, **values: Any) -> bytes:
    """Return the file of an object of the study."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.StudyInstanceUID = desk.native.StudyInstanceUID
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def test_pictures_are_those_that_the_worker_made(desk: Desk) -> None:
    rendered = f"{path_of(desk.native)}/rendered"
    assert desk.web.get(rendered).status_code == 404  # not yet
    desk.artifact_of(ArtifactKind.DISPLAY, PNG)
    overlay = PNG + b"overlay"
    desk.artifact_of(ArtifactKind.OVERLAY, overlay)
    capture = _result(desk, SC, "1.2.7", SeriesInstanceUID="1.2.6")
    desk.artifact_of(ArtifactKind.SC, capture, sop_instance_uid="1.2.7", sop_class_uid=SC)
    for path in (
        rendered,
        f"{path_of(desk.native)}/frames/1/rendered",
        f"{path_of(desk.native)}/thumbnail",
        f"{desk.study}/series/{desk.native.SeriesInstanceUID}/thumbnail",
        f"{desk.study}/thumbnail",
    ):
        answer = desk.web.get(path, "image/png, */*;q=0.1")
        assert (answer.content, answer.headers["content-type"]) == (PNG, "image/png")
    of_capture = f"{desk.study}/series/1.2.6/instances/1.2.7/rendered"
    assert desk.web.get(of_capture).content == overlay
    assert desk.web.get(of_capture.replace("1.2.6", "1.2.5")).status_code == 404
    assert desk.web.get(f"{path_of(desk.coded)}/rendered").status_code == 404
    assert desk.web.get(rendered, "image/jpeg").status_code == 406
    assert "viewport" in desk.web.get(rendered, viewport="10,10").headers["warning"]
    assert desk.web.get(rendered, window="1,2,linear").status_code == 400
    assert desk.web.get(rendered.replace("rendered", "frames/2/rendered")).status_code == 404


def test_a_document_is_read_by_its_address(desk: Desk) -> None:
    document = {"MIMETypeOfEncapsulatedDocument": "application/pdf", "EncapsulatedDocument": PDF}
    data = _result(desk, EncapsulatedPDFStorage, "1.2.8", SeriesInstanceUID="1.2.9", **document)
    uids = {"sop_instance_uid": "1.2.8", "sop_class_uid": EncapsulatedPDFStorage}
    desk.artifact_of(ArtifactKind.PDF, data, revision=1, **uids)
    path = f"{desk.study}/series/1.2.9/instances/1.2.8"
    (metadata,) = desk.web.get(f"{path}/metadata").json()
    uri = metadata["00420011"]["BulkDataURI"].partition(f"{ROOT}/")[2]
    answer = desk.web.get(uri, "application/pdf")
    assert (answer.content, answer.headers["content-type"]) == (PDF, "application/pdf")
    (part,) = parts_of(desk.web.get(uri, 'multipart/related; type="application/octet-stream"'))
    assert part.data == PDF
    for accept in (None, "application/pdf"):
        answer = desk.web.get(f"{path}/rendered", accept)
        assert (answer.content, answer.headers["content-type"]) == (PDF, "application/pdf")
    assert desk.web.get(f"{path}/rendered", "image/png").status_code == 406
    assert desk.web.get(f"{path}/thumbnail").status_code == 404
    assert desk.web.get(f"{path}/bulkdata/00100010").status_code == 404
    assert desk.web.get(f"{path}/bulkdata/nonsense").status_code == 422
    assert desk.web.get(f"{path}/frames/1").status_code == 404


def test_what_is_gone_says_why(desk: Desk) -> None:
    uid = str(desk.coded.SOPInstanceUID)

    def change(**values: Any) -> None:
        with desk.web.database.write() as session:
            row = update(Instance).where(Instance.sop_instance_uid == uid)
            session.execute(row.values(**values))

    change(purged_at=utc_now())
    for path in ("", "/metadata", "/frames/1"):
        answer = desk.web.get(path_of(desk.coded) + path)
        assert answer.status_code == 410
        assert "retention" in answer.json()["detail"]
    change(purged_at=None, correction={"PatientID": "P-9"})
    answer = desk.web.get(path_of(desk.coded))
    assert (answer.status_code, "corrected" in answer.json()["detail"]) == (404, True)
    assert "P-9" not in answer.text
    with desk.web.database.write() as session:
        report = update(Artifact).where(Artifact.sop_instance_uid == desk.report)
        session.execute(report.values(purged_at=utc_now()))
    assert desk.web.get(f"{desk.study}/series/1.2/instances/{desk.report}").status_code == 410
    assert desk.web.get("studies/1.2.3").status_code == 404
    assert desk.web.get(f"{desk.study}/series/1.2.3").status_code == 404


def test_every_retrieve_is_an_event_of_its_study(desk: Desk) -> None:
    desk.web.get(desk.study)
    (begun,) = desk.events(AuditAction.BEGIN_TRANSFERRING)
    (ended,) = desk.events(AuditAction.INSTANCES_TRANSFERRED)
    assert (begun.outcome, ended.outcome) == ("begun", "success")
    for event in (begun, ended):
        assert (event.actor, event.study_instance_uid) == ("viewer", desk.native.StudyInstanceUID)
        assert event.patient == {"patient_id": "P-1"}
        assert event.details["service"] == "WADO-RS"
        assert event.details["token"]
    assert (begun.details["completed"], ended.details["completed"]) == (0, 4)
    desk.artifact_of(ArtifactKind.DISPLAY, PNG)
    path = path_of(desk.native)
    for each in ("metadata", "frames/1", "bulkdata/7FE00010", "rendered"):
        assert desk.web.get(f"{path}/{each}").status_code == 200
    read = desk.events(AuditAction.PATIENT_DATA_READ)
    assert [event.outcome for event in read] == [
        "dicomweb_metadata",
        "dicomweb_frames",
        "dicomweb_bulkdata",
        "dicomweb_picture",
    ]
    assert {event.sop_instance_uid for event in read} == {desk.native.SOPInstanceUID}
    desk.web.get("studies/1.2.3")
    desk.web.get(desk.study, "text/html")
    assert len(desk.events(AuditAction.BEGIN_TRANSFERRING)) == 1  # nothing was sent


def test_a_client_that_goes_away_is_an_event_too(desk: Desk) -> None:
    seg = desk.web.settings.artifact_dir
    for path in filter(Path.is_file, seg.rglob("*")):
        path.write_bytes(path.read_bytes() + bytes(64 << 20))  # more than any buffer takes
    with desk.web.client.stream("GET", f"{ROOT}/{desk.study}") as answer:
        next(answer.iter_raw())
    ended = AuditAction.INSTANCES_TRANSFERRED
    wait_until(lambda: bool(desk.events(ended)), 20, "the event")
    (event,) = desk.events(ended)
    assert event.outcome == "broken_off"
    assert event.details["completed"] < event.details["wanted"]
