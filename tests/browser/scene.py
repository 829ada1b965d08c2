"""A morning in a hospital of phantoms: what the pages show in tests and pictures.

Every file is drawn, every result comes from the real worker over real associations.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from builders import CR, DX, chest_dataset, write_part10
from nodes import make_node, store
from pydicom.dataset import FileDataset
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification
from servers import wait_until

from dicom_node.accounts import Actor, add
from dicom_node.demo.node import NodeProcess
from dicom_node.demo.pacs import StoragePacs, free_ports
from dicom_node.passwords import Passwords
from models.account import Role
from models.session import Database
from worker.training.phantom import make_phantom

PASSWORD: Final = "correct horse battery staple"  # noqa: S105  of phantoms' accounts
PEOPLE: Final = {"rita": Role.VIEWER, "paul": Role.OPERATOR, "ada": Role.ADMIN}
XSS: Final = "<img src=x onerror=alert(1)>"
NAME_XSS: Final = "<script>alert(1)</script>"  # PN has two = at most
SHORT_XSS: Final = "<svg onload=a()>"  # SH and AE have 16 characters
_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_REFUSED = 0xA900  # PS3.4 B.2.3: the data set does not match the SOP Class
_LATE_SENDER = "WARD_CR3"
_ROWS = 1024
_AWAY = "teaching-files"  # a receiver that nobody started
_BUSY = """
SELECT (SELECT count(*) FROM instance) < ?
  OR EXISTS (SELECT 1 FROM study WHERE state IN ('open', 'settled') AND calling_aet != ?
             AND id IN (SELECT study_id FROM series JOIN instance ON series_id = series.id
                        WHERE instance.state != 'quarantined'))
  OR EXISTS (SELECT 1 FROM job WHERE state IN ('pending', 'leased'))
  OR EXISTS (SELECT 1 FROM delivery JOIN destination ON destination_id = destination.id
             WHERE delivery.state IN ('due', 'sending') AND name != ?)
  OR EXISTS (SELECT 1 FROM destination WHERE name = 'teaching-files' AND circuit = 'closed')
