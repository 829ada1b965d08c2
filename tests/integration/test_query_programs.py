"""The Query/Retrieve SCP asked by programs that no one here wrote: dcmtk's SCUs."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from builders import chest_dataset, chest_pixels
from conftest import RunningListener
from pydicom import dcmread
from querying import add_results, send, stored_files
from servers import free_port

Find = Callable[[str], Path]
Listen = Callable[..., RunningListener]
_STUDY = ("-k", "QueryRetrieveLevel=STUDY")


@dataclass
class Bench:
    """A node with one image and its results, and a port at which VIEWER receives."""

    node: RunningListener
    viewer_port: int
    study_instance_uid: str
    uids: set[str]

    def run(self, program: Path, *arguments: str | Path, cwd: Path | None = None) -> str:
        """Run a Study Root SCU as VIEWER; return what it says."""
        called = ("-S", "-aet", "VIEWER", "-aec", "NODE", "127.0.0.1", str(self.node.port))
        command = [program, *arguments, *called]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def held(self) -> dict[str, bytes]:
        """What the node has, by SOP Instance UID."""
        settings = self.node.settings
        return stored_files(settings.spool_dir) | stored_files(settings.artifact_dir)


@pytest.fixture
def got(tmp_path: Path) -> Path:
    """A folder for what arrives."""
    folder = tmp_path / "got"
    folder.mkdir()
    return folder


@pytest.fixture
def bench(listen: Listen) -> Bench:
    port = free_port()
    viewer = {"ae_title": "VIEWER", "host": "127.0.0.1", "port": port}
    section = {"enabled": True, "calling_aets": ["VIEWER"], "move_destinations": [viewer]}
    node = listen(sections={"query_retrieve": section})
    image = chest_dataset(PatientName="Müller^Anna", pixels=chest_pixels(128, 120))
    send(node.port, image)
    results = add_results(node.settings, node.database, image)
    uids = {str(image.SOPInstanceUID), *results}
    return Bench(node, port, str(image.StudyInstanceUID), uids)


def test_findscu_finds_a_study_by_name_and_date(bench: Bench, dcmtk: Find, tmp_path: Path) -> None:
    keys = ("-k", "PatientName=M*", "-k", "StudyDate=20251231-20260101", "-k", "StudyTime")
    wanted = ("-k", "ModalitiesInStudy", "-k", "NumberOfStudyRelatedInstances")
    bench.run(dcmtk("findscu"), "-X", "-od", tmp_path, *_STUDY, *keys, *wanted)
    (found,) = [dcmread(path) for path in tmp_path.glob("rsp*.dcm")]
    assert str(found.PatientName) == "Müller^Anna"
    assert (found.StudyDate, found.StudyTime) == ("20260101", "120000")
    assert list(found.ModalitiesInStudy) == ["CR", "SEG", "SR"]
    assert found.NumberOfStudyRelatedInstances == 3


def test_findscu_walks_down_to_the_images(bench: Bench, dcmtk: Find, tmp_path: Path) -> None:
    study = ("-k", f"StudyInstanceUID={bench.study_instance_uid}")
    level = ("-k", "QueryRetrieveLevel=SERIES", "-k", "SeriesInstanceUID", "-k", "Modality=SEG")
    bench.run(dcmtk("findscu"), "-X", "-od", tmp_path, *level, *study)
    (series,) = [dcmread(path) for path in tmp_path.glob("rsp*.dcm")]
    (tmp_path / "images").mkdir()
    level = ("-k", "QueryRetrieveLevel=IMAGE", "-k", "SOPInstanceUID", "-k", "SOPClassUID")
    within = ("-k", f"SeriesInstanceUID={series.SeriesInstanceUID}")
    bench.run(dcmtk("findscu"), "-X", "-od", tmp_path / "images", *level, *study, *within)
    (image,) = [dcmread(path) for path in (tmp_path / "images").glob("rsp*.dcm")]
    assert image.SOPInstanceUID in bench.uids


def test_movescu_receives_image_and_results(bench: Bench, dcmtk: Find, got: Path) -> None:
    said = bench.run(
        dcmtk("movescu"),
        *("-v", "-aem", "VIEWER", "+P", str(bench.viewer_port), "+B"),
        *(*_STUDY, "-k", f"StudyInstanceUID={bench.study_instance_uid}"),
        cwd=got,  # where movescu 3.6.7 writes, whatever its option -od says
    )
    assert "Success" in said
    assert stored_files(got) == bench.held
    assert set(bench.held) == bench.uids


def test_getscu_receives_image_and_results(bench: Bench, dcmtk: Find, got: Path) -> None:
    bench.run(
        dcmtk("getscu"),
        *("-v", "+B", "-od", got),
        *(*_STUDY, "-k", f"StudyInstanceUID={bench.study_instance_uid}"),
    )
    assert stored_files(got) == bench.held
