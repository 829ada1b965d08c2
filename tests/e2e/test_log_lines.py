"""What a whole node writes to its log and shows on /metrics: no patient, in no format."""

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom.config
import pytest
from builders import chest_dataset, write_part10
from nodes import make_node, store, wait_for_results
from pydicom.uid import generate_uid
from servers import wait_until

from dicom_node.demo.node import NodeProcess, running
from dicom_node.demo.pacs import StoragePacs
from worker.training.phantom import make_phantom

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

_WORDS = ("zebedee", "quixote", "qx-83641", "17760704")
# What is no line of a log: what the embedded broker and, at its end, Celery write, and the link to
# the first account.
_OTHERS = re.compile(r"[0-9]+:|worker: Warm shutdown|nobody has an account yet|$")
_NUMBER = 12345678  # where pydicom wants a number; in the file the PatientID stands in its place
_PATIENT = {
    "PatientName": "Zebedee^Quixote",
    "PatientID": "QX-83641",
    "PatientBirthDate": "17760704",
    "AccessionNumber": "QX-83641-1",
    "StudyDescription": "Zebedee Quixote, chest",
}


@pytest.fixture
def _any_value_may_be_written() -> Iterator[None]:
    values = pydicom.config.settings
    saved = values.reading_validation_mode, values.writing_validation_mode
    values.reading_validation_mode = values.writing_validation_mode = pydicom.config.IGNORE
    yield
    values.reading_validation_mode, values.writing_validation_mode = saved


def _images(folder: Path) -> list[Path]:
    """Write images that go every way: analysed, compared, refused, broken, set aside."""
    folder.mkdir()
    chest = make_phantom(7, 512, 20.0).pixels >> 4
    same = {name: generate_uid() for name in ("StudyInstanceUID", "SOPInstanceUID")}
    kinds: list[dict[str, Any]] = [
        same,
        same | {"PatientName": "Quixote^Zebedee", "PatientSex": "O"},  # the same UID, other bytes
        {"ViewPosition": "LL"},
        {"PatientID": None},  # quarantine
        {"PixelData": b"\0\1" * 100},  # too short
        # Values that their VR does not allow: who reads them raises, and quotes them.
        {"PatientAge": "Zebedee", "SeriesNumber": _NUMBER, "StudyDate": "Zebedee Quixote"},
        {"WindowCenter": _NUMBER, "WindowWidth": _NUMBER, "Rows": None},
    ]
    paths = [folder / f"{number}.dcm" for number in range(len(kinds))]
    for path, kind in zip(paths, kinds, strict=True):
        new = {"StudyInstanceUID": generate_uid(), "SOPInstanceUID": generate_uid()}
        write_part10(path, chest_dataset(pixels=chest, **(new | _PATIENT | kind)))
        path.write_bytes(path.read_bytes().replace(b"%d" % _NUMBER, b"QX-83641"))
    return paths


def _metrics(node: NodeProcess) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{node.web_port}/metrics") as answer:
        return str(answer.read().decode())


@pytest.mark.usefixtures("_any_value_may_be_written")
@pytest.mark.parametrize(
    "form",
    ["json", pytest.param("text", marks=[pytest.mark.faults, pytest.mark.slow_faults])],
)
def test_no_line_names_the_patient(form: str, tmp_path: Path, storage_scp: StoragePacs) -> None:
    images = _images(tmp_path / "images")
    node = make_node(
        tmp_path / "node",
        storage_scp.address,
        DICOM_NODE_LOG__FORMAT=form,
        DICOM_NODE_LOG__LEVEL="DEBUG",
    )
    with running(node):
        for image in images:  # whatever is answered: also what is refused leaves a line
            store(node.dicom_port, image)
        results = wait_for_results(node, len(images) - 1)
        assert {each.status for each in results} >= {"analysed", "not_analysed", "quarantined"}

        def is_counted() -> bool:
            page = _metrics(node)
            return 'dicom_node_analysis_stage_seconds_count{stage="objects"}' in page

        wait_until(is_counted, 60, "the stages of an analysis on /metrics")
        page = _metrics(node)
    log = node.stderr.read_text()
    for word in _WORDS:
        assert word not in log.lower()
        assert word not in page.lower()
    for role in ("up", "listen", "dispatch", "deliver", "web", "worker"):
        assert f'role="{role}"' in page
    assert "analysed in" in log
    if form == "json":
        _check(log)


def _check(log: str) -> None:
    """Every line of every process is an object, with the ids of rows where it names one."""
    lines = [json.loads(line) for line in log.splitlines() if not _OTHERS.match(line)]
    assert {line["role"] for line in lines} >= {"up", "listen", "worker"}
    assert all(
        line.keys() >= {"time", "level", "role", "event", "message", "logger"} for line in lines
    )
    analysed = [line for line in lines if line["event"] == "job %d: analysed in %.2f s"]
    assert analysed
    assert all(isinstance(line["job_id"], int) for line in analysed)
