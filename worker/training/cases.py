"""The radiographs that a model learns from, is measured on, or only looks at: one row each.

A data set is a CSV, the manifest (docs/training-data.md), or a folder `cxr` with the tables of the
public collections. Importing this module is cheap: no deep learning, no image codecs.
"""

import csv
import hashlib
import io
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from worker.errors import ManifestError
from worker.training.formats import LabelFormat, read_labels
from worker.training.pictures import is_dicom, is_picture, read_grid, read_pixels
from worker.types import Mask

MANIFEST: Final = "manifest.csv"
NO_LICENCE: Final = "none stated"
SPLITS: Final = ("train", "test", "unlabelled")
COLUMNS: Final = (
    *("case", "image", "labels", "format", "split", "source", "patient", "sex", "age", "view"),
    *("finding", "survival", "went_icu", "has_lung", "has_opacity", "normal", "licence"),
)
_HELD_OUT_OF: Final = 5
_FLAGS: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_FORMAT_OF: Final = {".png": LabelFormat.BITMASK, ".dcm": LabelFormat.DICOM_SEG}
_NO_DERIVATIVES: Final = re.compile(r"\bND\b|no.?deriv", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """One radiograph: where its picture and labels are and what is known of it.

    `has_lung` and `has_opacity` say what the labels hold; an opacity that was read may be empty.
    `normal` says that there is no opacity, with or without labels. Text is empty when unknown.
    """

    name: str
    image: Path
    labels: Path | None = None
    format: LabelFormat = LabelFormat.NONE
    split: str = "unlabelled"
    source: str = ""
    patient: str = ""
    sex: str = ""
    age: float | None = None
    view: str = ""
    finding: str = ""
    survival: str = ""
    went_icu: str = ""
    has_lung: bool = False
    has_opacity: bool = False
    normal: bool = False
    licence: str = NO_LICENCE

    @property
    def may_train(self) -> bool:
        """Whether the licence allows derivatives: weights are taken for one."""
        return _NO_DERIVATIVES.search(self.licence) is None

    @property
    def person(self) -> str:
        """What keeps pictures of one patient together; an unknown patient is one of his own."""
        return f"patient {self.patient}" if self.patient else f"case {self.name}"

    def pixels(self) -> NDArray[np.uint16]:
        """Decode to upright uint16 (rows, columns) on 0..65535, bright = dense.

        Raises ValueError naming case and file when the picture is unreadable.
        """
        try:
            return read_pixels(self.image)
        except ValueError as error:
            raise self._mistake(self.image, error) from error

    def masks(self) -> tuple[Mask, Mask, Mask]:
        """Return (left, right, opacity) on the grid of `pixels()`, as the reader drew them.

        Raises ValueError naming case and file when labels are missing, unreadable, of another
        size, or not what the manifest says of them.
        """
        if self.labels is None:
            msg = f"case {self.name} has no labels"
            raise ValueError(msg)
        if not self.labels.is_file():
            raise self._mistake(self.labels, "there is no such file")
        try:
            grid = read_grid(self.image)
        except ValueError as error:
            raise self._mistake(self.image, error) from error
        try:
            stored = read_labels(self.format, self.labels, grid.shape, self.image)
            self._check(*stored)
        except ValueError as error:
            raise self._mistake(self.labels, error) from error
        left, right, opacity = (
            np.ascontiguousarray(grid.orientation.to_upright(mask), dtype=np.bool_)
            for mask in stored
        )
        return left, right, opacity

    def _check(self, left: Mask, right: Mask, opacity: Mask) -> None:
        """Refuse labels that contradict the manifest: one of the two is wrong."""
        if self.has_lung and not (left.any() or right.any()):
            msg = "has_lung is yes, but no lung is drawn"
        elif self.normal and opacity.any():
            msg = "normal is yes, but opacity is drawn"
        elif not self.has_opacity and opacity.any():
            msg = "has_opacity is no, but opacity is drawn"
        else:
            return
        raise ValueError(msg)

    def _mistake(self, path: Path, problem: object) -> ValueError:
        return ValueError(f"case {self.name}: {path}: {problem}")


def load_manifest(folder: Path) -> list[Case]:
    """Return the cases of `manifest.csv` in a folder, else of the tables in its folder `cxr`.

    Raises ManifestError when there is neither.
    """
    if (folder / MANIFEST).is_file():
        return read_manifest(folder / MANIFEST)
    if not (folder / "cxr" / "cases.csv").is_file():
        msg = f"{folder} has neither {MANIFEST} nor cxr/cases.csv"
        raise ManifestError(msg)
    from worker.training.tables import read_tables  # noqa: PLC0415  it is made of this module

    return read_tables(folder / "cxr")


def read_manifest(path: Path) -> list[Case]:
    """Read a manifest; paths in it are relative to its folder. Pictures are not opened.

    Raises ManifestError with one sentence and the line number.
    """
    cases: list[Case] = []
    lines: dict[str, int] = {}
    for line, row in _rows(path):
        try:
            case = _case_of(row, path.parent)
        except ValueError as error:
            raise _at(path, line, str(error)) from error
        if case.name in lines:
            raise _at(path, line, f"case {case.name} stands in line {lines[case.name]} already")
        lines[case.name] = line
        cases.append(case)
    _check_patients(cases, path, lines)
    if not cases:
        raise _at(path, 1, "there is no case below the header")
    return cases


def write_manifest(cases: Iterable[Case], path: Path) -> None:
    """Write the cases in their order, every column, paths relative to the manifest's folder."""
    path.write_text(_text(cases, path.parent), encoding="utf-8", newline="")


def cases_sha256(cases: Iterable[Case], folder: Path, *, contents: bool = False) -> str:
    """SHA-256 of the manifest of these cases, whatever their order, as written into `folder`.

    With `contents` the bytes of every picture and every file of labels count as well.
    """
    ordered = sorted(cases, key=lambda case: case.name)
    digest = hashlib.sha256(_text(ordered, folder).encode())
    if contents:
        for path in sorted({p for case in ordered for p in (case.image, case.labels) if p}):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def held_out(case: Case) -> bool:
    """Say whether a normal is kept from training, to count false alarms on.

    That is a fifth of the patients, by hash, and every normal of the test split. Cases that are
    not normal are never held out; their split says what they are for.
    """
    if not case.normal:
        return False
    key = f"{case.source}:{case.patient or case.name}"
    number = int(hashlib.sha256(key.encode()).hexdigest()[:8], 16)
    return case.split == "test" or number % _HELD_OUT_OF == 0


def apart_from(cases: Iterable[Case], others: Iterable[Case]) -> list[Case]:
    """Return the cases of patients of whom no picture is among the others."""
    known = {case.person for case in others}
    return [case for case in cases if case.person not in known]


def patient_folds(cases: Sequence[Case], folds: int, seed: int) -> list[list[Case]]:
    """Divide cases into folds of about equal size, all pictures of a patient in one fold.

    The same cases, in whatever order, folds and seed give the same division. Raises ValueError
    when there are fewer patients than folds.
    """
    groups: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        groups.setdefault(case.person, []).append(case)
    if not 1 <= folds <= len(groups):
        msg = f"{len(groups)} patients cannot be divided into {folds} folds"
        raise ValueError(msg)

    def place(person: str) -> tuple[int, str]:
        return -len(groups[person]), hashlib.sha256(f"{seed}:{person}".encode()).hexdigest()

    divided: list[list[Case]] = [[] for _ in range(folds)]
    for person in sorted(groups, key=place):
        min(divided, key=len).extend(groups[person])
    return divided


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number, stripped cells by column) of each record."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _at(path, 1, "the file is not in UTF-8") from error
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise ManifestError(msg) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        _check_header(header, path)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(header):
                problem = f"{len(cells)} cells where the header has {len(header)}"
                raise _at(path, reader.line_num, problem)
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            yield reader.line_num, row
    except csv.Error as error:
        raise _at(path, reader.line_num, f"this is no CSV: {error}") from error


