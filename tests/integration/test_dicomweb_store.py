"""STOW-RS over HTTP: the same promise, verdicts and events as C-STORE."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from builders import chest_dataset
from dicomweb_client import BOUNDARY, ROOT, Web, multipart, multipart_type, web_of
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, MRImageStorage
from pynetdicom.dsutils import split_dataset
from querying import small_image
from senders import encoded
from servers import wait_until
from sqlalchemy import select
from web_accounts import bearer, browser

from dicom_node.senders.base import Contact, Parcel, Receiver, Verdict
from dicom_node.senders.stow import StowSender
from dicom_node.types import Peer
from dicom_node.web.dicomweb import store as store_module
from dicom_node.web.dicomweb.errors import BodyError, NoRoomError
from dicom_node.web.dicomweb.multipart import Reader
from dicom_node.web.dicomweb.store import Sending, Store
from models.account import Role, Scope
from models.audit import AuditAction
from models.imaging import Instance, Study
from models.job import Job
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState

Make = Callable[..., Settings]


@pytest.fixture
def make(tmp_path: Path, database_url: str) -> Make:
    """Gives settings of a node; keyword arguments are sections."""

    def make_settings(**sections: Any) -> Settings:
        dicom = {"min_free_bytes": 0, "ae_title": "NODE"} | sections.pop("dicom", {})
        folder = sections.pop("data_dir", tmp_path / "data")
        return load_settings(
            None, data_dir=folder, database_url=database_url, dicom=dicom, **sections
        )

    return make_settings


@pytest.fixture
def web(make: Make, database: Database) -> Iterator[Web]:
    """A node, and a client that may store."""
    with web_of(make(), database, Role.OPERATOR, Scope.STORE, Scope.RESULTS) as opened:
        yield opened


def part10(ds: Dataset) -> bytes:
    """Return the file of a data set; its meta information has an element of the sender's."""
    buffer = BytesIO()
    ds.file_meta.SendingApplicationEntityTitle = "SENDER"
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Answer:
    """A Store Instances Response Module, read."""

    code: int
    stored: dict[str, str]  # Retrieve URL by SOP Instance UID
    failed: dict[str, int]  # Failure Reason by SOP Instance UID
    others: list[int]

    @classmethod
    def of(cls, answer: httpx.Response) -> "Answer":
        """Read an answer."""
        assert answer.headers["content-type"] == "application/dicom+json"
        ds = Dataset.from_json(json.dumps(answer.json()))
        return cls(
            answer.status_code,
            {
                str(it.ReferencedSOPInstanceUID): str(it.RetrieveURL or "")
                for it in ds.get("ReferencedSOPSequence", [])
            },
            {
                str(it.ReferencedSOPInstanceUID): int(it.FailureReason)
                for it in ds.get("FailedSOPSequence", [])
            },
            [int(it.FailureReason) for it in ds.get("OtherFailuresSequence", [])],
        )


def _rows(web: Web) -> list[Instance]:
    with web.database.read() as session:
        return list(session.scalars(select(Instance).order_by(Instance.id)))


def _files(web: Web) -> list[Path]:
    return sorted(web.settings.spool_dir.glob("??/*.dcm"))


def _incoming(web: Web) -> list[Path]:
    return list((web.settings.spool_dir / "incoming").iterdir())


def test_objects_are_stored_as_by_c_store(web: Web) -> None:
    image, coded = small_image("1"), chest_dataset(seed="2")
    coded.compress(JPEGLSLossless, generate_instance_uid=False)
    answer = Answer.of(web.store(part10(image), part10(coded)))
    assert (answer.code, answer.failed, answer.others) == (200, {}, [])
    assert set(answer.stored) == {str(image.SOPInstanceUID), str(coded.SOPInstanceUID)}
    first, second = _rows(web)
    assert (first.state, second.state) == (InstanceState.QUEUED, InstanceState.QUEUED)
    assert (first.calling_aet, first.called_aet) == ("operator", "NODE")
    assert second.transfer_syntax_uid == JPEGLSLossless
    path = web.settings.spool_dir / first.storage_key
    meta, offset = split_dataset(path)
    assert path.read_bytes()[offset:] == encoded(image)  # byte for byte
    assert meta.SourceApplicationEntityTitle == "operator"
    assert "SendingApplicationEntityTitle" not in meta  # the node's own
    with web.database.read() as session:
        assert len(session.scalars(select(Job)).all()) == 2
    stored, _ = web.events(AuditAction.INSTANCE_STORED)
    assert (stored.outcome, stored.actor, stored.calling_aet) == ("stored", "operator", "operator")
    assert stored.status == 0
    url = answer.stored[str(image.SOPInstanceUID)]
    again = web.client.get(url, headers={"Accept": "application/dicom"}).content
    assert dcmread(BytesIO(again)) == dcmread(BytesIO(part10(image)))
    assert _incoming(web) == []


