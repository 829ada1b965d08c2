"""The file command: files in; SEG, SR, overlays and what else is wanted out; no server."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image
from pydicom.dataset import Dataset

from models.files import atomic_write
from models.identity import make_uid
from models.reasons import Reason
from models.settings import Settings
from worker.capture import overlay, overlay_png, without_caption
from worker.equipment import ObjectContext, date_of_source, to_bytes
from worker.errors import AnalysisFailed, NotAnalysable
from worker.extras import made_or_none
from worker.header import data_set_sha256, get_text, is_uid
from worker.pipeline import Classifies, Segments, analyse_image
from worker.presentation import build_presentation_state
from worker.report import build_report
from worker.report_groups import AREA_DIGITS, PERCENT_DIGITS, ReportImage
from worker.sandbox import Sandbox
from worker.secondary_capture import build_secondary_capture
from worker.segmentation import build_segmentation
from worker.types import (
    SIDES,
    AnalysedImage,
    Caveat,
    FileOutcome,
    Measurements,
    ModelIdentity,
    Severity,
    Side,
    UnanalysedImage,
    Zone,
)

_log = logging.getLogger(__name__)

_FOR_PRESENTATION: Final = "1.2.840.10008.5.1.4.1.1.1.1"
_FOR_PROCESSING: Final = "1.2.840.10008.5.1.4.1.1.1.1.1"
_UIDS: Final = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
_SUFFIX: Final = 12
_FILES: Final = ("seg", "sr", "overlay", "sc", "pr", "pdf")


@dataclass(frozen=True)
class Extras:
    """What the command writes beside SEG, SR and overlay."""

    capture: bool = False
    presentation_state: bool = False
    pdf: bool = False


NO_EXTRAS: Final = Extras()


@dataclass(frozen=True)
class _Analysed:
    """What the documents of a study need of one image: its picture is read from the overlay."""

    report: ReportImage
    overlay: Path


@dataclass(frozen=True)
class FileResult:
    """What is said of one file, without its pixels."""

    outcome: FileOutcome
    measurements: Measurements | None = None
    model: ModelIdentity | None = None
    seconds: float | None = None
    caveats: tuple[Caveat, ...] = ()
    files: dict[str, str | None] = field(default_factory=lambda: dict.fromkeys(_FILES))

    @property
    def is_analysed(self) -> bool:
        """Whether the file got a number."""
        return self.outcome.status == "analysed"

    def with_report(self, written: dict[str, str | None]) -> "FileResult":
        """Return the result with the study's SR and page named, when its figures are in them."""
        return replace(self, files=self.files | written) if self.is_analysed else self

    def as_row(self) -> dict[str, Any]:
        """Return the public JSON object of the file (DESIGN, public contract)."""
        outcome, model = self.outcome, self.model
        return {
            "sop_instance_uid": outcome.sop_instance_uid,
            "study_instance_uid": outcome.study_instance_uid,
            "path": str(outcome.path),
            "status": outcome.status,
            "reason": outcome.reason,
            "detail": outcome.detail,
            "opacity_percent": self._sides("percent", PERCENT_DIGITS),
            "lung_area_mm2": self._sides("lung_area_mm2", AREA_DIGITS),
            "opacity_area_mm2": self._sides("opacity_area_mm2", AREA_DIGITS),
            "lung_pixels": self._sides("lung_pixels"),
            "opacity_pixels": self._sides("opacity_pixels"),
            "severity": self.measurements.severity.value if self.measurements else None,
            "severity_by_side": self._sides("severity"),
            **self._zones(),
            "caveats": [caveat.value for caveat in self.caveats],
            "model": vars(model) if model else None,
            "seconds": None if self.seconds is None else round(self.seconds, 3),
            "files": self.files,
        }

    def _zones(self) -> dict[str, dict[str, float | None]]:
        """Return the zones as three flat objects; all None where they were not graded."""
        zones = self.measurements.zones if self.measurements else None
        if zones is None:
            nothing = dict.fromkeys(zone.value for zone in Zone)
            return {
                "zone_percent": nothing,
                "zone_grade": nothing,
                "zone_score": dict.fromkeys(SIDES),
            }
        return {
            "zone_percent": {
                zone.value: None if it.percent is None else round(it.percent, PERCENT_DIGITS)
                for zone, it in zones.zones.items()
            },
            "zone_grade": {zone.value: it.grade for zone, it in zones.zones.items()},
            "zone_score": {side: zones.score(side) for side in SIDES},
        }

    def _sides(self, name: str, digits: int | None = None) -> dict[Side, Severity | float | None]:
        if self.measurements is None:
            return dict.fromkeys(SIDES)
        values = {side: getattr(self.measurements.side(side), name) for side in SIDES}
        if digits is None:
            return values
        return {side: None if v is None else round(v, digits) for side, v in values.items()}


