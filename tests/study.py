"""One study with all that the node makes of it: two images, their SEGs and SCs, two reports."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from builders import (
    analysed_image,
    chest_dataset,
    chest_image,
    lung_masks,
    object_context,
    write_part10,
)

from worker.equipment import to_bytes
from worker.report import build_report
from worker.report_groups import ReportImage
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.types import AnalysedImage


@dataclass(frozen=True)
class Study:
    """The files of one study; `analysed` tells what SEGs and the second report must say."""

    images: tuple[Path, ...]
    segmentations: tuple[Path, ...]
    captures: tuple[Path, ...]
    reports: tuple[Path, ...]
    analysed: tuple[AnalysedImage, ...]

    @property
    def made(self) -> tuple[Path, ...]:
        """What the node sends."""
        return self.segmentations + self.captures + self.reports

    @property
    def all(self) -> tuple[Path, ...]:
        """Everything that a PACS holds of the study."""
        return self.images + self.made


def write_study(folder: Path) -> Study:
    """Write a PA and an AP view of one patient; revision 2 of the report replaces revision 1."""
    first = chest_dataset(seed="study-1")
    same = ("StudyInstanceUID", "PatientID", "AccessionNumber")
    shared = {keyword: getattr(first, keyword) for keyword in same}
    second = chest_dataset(seed="study-2", ViewPosition="AP", InstanceNumber=2, **shared)
    context = object_context()
    analysed, report_images = [], []
    paths: dict[str, list[Path]] = {"image": [], "seg": [], "sc": []}
    for number, (ds, opacity) in enumerate(((first, 0.25), (second, 0.6))):
        each = analysed_image(
            chest_image(ds=ds),
            lung_masks(opacity=opacity),
            data_set_sha256=hashlib.sha256(str(number).encode()).hexdigest(),
        )
        seg = build_segmentation(each, context)
        capture = build_secondary_capture(each, context)
        analysed.append(each)
        report_images.append(ReportImage.of(each, seg))
        paths["image"].append(write_part10(folder / f"{number}.dcm", ds))
        for kind, made in (("seg", seg), ("sc", capture)):
            paths[kind].append(folder / f"{number}.{kind}.dcm")
            paths[kind][-1].write_bytes(to_bytes(made))
    one = build_report(report_images[:1], context, 1)
    two = build_report(report_images, context, 2, one)
    reports = (folder / "1.sr.dcm", folder / "2.sr.dcm")
    for path, report in zip(reports, (one, two), strict=True):
        path.write_bytes(to_bytes(report))
    return Study(
        tuple(paths["image"]), tuple(paths["seg"]), tuple(paths["sc"]), reports, tuple(analysed)
    )