def test_what_follows_the_most_parts_of_a_request_is_named_as_not_stored(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "_MAX_PARTS", 2)
    images = [part10(small_image(str(number))) for number in range(4)]
    answer = Answer.of(web.store(*images[:2]))
    assert (answer.code, len(answer.stored), answer.others) == (200, 2, [])
    answer = Answer.of(web.store(*images))
    assert (answer.code, len(answer.stored), answer.others) == (202, 2, [0xA700])
    assert len(_rows(web)) == 2
    (refused,) = web.events(AuditAction.INSTANCE_REFUSED)
    assert (refused.outcome, refused.status) == ("TooManyError", 0xA700)


def test_sent_again_it_is_a_duplicate_and_other_bytes_are_a_conflict(web: Web) -> None:
    image = small_image("1")
    data = part10(image)
    for _ in range(2):
        assert Answer.of(web.store(data, data)).code == 200
    assert (len(_rows(web)), len(_files(web))) == (1, 1)
    outcomes = [event.outcome for event in web.events(AuditAction.INSTANCE_STORED)]
    assert outcomes == ["stored", "duplicate", "duplicate", "duplicate"]
    other = small_image("1", ContentDate="20200101")
    answer = Answer.of(web.store(part10(other)))
    assert answer.code == 200
    assert answer.stored == {str(image.SOPInstanceUID): ""}  # quarantined: no address
    assert [row.state for row in _rows(web)][1] is InstanceState.QUARANTINED
    nameless = small_image("3", PatientID="")
    assert Answer.of(web.store(part10(nameless))).code == 200
    assert _rows(web)[2].reason == "no_patient_id"


def test_each_part_has_its_own_verdict(web: Web) -> None:
    good, other = small_image("1"), small_image("2")
    strange = small_image("3", SOPClassUID=MRImageStorage)
    strange.file_meta.MediaStorageSOPClassUID = MRImageStorage
    coded = small_image("4")
    unknown = part10(coded).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"[:20], 1)
    named = part10(small_image("5")).replace(
        str(small_image("5").SOPInstanceUID).encode(), random_uid_like("5"), 1
    )
    answer = Answer.of(
        web.store(part10(good), b"no file", part10(strange), unknown, named, part10(other)[:-9])
    )
    assert answer.code == 202
    assert set(answer.stored) == {str(good.SOPInstanceUID), str(other.SOPInstanceUID)}
    assert answer.failed == {
        str(strange.SOPInstanceUID): 0x0122,
        str(coded.SOPInstanceUID): 0xC122,
        random_uid_like("5").decode().rstrip("\0"): 0xA900,
    }
    assert answer.others == [0xC000]
    refused = web.events(AuditAction.INSTANCE_REFUSED)
    assert [event.outcome for event in refused] == [
        "NotUnderstoodError",
        "ClassNotStorableError",
        "SyntaxNotStorableError",
        "DataSetMismatchError",
    ]
    assert {(event.actor, event.details["service"]) for event in refused} == {
        ("operator", "STOW-RS")
    }
    assert len(_files(web)) == 2
    assert _incoming(web) == []
    assert Answer.of(web.store(b"no file", part10(strange))).code == 409


def random_uid_like(seed: str) -> bytes:
    """Return another UID of the same length as the image's."""
    uid = str(small_image(seed).SOPInstanceUID)
    return (uid[:-1] + ("1" if uid[-1] != "1" else "2")).encode()