def _check_header(header: list[str], path: Path) -> None:
    if len(header) == 1 and ";" in header[0]:
        raise _at(path, 1, "columns are separated by commas, not by semicolons")
    for name in ("case", "image"):
        if name not in header:
            raise _at(path, 1, f"the column {name} is missing")
    for name in header:
        if name not in COLUMNS:
            raise _at(path, 1, f"unknown column {name!r}; known are {', '.join(COLUMNS)}")
        if header.count(name) > 1:
            raise _at(path, 1, f"the column {name} stands there twice")


def _case_of(row: dict[str, str], folder: Path) -> Case:
    """Make a case of one record; raises ValueError with one sentence."""
    if not row["case"]:
        msg = "the case has no name"
        raise ValueError(msg)
    image = _file(row, "image", folder)
    if image is None or not (is_picture(image) or is_dicom(image)):
        msg = f"the image {row['image']!r} is neither JPEG, PNG nor DICOM"
        raise ValueError(msg)
    labels = _file(row, "labels", folder)
    case = Case(
        name=row["case"],
        image=image,
        labels=labels,
        format=_format(row.get("format", ""), labels),
        source=row.get("source", ""),
        patient=row.get("patient", ""),
        sex=row.get("sex", ""),
        age=_age(row.get("age", "")),
        view=row.get("view", ""),
        finding=row.get("finding", ""),
        survival=row.get("survival", ""),
        went_icu=row.get("went_icu", ""),
        has_lung=_flag(row, "has_lung", default=labels is not None),
        has_opacity=_flag(row, "has_opacity", default=False),
        normal=_flag(row, "normal", default=False),
        licence=row.get("licence", "") or NO_LICENCE,
    )
    return _with_split(case, row.get("split", ""))


