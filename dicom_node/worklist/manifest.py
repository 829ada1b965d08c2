"""Feedback becomes a data set to train on: images, the accepted SEGs as labels, what to draw anew.

The manifest is that of docs/training-data.md. Files are copied as they are, with what stands in
them of the patient: nothing is de-identified.
"""

import csv
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from dicom_node.errors import OperatorError
from dicom_node.listing import inert
from dicom_node.worklist.feedback import last_opinions
from models.audit import AuditAction, record
from models.imaging import Instance, Series, Study
from models.reading import Feedback
from models.rejection import WithdrawnArtifact
from models.result import Analysis, Artifact
from models.session import Database
from models.settings import Settings
from models.states import ArtifactKind, InstanceState, Verdict

MANIFEST: Final = "manifest.csv"
RELABEL: Final = "relabel.csv"
NOTICE: Final = """\
Exported feedback of readers. Research use only; not a medical device.

The DICOM files are copies of what was received and of what was made of it, with patient names,
identifiers and dates. Nothing is de-identified. De-identify before this leaves the hospital.

manifest.csv   data set for training: accepted results with their SEG as labels; images whose result
               was rejected or corrected, without labels (split `unlabelled`)
relabel.csv    who rejected or corrected what, with both percentages: draw these anew, enter the
               labels in manifest.csv, and empty their split

A reader who accepts a percentage has not accepted every contour. Look at the labels.
"""
_COLUMNS: Final = (
    *("case", "image", "labels", "format", "split", "source", "patient"),
    *("has_lung", "has_opacity", "normal"),
)
_RELABEL_COLUMNS: Final = (
    *("case", "image", "verdict", "percent", "corrected_percent", "account", "given_at"),
    *("model", "version", "comment", "seg"),
)
_BLOCK: Final = 200
_Add = Callable[[Iterable[Any]], Any]


@dataclass(frozen=True)
class Exported:
    """How many images of each kind were written, and how many are not here any more."""

    accepted: int
    to_relabel: int
    gone: int


@dataclass(frozen=True)
class _Judged:
    """One image with the opinions that count on the newest analysis that has any."""

    study: Study
    instance: Instance
    analysis: Analysis
    opinions: Sequence[Feedback]
    segmentation: Artifact | None

    @property
    def is_accepted(self) -> bool:
        """Whether every reader accepts the figure."""
        return all(each.verdict is Verdict.ACCEPT for each in self.opinions)