def test_the_address_may_name_the_study(web: Web) -> None:
    first, second = small_image("1"), small_image("2")
    answer = Answer.of(web.store(part10(first), part10(second), study=str(first.StudyInstanceUID)))
    assert answer.code == 202
    assert answer.failed == {str(second.SOPInstanceUID): 0xA900}
    assert [row.sop_instance_uid for row in _rows(web)] == [str(first.SOPInstanceUID)]


NO_REQUESTS: list[tuple[bytes, dict[str, str], int]] = [
    (b"", {}, 415),
    (b"{}", {"Content-Type": "application/json"}, 415),
    (b"x", multipart_type("application/dicom+json"), 415),
    (b"x", multipart_type(), 400),
    (b"", multipart_type(), 400),
    (b"x", {"Content-Type": 'multipart/related; type="application/dicom"'}, 400),
    (f"--{BOUNDARY}--".encode(), multipart_type(), 400),
    (b"x", {**multipart_type(), "Accept": "application/dicom+xml"}, 406),
]


def test_what_is_no_request_to_store_is_a_problem(web: Web) -> None:
    for body, headers, status in NO_REQUESTS:
        answer = web.client.post(f"{ROOT}/studies", content=body, headers=headers)
        assert (answer.status_code, headers) == (status, headers)
        assert answer.headers["content-type"] == "application/problem+json"


def test_so_many_senders_and_no_more(make: Make, database: Database) -> None:
    store = Store(make(), database)
    while store._senders.acquire(blocking=False):
        pass
    sending = Sending(Peer("A", "B", ""), None)
    with pytest.raises(NoRoomError):
        store.store(Reader(iter([]), "b"), sending)
    store._senders.release()
    with pytest.raises(BodyError):
        store.store(Reader(iter([]), "b"), sending)
    assert store._senders.acquire(blocking=False)  # given back after the failure


@contextmanager
def _begun(web: Web, whole: bytes, length: int) -> Iterator[socket.socket]:
    """Yield a connection on which so many bytes of the body have been sent."""
    address = urlsplit(str(web.client.base_url))
    with socket.create_connection((address.hostname, address.port)) as line:
        head = [f"POST {ROOT}/studies HTTP/1.1", f"Host: {address.netloc}"]
        head += [f"{name}: {value}" for name, value in multipart_type().items()]
        head += [f"Authorization: {web.client.headers['authorization']}"]
        head += [f"Content-Length: {len(whole)}", "", ""]
        line.sendall("\r\n".join(head).encode() + whole[:length])
        yield line


def test_a_body_that_breaks_off_leaves_nothing_of_its_last_part(web: Web) -> None:
    first, second = small_image("1"), chest_dataset(seed="2", pixels=None)
    whole = multipart(part10(first), part10(second) + bytes(3 << 20))
    with _begun(web, whole, len(whole) - (1 << 20)):
        wait_until(lambda: bool(_files(web)), 20, "the first part")
        wait_until(lambda: bool(_incoming(web)), 20, "the second part")
    wait_until(lambda: not _incoming(web), 20, "the end of the second part")
    assert [row.sop_instance_uid for row in _rows(web)] == [str(first.SOPInstanceUID)]
    assert len(_files(web)) == 1
    assert web.events(AuditAction.INSTANCE_REFUSED) == []
    assert Answer.of(web.store(part10(first), part10(small_image("2")))).code == 200


