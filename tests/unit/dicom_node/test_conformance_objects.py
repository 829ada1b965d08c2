"""The annex of the statement against real SEG, SR and SC objects, both ways.

A failure names what the object has and the annex lacks, or the other way round: correct
dicom_node/conformance/objects.toml or codes.toml, then write docs/conformance.md anew.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from objects import captures, documents, notes, presentations, reports, segmentations
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items
from pydicom.sr.coding import Code

from dicom_node.conformance.objects import (
    Attribute,
    ContentItem,
    codes,
    objects,
    reason_codes,
)
from dicom_node.conformance.tables import MADE_SYNTAX
from models.analysis_sections import ObjectSettings
from models.identity import MADE_CLASSES
from models.reasons import Reason
from worker import codes as worker_codes
from worker.segmentation import SEGMENTS
from worker.types import Caveat

_ROOT = Path(__file__).resolve().parents[3]
_CODE = {"CodeValue", "LongCodeValue", "CodingSchemeDesignator", "CodeMeaning"}
_NUMBER_OF = {
    "`objects.seg_series_number`": ObjectSettings().seg_series_number,
    "`objects.sr_series_number`": ObjectSettings().sr_series_number,
    "`objects.sc_series_number`": ObjectSettings().sc_series_number,
    "`objects.pr_series_number`": ObjectSettings().pr_series_number,
    "`objects.pdf_series_number`": ObjectSettings().pdf_series_number,
    "`objects.ko_series_number`": ObjectSettings().ko_series_number,
}
_READERS = {
    "identity, when it is received": ["dicom_node/header.py"],
    "whether it may be analysed": ["worker/gate.py", "worker/age.py"],
    "pixels, orientation and spacing": ["worker/pixels.py"],
}

Keywords = tuple[str, ...]
Item = tuple[int, str, str, tuple[str, str]]


def _data_sets(ds: Dataset, *parents: str) -> Iterator[tuple[Keywords, Dataset]]:
    """Yield every data set of an object by the keywords above it, the content tree left out."""
    yield parents, ds
    for element in ds:
        if isinstance(element.value, Items) and element.keyword != "ContentSequence":
            for item in element.value:
                yield from _data_sets(item, *parents, element.keyword)


def _paths(rows: Sequence[Attribute]) -> dict[Keywords, Attribute]:
    found: dict[Keywords, Attribute] = {}
    parents: list[str] = []
    for row in rows:
        parents = [*parents[: row.level], row.keyword]
        assert tuple(parents) not in found
        found[tuple(parents)] = row
    return found


def _presence(values: list[object], parents: int) -> str:
    if len(values) < parents:
        return "ANAP"
    empty = [
        not value if isinstance(value, Items) else value is None or not str(value)
        for value in values
    ]
    return "EMPTY" if all(empty) else "VNAP" if any(empty) else "ALWAYS"


def _text(value: object) -> str:
    return "\\".join(value) if isinstance(value, MultiValue) else str(value)


def _values(made: Sequence[Dataset]) -> tuple[dict[Keywords, list[object]], dict[Keywords, int]]:
    values: dict[Keywords, list[object]] = {}
    parents: dict[Keywords, int] = {}
    for ds in made:
        for path, each in _data_sets(ds):
            parents[path] = parents.get(path, 0) + 1
            ignored = _CODE if "CodeMeaning" in each else set()
            for element in each:
                if element.keyword not in ignored:
                    values.setdefault((*path, element.keyword), []).append(element.value)
    return values, parents


@pytest.mark.parametrize(
    "kind", ["segmentation", "report", "capture", "presentation", "document", "note"]
)
def test_attributes_are_those_of_the_objects(kind: str) -> None:
    common = () if kind == "note" else objects().common
    rows = (*common, *getattr(objects(), kind))
    listed = _paths(rows)
    listed.pop(("PixelData",), None)  # the objects under test come without
    made = {
        "segmentation": segmentations,
        "report": reports,
        "capture": captures,
        "presentation": presentations,
        "document": documents,
        "note": notes,
    }[kind]
    values, parents = _values(made())
    assert listed.keys() == values.keys()
    for path, row in listed.items():
        assert (path, row.presence) == (path, _presence(values[path], parents[path[:-1]]))
        if row.value in _NUMBER_OF:
            assert {int(str(value)) for value in values[path]} == {_NUMBER_OF[row.value]}
        elif literal := re.findall(r"`([^`]+)`", row.value):
            assert (path, {_text(value) for value in values[path]}) == (path, set(literal))


def _code(item: Dataset) -> tuple[str, str]:
    value = item.get("CodeValue") or item.get("LongCodeValue")
    return str(value), str(item.CodingSchemeDesignator)


def _group_name(item: Dataset) -> str | None:
    names = [
        str(each.TextValue)
        for each in item.get("ContentSequence", [])
        if _code(each.ConceptNameCodeSequence[0]) == ("112039", "DCM")
    ]
    return names[0] if names else None


def _children(item: Dataset) -> Iterator[tuple[Item, Dataset]]:
    """Yield the items below one, measurement groups without what is in them."""
    stack = [(0, each) for each in reversed(item.get("ContentSequence", []))]
    while stack:
        level, each = stack.pop()
        concept = _code(each.ConceptNameCodeSequence[0])
        yield (level, str(each.RelationshipType), str(each.ValueType), concept), each
        if _group_name(each) is None:
            below = each.get("ContentSequence", [])
            stack += [(level + 1, it) for it in reversed(below)]


def _listed(rows: Sequence[ContentItem]) -> dict[Item, ContentItem]:
    return {(row.level, row.relationship, row.value_type, row.concept): row for row in rows}


def _check(rows: Sequence[ContentItem], trees: list[set[Item]]) -> None:
    listed = _listed(rows)
    assert listed.keys() == set().union(*trees)
    for item, row in listed.items():
        everywhere = all(item in tree for tree in trees)
        if item[0] == 0:
            assert (item, everywhere) == (item, row.presence == "ALWAYS")


def test_the_content_tree_is_that_of_the_reports() -> None:
    _check(objects().tree, [{item for item, _ in _children(report)} for report in reports()])


def test_the_content_tree_of_notes_is_listed() -> None:
    _check(objects().note_tree, [{item for item, _ in _children(note)} for note in notes()])


def _groups(name: str) -> list[Dataset]:
    return [
        each for report in reports() for _, each in _children(report) if _group_name(each) == name
    ]


@pytest.mark.parametrize(
    "name", [name for group in objects().groups for name in group.names], ids=str
)
def test_measurement_groups_have_the_items_listed(name: str) -> None:
    group = next(each for each in objects().groups if name in each.names)
    found = _groups(name)
    templates = {str(it.ContentTemplateSequence[0].TemplateIdentifier) for it in found}
    assert templates == {group.template}
    trees = [{item for item, _ in _children(each)} for each in found]
    _check((*objects().group, *group.items), trees)


def test_every_group_of_the_reports_is_listed() -> None:
    named = {_group_name(each) for report in reports() for _, each in _children(report)} - {None}
    assert named == {name for group in objects().groups for name in group.names}


def test_literal_texts_of_the_content_tree_are_those_written() -> None:
    rows = _listed((*objects().tree, *objects().group))
    checked = 0
    for report in reports():
        for item, each in _children(report):
            literal = re.fullmatch(r"`(.+)`", rows[item].value) if item in rows else None
            if literal:
                assert each.TextValue == literal[1]
                checked += 1
    assert checked


def _all_codes(ds: Dataset) -> Iterator[tuple[tuple[str, str], str]]:
    for element in ds:
        if isinstance(element.value, Items):
            for item in element.value:
                if "CodeMeaning" in item:
                    yield _code(item), str(item.CodeMeaning)
                yield from _all_codes(item)


def _worker_codes() -> set[tuple[tuple[str, str], str]]:
    """Codes that the worker names, whether or not one of the objects under test has them."""
    named: list[object] = []
    for value in vars(worker_codes).values():
        named += value.values() if isinstance(value, dict) else [value]
    named += map(worker_codes.caveat, Caveat)
    return {
        ((code.value, code.scheme_designator), code.meaning)
        for code in named
        if isinstance(code, Code | worker_codes.CodedConcept)
    }


def _made() -> tuple[Dataset, ...]:
    results = (*segmentations(), *reports(), *captures())
    return (*results, *presentations(), *documents())


def test_codes_are_those_of_the_objects_and_of_the_worker() -> None:
    written = {code for made in (*_made(), *notes()) for code in _all_codes(made)}
    listed = set(codes().items())
    reasons = set(reason_codes().items())
    assert listed - written - _worker_codes() == set()
    assert (written | _worker_codes()) - listed - reasons == set()
    assert len(dict(listed | reasons)) == len(listed | reasons)  # no code has two meanings


@pytest.mark.parametrize("reason", Reason)
def test_reasons_have_the_codes_of_the_worker(reason: Reason) -> None:
    code = worker_codes.reason(reason)
    assert reason_codes()[code.value, code.scheme_designator] == code.meaning


def test_made_objects_have_the_listed_classes_and_syntax() -> None:
    made = (*_made(), *notes())
    assert {str(ds.SOPClassUID) for ds in made} == MADE_CLASSES
    assert {ds.file_meta.TransferSyntaxUID for ds in made} == {MADE_SYNTAX}


def test_the_segments_are_those_of_the_table() -> None:
    text = (_ROOT / "dicom_node/conformance/annexes.md").read_text(encoding="utf-8")
    for item in segmentations()[0].SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        category = item.SegmentedPropertyCategoryCodeSequence[0]
        modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        cells = [str(item.SegmentNumber), item.SegmentLabel]
        cells += [
            f"({', '.join((*_code(code), str(code.CodeMeaning)))})"
            for code in (category, kind, *modifiers)
        ]
        row = " | ".join([*cells, *([] if modifiers else ["none"])])
        assert f"| {row} |" in text
        assert item.SegmentLabel in SEGMENTS


@pytest.mark.parametrize("step", [step for step, _ in objects().used])
def test_attributes_that_are_looked_at_are_listed(step: str) -> None:
    listed = dict(objects().used)[step]
    read = {
        node.value
        for name in _READERS[step]
        for node in ast.walk(ast.parse((_ROOT / name).read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value
    }
    named = {keyword for keyword in read if tag_for_keyword(keyword) is not None}
    assert set(listed) == named - _CODE
    assert len(listed) == len(set(listed))
