"""The style rules that no linter knows."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_FOLDERS = ("dicom_node", "worker", "models", "migrations", "tests", "benchmarks", "deploy")
_MAX_FILE_LINES = 400
_MAX_FUNCTION_LINES = 60
_VAGUE_NAMES = {"util", "utils", "helper", "helpers", "common", "manager", "misc"}
_MACHINE_PATH = re.compile(r"""["'\s(=](/(?:home|root|work|Users)/)""")
_SUPPRESSION = re.compile(r"#\s*(?:noqa|type:\s*ignore)\b(.*)")
_WITH_CODE_AND_REASON = re.compile(
    r"^(?::\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*|\[[a-z-]+(?:,\s*[a-z-]+)*\])\s+\S"
)
_DOUBLES = ("unittest.mock", "MagicMock", "mocker.patch")


def _sources() -> list[Path]:
    return sorted(
        path
        for folder in _FOLDERS
        for path in (_ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def _texts() -> list[Path]:
    """Every text file that a person wrote and that is shipped."""
    wanted = {".py", ".md", ".toml", ".yaml", ".yml", ".ini", ".json"}
    found = [path for path in _ROOT.glob("*") if path.suffix in wanted or path.name == "Makefile"]
    for folder in (*_FOLDERS, "docs", ".ci"):
        found += [path for path in (_ROOT / folder).rglob("*") if path.suffix in wanted]
    return sorted([*found, _ROOT / ".ci" / "run"])


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _name(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def test_there_are_sources_to_check() -> None:
    names = {_name(path) for path in _sources()}
    assert {"models/settings.py", "tests/unit/test_house_rules.py"} <= names


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_file_is_at_most_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= _MAX_FILE_LINES


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_functions_are_short(path: Path) -> None:
    if path.is_relative_to(_ROOT / "migrations" / "versions"):
        return  # generated
    long = {
        each.name: length
        for each in _functions(path)
        if (length := (each.end_lineno or 0) - each.lineno + 1) > _MAX_FUNCTION_LINES
    }
    assert long == {}


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_file_has_a_name_that_says_something(path: Path) -> None:
    assert not _VAGUE_NAMES & set(path.stem.split("_"))


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_every_suppression_has_a_code_and_a_reason(path: Path) -> None:
    if path == Path(__file__).resolve() or path.is_relative_to(_ROOT / "migrations" / "versions"):
        return
    bare = [
        line.strip()
        for line in path.read_text().splitlines()
        if (found := _SUPPRESSION.search(line)) and not _WITH_CODE_AND_REASON.match(found[1])
    ]
    assert bare == []


@pytest.mark.parametrize("path", _texts(), ids=_name)
def test_no_path_of_somebody_s_machine(path: Path) -> None:
    if path == Path(__file__).resolve():
        return
    assert _MACHINE_PATH.findall(path.read_text()) == []


@pytest.mark.parametrize("path", _sources(), ids=_name)
def test_no_mocks(path: Path) -> None:
    if path == Path(__file__).resolve():
        return
    text = path.read_text()
    assert [word for word in _DOUBLES if word in text] == []


def test_test_files_have_names_of_their_own() -> None:
    """Without packages, pytest imports test files by base name: two alike shadow each other."""
    names = [path.name for path in (_ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