def _with_split(case: Case, split: str) -> Case:
    """Set the split that is stated, else the usual one of what is known of the case."""
    if split and split not in SPLITS:
        msg = f"unknown split {split!r}; known are {', '.join(SPLITS)}"
        raise ValueError(msg)
    usual = "unlabelled"
    if case.labels is not None or case.normal:
        usual = "test" if case.labels is None and held_out(case) else "train"
    case = replace(case, split=split or usual)
    if case.labels is None and (case.has_lung or case.has_opacity):
        msg = "has_lung or has_opacity is yes, but there are no labels"
        raise ValueError(msg)
    if case.labels is None and not case.normal and case.split != "unlabelled":
        msg = f"the split is {case.split}, but the case has no labels and is not normal"
        raise ValueError(msg)
    return case


def _file(row: dict[str, str], column: str, folder: Path) -> Path | None:
    name = row.get(column, "")
    if not name:
        return None
    if Path(name).is_absolute():
        msg = f"the {column} {name!r} is no path relative to the manifest"
        raise ValueError(msg)
    if not (folder / name).is_file():
        msg = f"the {column} {name!r} is not there"
        raise ValueError(msg)
    return folder / name


def _format(name: str, labels: Path | None) -> LabelFormat:
    if name and name not in set(LabelFormat):
        msg = f"unknown format {name!r}; known are {', '.join(LabelFormat)}"
        raise ValueError(msg)
    stated = LabelFormat(name) if name else None
    if labels is None:
        if stated in {None, LabelFormat.NONE}:
            return LabelFormat.NONE
        msg = f"the format is {name}, but there are no labels"
        raise ValueError(msg)
    stated = stated or _FORMAT_OF.get(labels.suffix.lower(), LabelFormat.NONE)
    if stated is LabelFormat.NONE:
        msg = f"the format of the labels {labels.name!r} is not stated"
        raise ValueError(msg)
    return stated


def _age(text: str) -> float | None:
    try:
        age = float(text) if text else None
    except ValueError:
        age = -1.0
    if age is not None and not (math.isfinite(age) and age >= 0):
        msg = f"the age {text!r} is no number of years"
        raise ValueError(msg)
    return age


def _flag(row: dict[str, str], column: str, *, default: bool) -> bool:
    text = row.get(column, "").lower()
    if text and text not in _FLAGS:
        msg = f"{column} is {text!r}, neither yes nor no"
        raise ValueError(msg)
    return _FLAGS.get(text, default)


def _check_patients(cases: list[Case], path: Path, lines: dict[str, int]) -> None:
    """Refuse a patient who is trained on and measured on."""
    trained = {case.person: case for case in cases if case.split == "train"}
    for case in cases:
        other = trained.get(case.person)
        if case.split == "test" and other is not None:
            problem = f"patient {case.patient} is in test, and in train in line {lines[other.name]}"
            raise _at(path, lines[case.name], problem)


def _text(cases: Iterable[Case], folder: Path) -> str:
    """Canonical CSV: every column, paths relative to the folder, yes and no, whole ages bare."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for case in cases:
        values = (getattr(case, "name" if column == "case" else column) for column in COLUMNS)
        writer.writerow(_cell(value, folder) for value in values)
    return out.getvalue()


def _cell(value: object, folder: Path) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return repr(value).removesuffix(".0")
        case Path():
            return Path(os.path.relpath(value, folder)).as_posix()
        case _:
            return str(value)


def _at(path: Path, line: int, problem: str) -> ManifestError:
    return ManifestError(f"{path}, line {line}: {problem}")