@dataclass(frozen=True)
class _Scanned:
    """One file of a study, before anything is decoded."""

    path: Path
    header: Dataset

    @property
    def sop_class(self) -> str:
        """SOP Class UID."""
        return get_text(self.header, "SOPClassUID")

    @property
    def study(self) -> tuple[str, str]:
        """Study and patient: two patients under one Study UID never share a report."""
        return get_text(self.header, "StudyInstanceUID"), get_text(self.header, "PatientID")


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return every regular file of the paths, folders taken recursively, each file once."""
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_file():
            found.setdefault(path.resolve(), path)
            continue
        for folder, _, names in os.walk(path):
            for name in sorted(names):
                file = Path(folder, name)
                if file.is_file():
                    found.setdefault(file.resolve(), file)
    return sorted(found.values())


class FileAnalysis:
    """One run of the file command. Names in the output folder are unique within it."""

    def __init__(
        self,
        sandbox: Sandbox,
        segmenter: Segments,
        settings: Settings,
        out: Path,
        classifier: Classifies | None = None,
        extras: Extras = NO_EXTRAS,
    ) -> None:
        self._sandbox = sandbox
        self._segmenter = segmenter
        self._classifier = classifier
        self._settings = settings
        self._out = out
        self._extras = extras
        self._names: dict[str, str] = {}

    def results(self, files: Sequence[Path]) -> Iterator[FileResult]:
        """Yield one result per file, study by study, each when its report is written."""
        studies: dict[tuple[str, str], list[_Scanned]] = {}
        for path in files:
            try:
                file = _Scanned(path, self._sandbox.header(path))
            except Exception as error:  # noqa: BLE001  the loop edge: every file gets a status
                yield _refused(path, error)
            else:
                studies.setdefault(file.study, []).append(file)
        for study in studies.values():
            yield from self._study(study)

    def _study(self, study: list[_Scanned]) -> list[FileResult]:
        """Analyse the files of one study and write its report."""
        presented = any(file.sop_class == _FOR_PRESENTATION for file in study)
        results: list[FileResult] = []
        images: list[_Analysed] = []
        for file in study:
            try:
                if presented and file.sop_class == _FOR_PROCESSING:
                    raise NotAnalysable(Reason.FOR_PROCESSING_SIBLING)  # noqa: TRY301  one edge
                result, image = self._file(file)
                images.append(image)
            except Exception as error:  # noqa: BLE001  the loop edge: every file gets a status
                result = _refused(file.path, error, file.header)
            results.append(result)
        try:
            written = self._write_documents(images, study, results) if images else {}
        except Exception as error:  # noqa: BLE001  the loop edge: every file gets a status
            return [
                _refused(file.path, error, file.header) if result.is_analysed else result
                for file, result in zip(study, results, strict=True)
            ]
        return [result.with_report(written) for result in results]

    def _file(self, file: _Scanned) -> tuple[FileResult, _Analysed]:
        analysed = analyse_image(
            file.path, self._sandbox, self._segmenter, self._settings, self._classifier
        )
        header = analysed.image.header
        self._replace_illegal_uids(header, analysed.data_set_sha256)
        seg = build_segmentation(analysed, self._context([header]))
        name = self._unique_name(
            get_text(header, "SOPInstanceUID"), analysed.data_set_sha256[:_SUFFIX]
        )
        picture = overlay(analysed)
        overlay_file = self._write(f"{name}.overlay.png", overlay_png(analysed, picture))
        written = dict.fromkeys(_FILES) | {
            "seg": self._write(f"{name}.seg.dcm", to_bytes(seg)),
            "overlay": overlay_file,
            **self._write_extras(name, analysed, picture),
        }
        del seg.PixelData  # the report needs its references only
        outcome = FileOutcome(
            path=file.path,
            status="analysed",
            sop_instance_uid=get_text(header, "SOPInstanceUID"),
            study_instance_uid=get_text(header, "StudyInstanceUID"),
        )
        result = FileResult(
            outcome,
            analysed.measurements,
            analysed.model,
            analysed.seconds,
            analysed.caveats,
            written,
        )
        return result, _Analysed(ReportImage.of(analysed, seg), Path(overlay_file))

    def _write_extras(
        self, name: str, analysed: AnalysedImage, picture: Image.Image
    ) -> dict[str, str | None]:
        """Write what else is wanted of one image."""
        context = self._context([analysed.image.header])
        written: dict[str, str | None] = {}
        if self._extras.capture:
            capture = partial(build_secondary_capture, analysed, context, picture)
            written["sc"] = self._write_extra(name, "sc", capture)
        if self._extras.presentation_state:
            state = partial(build_presentation_state, analysed, context)
            written["pr"] = self._write_extra(name, "pr", state)
        return written

    def _write_extra(self, name: str, kind: str, build: Callable[[], Dataset]) -> str | None:
        """Write one extra; None where it cannot be made: SEG and SR stand without it."""
        data = made_or_none(kind, lambda: to_bytes(build()))
        return None if data is None else self._write(f"{name}.{kind}.dcm", data)

    def _write_documents(
        self, images: list[_Analysed], study: list[_Scanned], results: list[FileResult]
    ) -> dict[str, str | None]:
        """Write the SR of a study, and its page where that is wanted."""
        # The same bytes given twice are one image of the study.
        distinct = list({image.report.key: image for image in images}.values())
        reports = [image.report for image in distinct]
        headers = [image.header for image in reports]
        rest = [
            self._unanalysed(file, Reason(result.outcome.reason or ""))
            for file, result in zip(study, results, strict=True)
            if not result.is_analysed
        ]
        context = self._context(headers)
        report = build_report(reports, context, revision=1, unanalysed=rest)
        patient = make_uid("", get_text(headers[0], "PatientID"))[-_SUFFIX:]
        name = self._unique_name(get_text(headers[0], "StudyInstanceUID"), patient)
        written: dict[str, str | None] = {"sr": self._write(f"{name}.sr.dcm", to_bytes(report))}
        if self._extras.pdf:
            page = partial(_page, distinct, context, rest)
            written["pdf"] = self._write_extra(name, "pdf", page)
        return written

    def _unanalysed(self, file: _Scanned, reason: Reason) -> UnanalysedImage:
        uid = get_text(file.header, "SOPInstanceUID")
        if not is_uid(uid):
            uid = self._replacement("SOPInstanceUID", uid, data_set_sha256(file.path))
        return UnanalysedImage(uid, file.sop_class, reason)

    def _context(self, headers: list[Dataset]) -> ObjectContext:
        return ObjectContext(date_of_source(headers), self._settings.objects)

    def _replace_illegal_uids(self, header: Dataset, data_set_hash: str) -> None:
        """Replace UIDs that are none, such as an absent one, by one made from what stands there."""
        for keyword in _UIDS:
            text = get_text(header, keyword)
            if not is_uid(text):
                # A study must stay one study; an instance is told from others by its bytes.
                told_by = data_set_hash if keyword == "SOPInstanceUID" else ""
                setattr(header, keyword, self._replacement(keyword, text, told_by))

    def _replacement(self, keyword: str, text: str, told_by: str) -> str:
        return make_uid(self._settings.objects.uid_root, "replaced", keyword, text, told_by)

    def _unique_name(self, name: str, suffix: str) -> str:
        """Return `name`, with the suffix when another object of this run already has it."""
        return name if self._names.setdefault(name, suffix) == suffix else f"{name}.{suffix}"

    def _write(self, name: str, data: bytes) -> str:
        path = self._out / name
        atomic_write(path, data)
        return str(path)


def _page(
    images: Iterable[_Analysed], context: ObjectContext, rest: Iterable[UnanalysedImage]
) -> Dataset:
    from worker.document import build_document  # noqa: PLC0415  matplotlib, only where wanted
    from worker.page import PageImage  # noqa: PLC0415  the same

    pages = [PageImage(each.report, partial(_picture, each.overlay)) for each in images]
    return build_document(pages, context, revision=1, unanalysed=rest)


def _picture(overlay_file: Path) -> Image.Image:
    return without_caption(overlay_file.read_bytes())


def _refused(path: Path, error: Exception, header: Dataset | None = None) -> FileResult:
    """Return the status of a file that got no number; our own faults go to the log."""
    if not isinstance(error, NotAnalysable | AnalysisFailed):
        _log.error("internal error on one file", exc_info=error)
        error = AnalysisFailed(Reason.INTERNAL_ERROR)
    outcome = FileOutcome(
        path=path,
        status="not_analysed" if isinstance(error, NotAnalysable) else "failed",
        reason=error.reason.value,
        detail=error.detail,
        sop_instance_uid=_uid(header, "SOPInstanceUID"),
        study_instance_uid=_uid(header, "StudyInstanceUID"),
    )
    return FileResult(outcome)


def _uid(header: Dataset | None, keyword: str) -> str | None:
    return (get_text(header, keyword) or None) if header is not None else None