"""
_IN_QUARANTINE = 2  # a second patient in one study and an image without a patient: in quarantine


# Every text of a header that anybody might show.
_HOSTILE: Final = {
    "IssuerOfPatientID": XSS,
    "AccessionNumber": SHORT_XSS,
    "StudyDescription": XSS,
    "SeriesDescription": XSS,
    "StudyID": SHORT_XSS,
    "Manufacturer": XSS,
    "ManufacturerModelName": XSS,
    "StationName": SHORT_XSS,
    "InstitutionName": XSS,
    "ReferringPhysicianName": NAME_XSS,
    "PatientComments": XSS,
    "ProtocolName": XSS,
}


@dataclass(frozen=True)
class Exam:
    """One study to send: who, when, what is drawn, and what its header says beside that."""

    patient_id: str
    name: str
    hours_ago: float
    percent: float | None = 0.0  # None: a lateral view only
    calling_aet: str = "ER_DX1"
    view: str = "PA"
    damage: str = ""  # what is done to the pixels
    with_lateral: bool = False
    header: dict[str, Any] = field(default_factory=dict)
    study_instance_uid: str = field(default_factory=generate_uid)


def exams() -> dict[str, Exam]:
    """Return the studies of the morning, by what each of them is there for."""
    return {
        "oldest prior": Exam("PH-1004", "PHANTOM^ALDER", 24 * 6 + 2, 8.0),
        "prior": Exam("PH-1004", "PHANTOM^ALDER", 24 * 3 + 1, 20.0),
        "trend": Exam("PH-1004", "PHANTOM^ALDER", 1.6, 38.0, with_lateral=True),
        "severe": Exam("PH-2117", "PHANTOM^BIRCH^MARY", 0.6, 66.0, "ICU_DX2", "AP"),
        "one lung": Exam("PH-2093", "PHANTOM^ROWAN", 2.2, 30.0, damage="white lung"),
        "inverted": Exam("PH-1560", "PHANTOM^HAZEL", 3.1, 24.0, "ICU_DX2", damage="inverted"),
        "mild": Exam("PH-1877", "PHANTOM^MAPLE^JOHN", 4.4, 9.0),
        "clear": Exam("PH-1342", "PHANTOM^OAK", 5.0, 0.0),
        "lateral": Exam("PH-2201", "PHANTOM^PINE", 1.1, None),
        "child": Exam("PH-2230", "PHANTOM^WILLOW", 0.9, 5.0, header={"PatientAge": "008Y"}),
        "late": Exam("PH-2245", "PHANTOM^CEDAR", 0.8, 14.0, _LATE_SENDER),
        "hostile": Exam(
            f"X {XSS}",
            f"{NAME_XSS}^{NAME_XSS}",
            7.0,
            12.0,
            SHORT_XSS,
            header=_HOSTILE,
        ),
    }


def send(node: NodeProcess, folder: Path, exam: Exam, number: int) -> list[Path]:
    """Draw a study and send it as its own sender."""
    drawn = datasets(exam, number)
    paths = [write_part10(folder / f"{number}-{at}.dcm", ds) for at, ds in enumerate(drawn)]
    assert set(store(node.dicom_port, *paths, calling_aet=exam.calling_aet)) == {0}
    return paths


def datasets(exam: Exam, number: int) -> list[FileDataset]:
    """Draw the images of one study."""
    at = datetime.now().astimezone() - timedelta(hours=exam.hours_ago)
    header: dict[str, Any] = {
        "PatientID": exam.patient_id,
        "IssuerOfPatientID": "PHANTOM HOSPITAL",
        "PatientName": exam.name,
        "PatientBirthDate": f"{1940 + number % 60}0{1 + number % 9}12",
        "PatientSex": "FM"[number % 2],
        "StudyInstanceUID": exam.study_instance_uid,
        "StudyDate": f"{at:%Y%m%d}",
        "StudyTime": f"{at:%H%M%S}",
        "TimezoneOffsetFromUTC": f"{at:%z}",
        "AccessionNumber": f"PX{26000 + number}",
        "StudyDescription": "Synthetic chest phantom",
        "ViewPosition": exam.view,
        "SOPClassUID": DX if "DX" in exam.calling_aet else CR,
        "Modality": "DX" if "DX" in exam.calling_aet else "CR",
        "ImagerPixelSpacing": [0.42, 0.42],
    } | exam.header
    views = [exam.view] if exam.percent is not None else []
    views += ["LL"] if exam.with_lateral or exam.percent is None else []
    return [_image(exam, header, number, view) for view in views]


def _image(exam: Exam, header: dict[str, Any], number: int, view: str) -> FileDataset:
    # One patient keeps the same anatomy: the seed is that of the patient.
    seed = sum(exam.patient_id.encode())
    phantom = make_phantom(seed, _ROWS, exam.percent if view != "LL" else None, view)  # type: ignore[arg-type]  one of the views
    pixels = phantom.pixels >> 4
    if exam.damage == "inverted":
        pixels = 4095 - pixels
    if exam.damage == "white lung":
        pixels[phantom.left] = 3300
    is_dx = header["SOPClassUID"] == DX
    more = {"PresentationIntentType": "FOR PRESENTATION"} if is_dx else {}
    more |= {"ViewPosition": view, "PatientOrientation": ["P", "F"] if view == "LL" else ["L", "F"]}
    uids = {"SeriesInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid()}
    return chest_dataset(pixels=pixels, seed=number, **(header | more | uids))


@dataclass
class Scene:
    """A node with results, the people who use it, and the studies by name."""

    node: NodeProcess
    exams: dict[str, Exam]

    @property
    def url(self) -> str:
        """Of its pages, without a slash at the end."""
        return f"http://127.0.0.1:{self.node.web_port}"

    def study(self, name: str) -> str:
        """Return the address of the page of one study."""
        return f"{self.url}/studies/{self.exams[name].study_instance_uid}"


@contextmanager
def running_scene(
    folder: Path, late_minutes: float = 0.1, *, is_hostile: bool = True
) -> Iterator[Scene]:
    """Run the node with its receivers; yield it when everything that can end has ended.

    `is_hostile`: some headers attack whoever shows them.
    """
    pacs = StoragePacs(folder / "pacs", "PACS")
    strict = _StrictPacs()
    (nobody,) = free_ports(1)
    settings = _settings(pacs, strict, nobody)
    settings["DICOM_NODE_WORKLIST__LATE_MINUTES"] = str(late_minutes)
    node = make_node(folder / "node", **settings)
    try:
        node.start(300)
        _make_accounts(node)
        wanted = exams()
        if not is_hostile:
            del wanted["hostile"]
        images = _send(node, folder / "files", wanted, is_hostile=is_hostile)
        _wait(node, images)
        yield Scene(node, wanted)
    finally:
        node.stop()
        pacs.close()
        strict.close()


def _wait(node: NodeProcess, images: int) -> None:
    """Wait for every result that can come: not for the late study, nor for who is not there."""

    def has_ended() -> bool:
        with closing(sqlite3.connect(f"file:{node.data_dir / 'node.db'}?mode=ro", uri=True)) as it:
            return not it.execute(_BUSY, (images, _LATE_SENDER, _AWAY)).fetchone()[0]

    wait_until(has_ended, 600, "the results of the morning", every=0.3)


def _settings(pacs: StoragePacs, strict: "_StrictPacs", nobody: int) -> dict[str, str]:
    destinations = [
        {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": pacs.port},
        {
            "name": "research-archive",
            "ae_title": "ARCHIVE",
            "host": "127.0.0.1",
            "port": strict.port,
        },
        {
            "name": _AWAY,
            "ae_title": "TEACHING",
            "host": "127.0.0.1",
            "port": nobody,
            "segmentations": "never",
        },
    ]
    return {
        "DICOM_NODE_DESTINATIONS": json.dumps(destinations),
        "DICOM_NODE_DISPATCH__SETTLE_SECONDS_BY_CALLING_AE": json.dumps({_LATE_SENDER: 86400}),
    }


class _StrictPacs:
    """A storage SCP that takes no structured report, as some archives do."""

    def __init__(self) -> None:
        self._ae = AE("ARCHIVE")
        self._ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            self._ae.add_supported_context(str(context.abstract_syntax))
        server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert server is not None
        self.port = int(server.server_address[1])

    def _store(self, event: Event) -> int:
        return _REFUSED if event.request.AffectedSOPClassUID == _SR else 0x0000

    def close(self) -> None:
        """Stop it."""
        self._ae.shutdown()


def _make_accounts(node: NodeProcess) -> None:
    database = Database(f"sqlite:///{node.data_dir / 'node.db'}")
    hashed = Passwords().hash(PASSWORD)
    try:
        with database.write() as session:
            for name, role in PEOPLE.items():
                add(session, name, role, Actor("tests"), password_hash=hashed)
    finally:
        database.dispose()


def _send(node: NodeProcess, folder: Path, wanted: dict[str, Exam], *, is_hostile: bool) -> int:
    """Send every study, the oldest first; return how many images that is."""
    in_order = sorted(wanted.values(), key=lambda each: -each.hours_ago)
    images = sum(len(send(node, folder, exam, at)) for at, exam in enumerate(in_order))
    nobody = Exam("", "PHANTOM^ASH", 2.0, 15.0)
    if is_hostile:
        nobody = Exam("", NAME_XSS, 2.0, 15.0, SHORT_XSS, header=_HOSTILE)
    return images + _send_to_quarantine(node, folder, wanted["mild"], nobody)


def _send_to_quarantine(node: NodeProcess, folder: Path, known: Exam, nobody: Exam) -> int:
    """Send another patient under a study that is known, and an image of nobody."""
    other = Exam("PH-9999", "PHANTOM^ELM", 4.2, 9.0, study_instance_uid=known.study_instance_uid)
    files = [
        write_part10(folder / f"quarantine-{at}.dcm", datasets(exam, 80 + at)[0])
        for at, exam in enumerate((other, nobody))
    ]
    for path, exam in zip(files, (other, nobody), strict=True):
        assert store(node.dicom_port, path, calling_aet=exam.calling_aet) == [0]
    return _IN_QUARANTINE
