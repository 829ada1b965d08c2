"""Every odd file into a running node: listener, worker and all, twice.

First as it is: the bytes behind the file's own header, under its own class and encoding where the
node takes those. Then the same file dressed as a chest CR of a patient, so that it is accepted and
the worker, too, must end with a state and a reason.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from builders import chest_dataset
from nodes import make_node, worker_processes
from nodes import store as store_files
from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import _read_file_meta_info, read_dataset, read_preamble
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from senders import CR, associate, store_bytes
from watched import peak_bytes, role

from dicom_node.contexts import STORAGE_CLASSES, STORAGE_SYNTAXES
from dicom_node.demo.node import NodeProcess, Result, running
from dicom_node.status import STORE_STATUS, SUCCESS
from models.identity import make_uid
from models.reasons import Reason

log = logging.getLogger(__name__)

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(1200),
    pytest.mark.filterwarnings("ignore"),  # hostile on purpose: pydicom warns about nearly all
]

_STATUSES = {status for status, _ in STORE_STATUS.values()} | {SUCCESS}
_OUR_FAULT = {Reason.WORKER_LOST, Reason.INTERNAL_ERROR, Reason.TIME_LIMIT}
_WAITING = {"received", "queued"}
_LISTENER_GROWTH_BYTES = 100 << 20
_WORKER_GROWTH_BYTES = 200 << 20
_SECONDS = 600.0


@dataclass(frozen=True)
class _Sent:
    """What a naive sender makes of a file."""

    name: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    data: bytes


def _as_it_is(path: Path) -> _Sent:
    """The bytes behind the file meta, or all of them, under what they say of themselves."""
    raw = path.read_bytes()
    file = BytesIO(raw)
    syntax = ""
    try:
        preamble = read_preamble(file, force=True)
        syntax = str(_read_file_meta_info(file).get("TransferSyntaxUID", ""))
        data = raw[file.tell() :] if preamble or syntax else raw
    except Exception:  # noqa: BLE001  hostile on purpose: then all of it is the data set
        data = raw
    if syntax not in {str(uid) for uid in STORAGE_SYNTAXES}:
        syntax = _guessed_syntax(data)
    sop_class, instance = _identity(data, UID(syntax))
    known = sop_class in {str(uid) for uid in STORAGE_CLASSES}
    return _Sent(path.name, sop_class if known else CR, instance, syntax, data or b"\0")


def _guessed_syntax(data: bytes) -> str:
    """Tell the encoding by the first element, as receivers do: a VR is two capital letters."""
    vr = data[4:6]
    if not (vr.isalpha() and vr.isupper()):
        return str(ImplicitVRLittleEndian)
    return str(ExplicitVRBigEndian if data[:1] == b"\0" else ExplicitVRLittleEndian)


def _identity(data: bytes, syntax: UID) -> tuple[str, str]:
    try:
        ds = read_dataset(
            BytesIO(data[: 1 << 20]),
            is_implicit_VR=syntax.is_implicit_VR,
            is_little_endian=syntax.is_little_endian,
            stop_when=lambda tag, _vr, _length: tag > 0x0008FFFF,
        )
        return str(ds.get("SOPClassUID", "")), str(ds.get("SOPInstanceUID", ""))[:64] or "1.2.3"
    except Exception:  # noqa: BLE001  hostile on purpose
        return "", "1.2.3"


def _dressed(path: Path) -> _Sent | None:
    """The file's own elements as a chest CR; None where pydicom cannot write it again."""
    uid = make_uid("", "dressed", path.name)
    try:
        ds = dcmread(BytesIO(path.read_bytes()), force=True)
        syntax = UID(ds.file_meta.get("TransferSyntaxUID") or _guessed_syntax(path.read_bytes()))
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CR, uid, "CR"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{uid}.1"[:64], f"{uid}.2"[:64]
        ds.PatientID, ds.BodyPartExamined, ds.ViewPosition = path.name[:16], "CHEST", "PA"
        buffer = DicomBytesIO()
        buffer.is_implicit_VR = syntax.is_implicit_VR
        buffer.is_little_endian = syntax.is_little_endian
        ds.pop("file_meta", None)
        write_dataset(buffer, ds)
    except Exception:  # noqa: BLE001  hostile on purpose
        return None
    if str(syntax) not in {str(each) for each in STORAGE_SYNTAXES} or syntax.is_deflated:
        return None
    return _Sent(f"dressed {path.name}", CR, uid, str(syntax), buffer.getvalue())