def export_feedback(
    database: Database,
    settings: Settings,
    out: Path,
    actor: str,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Exported:
    """Write images, labels, manifest and notice into the empty or new folder `out`.

    The export is in the audit before the first file is written.

    An image counts as accepted when the last word of every reader on it is so. What was withdrawn,
    replaced or purged since is left out.
    Raises OperatorError when `out` holds something or cannot be written.
    """
    try:
        _prepare(out)
        with database.write() as session:
            record(session, AuditAction.FEEDBACK_EXPORTED, "exported", actor=actor)
        with database.read() as session:
            return _Export(settings, out).write(_judged(session, since, until))
    except OSError as error:
        msg = f"{out} cannot be written: {error.strerror or error}"
        raise OperatorError(msg) from error


def _prepare(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        msg = f"{out} is not empty: name a new folder"
        raise OperatorError(msg)
    (out / "images").mkdir()
    (out / "labels").mkdir()
    (out / "README.txt").write_text(NOTICE, encoding="utf-8")


class _Export:
    """Writes one folder."""

    def __init__(self, settings: Settings, out: Path) -> None:
        self._settings = settings
        self._out = out

    def write(self, images: Iterable[_Judged]) -> Exported:
        counts = {"accepted": 0, "to_relabel": 0, "gone": 0}
        with (
            (self._out / MANIFEST).open("w", encoding="utf-8", newline="") as manifest,
            (self._out / RELABEL).open("w", encoding="utf-8", newline="") as relabel,
        ):
            cases, again = csv.writer(manifest), csv.writer(relabel)
            cases.writerow(_COLUMNS)
            again.writerow(_RELABEL_COLUMNS)
            for number, image in enumerate(images, 1):
                kind = self._add(f"f{number:06d}", image, cases.writerow, again.writerow)
                counts[kind] += 1
        return Exported(**counts)

    def _add(self, case: str, image: _Judged, add_case: _Add, add_opinion: _Add) -> str:
        name, labels = f"images/{case}.dcm", f"labels/{case}.dcm"
        segmentation = image.segmentation
        source = self._settings.image_store.path(image.instance.storage_key)
        is_here = image.instance.purged_at is None and source.is_file()
        has_labels = segmentation is not None and self._copy_labels(segmentation, labels)
        if not is_here or (image.is_accepted and not has_labels):
            return "gone"
        shutil.copyfile(source, self._out / name)
        person = self._person(image.study)
        origin = image.study.calling_aet
        if image.is_accepted:
            normal = "yes" if image.analysis.opacity_pixels_total == 0 else "no"
            labelled = (labels, "dicom-seg", "train", origin, person, "yes", "yes", normal)
            add_case((case, name, *labelled))
            return "accepted"
        add_case((case, name, "", "", "unlabelled", origin, person, "no", "no", "no"))
        for each in image.opinions:
            add_opinion((case, name, *_told(image, each), labels if has_labels else ""))
        return "to_relabel"

    def _copy_labels(self, segmentation: Artifact, name: str) -> bool:
        source = self._settings.artifact_store.path(segmentation.storage_key)
        if segmentation.purged_at is not None or not source.is_file():
            return False
        shutil.copyfile(source, self._out / name)
        return True

    def _person(self, study: Study) -> str:
        """Return a name for the patient that is the same in every export; it hides nothing."""
        domain = ",".join(self._settings.worklist.senders_like(study.calling_aet))
        whose = study.issuer_of_patient_id or domain
        text = "\x1f".join((whose, study.patient_id or study.study_instance_uid))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _told(image: _Judged, opinion: Feedback) -> tuple[object, ...]:
    model, corrected = image.analysis.model_version, opinion.corrected_percent
    return (
        opinion.verdict.value,
        image.analysis.opacity_percent_total,
        "" if corrected is None else corrected,
        opinion.account.name,
        opinion.created_at.isoformat(timespec="seconds"),
        model.name,
        model.version,
        inert(opinion.comment or ""),
    )


def _judged(session: Session, since: datetime | None, until: datetime | None) -> Iterator[_Judged]:
    """Yield every image that counts and has an opinion, in the order of arrival, in blocks."""
    wanted: list[ColumnElement[bool]] = [Feedback.id.in_(last_opinions())]
    if since is not None:
        wanted.append(Feedback.created_at >= since)
    if until is not None:
        wanted.append(Feedback.created_at < until)
    last = 0
    while True:
        query = (
            select(Instance.id)
            .join(Analysis, Analysis.instance_id == Instance.id)
            .join(Feedback, Feedback.analysis_id == Analysis.id)
            .where(*wanted, Instance.id > last, Instance.state == InstanceState.ANALYSED)
            .distinct()
            .order_by(Instance.id)
            .limit(_BLOCK)
        )
        block = session.scalars(query).all()
        if not block:
            return
        for instance_id in block:
            yield _of_image(session, instance_id, wanted)
        last = block[-1]
        session.expunge_all()


def _of_image(session: Session, instance_id: int, wanted: Sequence[ColumnElement[bool]]) -> _Judged:
    """Return the opinions on the newest analysis of the image that has any."""
    opinions = session.scalars(
        select(Feedback)
        .join(Analysis, Feedback.analysis_id == Analysis.id)
        .where(Analysis.instance_id == instance_id, *wanted)
        .order_by(Feedback.analysis_id.desc(), Feedback.id)
    ).all()
    analysis = opinions[0].analysis
    instance = session.get_one(Instance, instance_id)
    series = session.get_one(Series, instance.series_id)
    segmentation = session.scalar(
        select(Artifact).where(
            Artifact.analysis_id == analysis.id,
            Artifact.kind == ArtifactKind.SEG,
            Artifact.id.not_in(select(WithdrawnArtifact.artifact_id)),
        )
    )
    return _Judged(
        series.study,
        instance,
        analysis,
        [each for each in opinions if each.analysis_id == analysis.id],
        segmentation,
    )
