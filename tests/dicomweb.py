"""Orthanc with its DICOMweb plug-in (PS3.18), which Debian ships as a package of its own."""

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import FileDataset

from dicom_node.demo.pacs import OrthancPacs

PLUGIN: Final = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
ROOT: Final = "/dicom-web/"


def kill_orthanc(pacs: OrthancPacs) -> None:
    """End an Orthanc that is not used again: when it is asked to, it takes seconds."""
    pacs._process.kill()
    pacs.close()


class WebOrthanc(OrthancPacs):
    """A private Orthanc that also answers QIDO-RS and WADO-RS below `/dicom-web/`."""

    def _configure(self) -> Path:
        path = super()._configure()
        settings = json.loads(path.read_text())
        settings["Plugins"] = [str(PLUGIN)]
        settings["DicomWeb"] = {"Enable": True, "Root": ROOT}
        path.write_text(json.dumps(settings, indent=2))
        return path

    def retrieve(self, study_instance_uid: str) -> Iterator[FileDataset]:
        """Yield every object of a study as WADO-RS sends it: one part each (PS3.18 10.4)."""
        body = self.get_bytes(f"{ROOT}studies/{study_instance_uid}")
        boundary, _, _ = body.partition(b"\r\n")
        for part in body.split(b"\r\n" + boundary) if boundary else ():
            _, _, data = part.partition(b"\r\n\r\n")
            if data:
                yield dcmread(BytesIO(data))
