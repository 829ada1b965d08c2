"""Every odd file of the test data, sent as it is: a status of the table, no harm done."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from builders import chest_dataset
from pydicom.filereader import read_file_meta_info
from senders import CR, associate, store, store_bytes
from sqlalchemy import select

from dicom_node.contexts import ACCEPTED
from dicom_node.ledger import compute
from dicom_node.status import STORE_STATUS, SUCCESS
from models.imaging import Instance

_STATUSES = {status for status, _ in STORE_STATUS.values()} | {SUCCESS}
_MAX_GROWTH_BYTES = 400 << 20


def _data_set(path: Path) -> tuple[str, str, bytes]:
    """Return transfer syntax, SOP Instance UID and the bytes that a naive sender would send."""
    raw = path.read_bytes()
    try:
        meta = read_file_meta_info(path)
        syntax = str(meta.TransferSyntaxUID)
        instance = str(meta.MediaStorageSOPInstanceUID)
        offset = 144 + int(meta.FileMetaInformationGroupLength)
    except Exception:  # noqa: BLE001  hostile on purpose: then all of it is the data set
        return "1.2.840.10008.1.2.1", "1.2.3", raw
    known = syntax in {str(uid) for uid in ACCEPTED[CR]}
    return (syntax if known else "1.2.840.10008.1.2.1"), instance or "1.2.3", raw[offset:]


@pytest.mark.parametrize("folder", ["odd", "other"])
def test_every_odd_file_gets_a_status_and_harms_nothing(
    listen: Callable[..., "RunningListener"],  # noqa: F821  a fixture of conftest.py
    data_root: Path,
    folder: str,
) -> None:
    node = listen()
    process = psutil.Process()
    before = process.memory_info().rss
    files = sorted(path for path in (data_root / "dicom" / folder).rglob("*") if path.is_file())
    assert files
    answers: dict[str, int | None] = {}
    for path in files:
        syntax, instance, data = _data_set(path)
        with associate(node.port, (CR, syntax)) as assoc:
            answers[path.name] = store_bytes(assoc, CR, instance[:64], data or b"\0")
            assert assoc.is_established, path.name
    assert {name: code for name, code in answers.items() if code not in _STATUSES} == {}
    assert store(node.port, chest_dataset(PatientID="P1")) == SUCCESS
    assert process.memory_info().rss - before < _MAX_GROWTH_BYTES
    assert node.incoming == []
    with node.database.read() as session:
        assert len(session.scalars(select(Instance)).all()) == len(node.spooled)
    assert all(line.balanced for line in compute(node.database, node.settings))