def test_a_sender_that_falls_silent_is_not_waited_for(make: Make, database: Database) -> None:
    settings = make(dicom={"network_timeout_seconds": 0.5})
    with web_of(settings, database) as web:
        whole = multipart(part10(chest_dataset(seed="1")))
        with _begun(web, whole, 2000) as line:
            line.settimeout(60)
            answer = b"".join(iter(lambda: line.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: not _incoming(web), 20, "the end of the part")
        assert _rows(web) == []


def test_an_object_that_is_too_long_ends_the_request(make: Make, database: Database) -> None:
    with web_of(make(web={"stow_max_bytes": 20_000}), database) as web:
        first, long, last = small_image("1"), chest_dataset(seed="2"), small_image("3")
        answer = Answer.of(web.store(part10(first), part10(long), part10(last)))
        assert (answer.code, answer.failed) == (202, {str(long.SOPInstanceUID): 0xC000})
        assert [row.sop_instance_uid for row in _rows(web)] == [str(first.SOPInstanceUID)]
        assert Answer.of(web.store(part10(long))).code == 409
        assert _incoming(web) == []


def test_without_room_the_sender_may_come_again(
    make: Make, database: Database, small_disk: Path, tmp_path: Path
) -> None:
    with web_of(make(dicom={"min_free_bytes": 1 << 60}), database) as web:
        answer = web.store(part10(small_image("1")))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert "floor" in answer.json()["detail"]
    (tmp_path / "file").write_text("where the spool should be")
    with web_of(make(storage={"spool": tmp_path / "file"}), database) as web:
        answer = web.store(part10(small_image("1")))
        assert (answer.status_code, answer.json()["detail"]) == (
            503,
            "the spool cannot be used: File exists",
        )
    with web_of(make(data_dir=small_disk / "data"), database) as web:
        long = chest_dataset(seed="2", PixelData=bytes(4 << 20))
        answer = web.store(part10(long))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
        assert Answer.of(answer).failed == {str(long.SOPInstanceUID): 0xA700}
        assert (_rows(web), _files(web), _incoming(web)) == ([], [], [])
        mixed = Answer.of(web.store(part10(small_image("1")), part10(long)))
        assert (mixed.code, list(mixed.failed.values())) == (202, [0xA700])


def test_rules_know_senders_by_account_or_by_a_setting(make: Make, database: Database) -> None:
    for setting, account, wanted in (
        (None, "radiology-room-7@hospital.example", "radiology-room-7"),
        ("STOW", "operator-2", "STOW"),
    ):
        with web_of(make(web={"stow_calling_aet": setting}), database) as web:
            headers = bearer(database, Role.OPERATOR, Scope.STORE, name=account)
            image = small_image(account)
            answer = web.client.post(
                f"{ROOT}/studies",
                content=multipart(part10(image)),
                headers={**multipart_type(), **headers},
            )
            assert answer.status_code == 200
        with database.read() as session:
            uid = str(image.StudyInstanceUID)
            study = session.scalars(select(Study).where(Study.study_instance_uid == uid)).one()
            assert study.calling_aet == wanted


def test_storing_is_for_operators_and_tokens_with_its_scope(web: Web) -> None:
    def status(headers: dict[str, str]) -> int:
        return httpx.post(
            f"{web.client.base_url}{ROOT}/studies",
            content=multipart(part10(small_image("1"))),
            headers={**multipart_type(), **headers},
        ).status_code

    assert status({}) == 401
    assert status(bearer(web.database, Role.OPERATOR, Scope.RESULTS)) == 403
    assert status(bearer(web.database, Role.VIEWER, Scope.STORE)) == 403
    session = browser(web.database, Role.OPERATOR).headers
    assert status({k: v for k, v in session.items() if k != "X-CSRF-Token"}) == 403
    assert _rows(web) == []
    assert status(session) == 200
    assert status(bearer(web.database, Role.OPERATOR, Scope.STORE)) == 200


def test_our_own_sender_is_understood(web: Web, make: Make, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text(f"Authorization: {web.client.headers['authorization']}\n")
    (tmp_path / "headers").chmod(0o600)
    url = f"{web.client.base_url}{ROOT}"
    destination = {"name": "node", "url": url, "headers_file": tmp_path / "headers"}
    settings = make(destinations=[destination], data_dir=tmp_path / "other")
    image, strange = tmp_path / "a.dcm", tmp_path / "b.dcm"
    image.write_bytes(part10(small_image("1")))
    mismatched = part10(small_image("2")).replace(
        str(small_image("2").SOPInstanceUID).encode(), random_uid_like("2"), 1
    )
    strange.write_bytes(mismatched)
    parcels = [
        Parcel(1, image, str(small_image("1").SOPClassUID), str(small_image("1").SOPInstanceUID)),
        Parcel(2, strange, str(small_image("2").SOPClassUID), random_uid_like("2").decode()),
    ]
    sender = StowSender.of(settings, settings.destinations[0])
    assert sender.echo(Receiver("node", "X", "", 1)) is None
    sent, refused = sender.send(Receiver("node", "X", "", 1), parcels)
    assert (sent.verdict, sent.contact) == (Verdict.SENT, Contact.ANSWERED)
    assert (refused.verdict, refused.status) == (Verdict.REJECTED, 0xA900)
