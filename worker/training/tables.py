"""The tables of the public collections, as cases: cases, unlabelled, normals, nih.

Pictures lie in `images`, `unlabelled`, `normals` and `nih` beside the tables, bit masks in `masks`.
Only `cases.csv` must be there. The normals have no labels and are divided by `held_out`.
"""

import csv
from dataclasses import replace
from pathlib import Path
from typing import Final

from worker.training.cases import NO_LICENCE, Case, held_out
from worker.training.formats import LabelFormat

_NO_FINDING: Final = "no finding"
_NIH_LICENCE: Final = "NIH: free use with attribution"


def read_tables(root: Path) -> list[Case]:
    """Return every case of the tables in a folder, table by table, in their order."""
    return [
        *(_labelled(row, root) for row in _table(root / "cases.csv")),
        *(_unlabelled(row, root) for row in _table(root / "unlabelled.csv")),
        *(_other(row, root, "normals") for row in _table(root / "normals.csv")),
        *(_other(row, root, "nih") for row in _table(root / "nih.csv")),
    ]


def _table(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as table:
        return list(csv.DictReader(table))


def _labelled(row: dict[str, str], root: Path) -> Case:
    return replace(
        _known(row),
        image=root / "images" / f"{row['case']}.jpg",
        labels=root / "masks" / f"{row['case']}.png",
        format=LabelFormat.BITMASK,
        source=row["lung_source"] or "gb",
        has_lung=row["has_lung"] == "1",
        has_opacity=row["has_opacity"] == "1",
    )


def _unlabelled(row: dict[str, str], root: Path) -> Case:
    return replace(_known(row), image=root / "unlabelled" / f"{row['case']}.jpg")


def _other(row: dict[str, str], root: Path, source: str) -> Case:
    """Make a case of a collection without labels: normal, or only to look at."""
    case = replace(_known(row), image=root / source / f"{row['case']}.jpg", source=source)
    if source == "nih":
        case = replace(case, licence=_NIH_LICENCE)
    if not case.normal:
        return case
    return replace(case, split="test" if held_out(case) else "train")


def _known(row: dict[str, str]) -> Case:
    """Read the columns of all tables. A finding may be wrong: drawn opacity outweighs it."""
    drawn = "1" in {row.get("gg"), row.get("cons")}
    return Case(
        name=row["case"],
        image=Path(),
        split=row.get("split") or "unlabelled",
        source=row.get("source") or "",
        patient=row.get("patientid") or "",
        sex=row.get("sex") or "",
        age=float(row["age"]) if row.get("age") else None,
        view=row.get("view") or "",
        finding=row["finding"],
        survival=row.get("survival") or "",
        went_icu=row.get("went_icu") or "",
        normal=row["finding"].strip().lower() == _NO_FINDING and not drawn,
        licence=(row.get("license") or row.get("licence") or "").strip() or NO_LICENCE,
    )