def _send(port: int, sent: list[_Sent]) -> dict[str, int | None]:
    answers = {}
    for each in sent:
        with associate(port, (each.sop_class_uid, each.transfer_syntax_uid)) as assoc:
            assert assoc.is_established, each.name
            answers[each.name] = store_bytes(
                assoc, each.sop_class_uid, each.sop_instance_uid, each.data
            )
            assert assoc.is_established, f"{each.name} ended its association"
    return answers


def _wait(node: NodeProcess, instances: int) -> list[Result]:
    deadline = time.monotonic() + _SECONDS
    while True:
        results = node.results()
        waiting = [each for each in results if each.status in _WAITING]
        if len(results) >= instances and not waiting:
            return results
        if time.monotonic() > deadline:
            msg = f"{len(waiting)} of {len(results)} images wait after {_SECONDS:g} s"
            raise TimeoutError(msg)
        time.sleep(1)


@pytest.fixture
def odd(data_root: Path) -> list[Path]:
    files = sorted(path for path in (data_root / "dicom" / "odd").iterdir() if path.is_file())
    assert len(files) >= 70
    return files


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeProcess]:
    """A node that has analysed one image, so that everything is loaded that will be."""
    settings = {"DICOM_NODE_ANALYSIS__MIN_SIDE_PIXELS": "8"}
    with running(make_node(tmp_path / "node", **settings)) as node:
        chest = tmp_path / "chest.dcm"
        chest_dataset(seed="first").save_as(chest, enforce_file_format=True)
        assert store_files(node.dicom_port, chest) == [SUCCESS]
        _wait(node, 1)
        yield node


def test_every_odd_file_gets_a_status_a_state_and_a_reason(
    node: NodeProcess, odd: list[Path]
) -> None:
    parent, pool = worker_processes(node)
    watched = {"listener": role(node, "listen"), "worker": pool[0]}
    steady = psutil.Process(node.pid).children()
    before = {name: peak_bytes(process) for name, process in watched.items()}
    dressed = [each for path in odd if (each := _dressed(path)) is not None]
    assert len(dressed) > 50
    answers = _send(node.dicom_port, [*map(_as_it_is, odd), *dressed])
    assert {name: code for name, code in answers.items() if code not in _STATUSES} == {}
    stored = [each for each in dressed if answers[each.name] == SUCCESS]
    assert len(stored) > 50

    results = _wait(node, 1 + len(stored))
    growth = {name: peak_bytes(process) - before[name] for name, process in watched.items()}
    for name, more in growth.items():
        log.info("%s: %d MB, then %d more", name, before[name] >> 20, more >> 20)
    log.info("%s", Counter(f"0x{code or 0:04X}" for code in answers.values()))
    log.info("%s", Counter((each.status, each.reason) for each in results))

    for each in results:
        assert (each.reason is None) == (each.status == "analysed"), each
        assert each.reason is None or (Reason(each.reason) not in _OUR_FAULT and each.detail), each
    assert psutil.Process(node.pid).children() == steady, "a role of the node was started again"
    assert worker_processes(node) == (parent, pool), "a worker process was replaced"
    assert growth["listener"] < _LISTENER_GROWTH_BYTES
    assert growth["worker"] < _WORKER_GROWTH_BYTES
    ledger = node.run("ledger")
    assert ledger.returncode == 0, ledger.stdout + ledger.stderr
    assert node.stop() == 0
    assert "Traceback" not in node.stderr.read_text()
