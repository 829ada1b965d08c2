"""Cutting a version: what is prepared for the releaser, and the notes of a release."""

from datetime import date
from pathlib import Path

import pytest
from release.changelog import notes_of, prepare
from release.errors import ReleaseError

_DAY = date(2026, 12, 1)
_CHANGES = """# Changelog

## Unreleased

### Added

- Something new.

## 0.1.0 (2026-10-01)

- The beginning.
"""


def _tree(folder: Path, changes: str = _CHANGES, version: str = "0.1.0") -> Path:
    (folder / "CHANGELOG.md").write_text(changes)
    (folder / "pyproject.toml").write_text(
        f'[project]\nname = "x"\nversion = "{version}"\n\n[tool.other]\nversion = "9"\n'
    )
    return folder


def test_the_unreleased_changes_become_those_of_the_version(tmp_path: Path) -> None:
    tree = _tree(tmp_path)
    assert [path.name for path in prepare(tree, "0.2.0", _DAY)] == [
        "pyproject.toml",
        "CHANGELOG.md",
    ]
    assert 'version = "0.2.0"' in (tree / "pyproject.toml").read_text()
    assert 'version = "9"' in (tree / "pyproject.toml").read_text()
    changes = (tree / "CHANGELOG.md").read_text()
    assert changes == _CHANGES.replace(
        "## Unreleased\n", "## Unreleased\n\n## 0.2.0 (2026-12-01)\n"
    )
    assert notes_of(tree, "0.2.0") == "### Added\n\n- Something new.\n"


def test_the_last_section_ends_with_the_file(tmp_path: Path) -> None:
    assert notes_of(_tree(tmp_path), "0.1.0") == "- The beginning.\n"


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("0.1.0", "0.1.0 does not follow 0.1.0"),
        ("0.0.9", "0.0.9 does not follow 0.1.0"),
        ("next", "next is no version: write three numbers"),
        ("v0.2.0", "Write the version as 0.2.0"),
        ("0.2.0+site", "Write the version as 0.2.0"),
    ],
)
def test_a_version_that_cannot_be_is_refused(tmp_path: Path, version: str, message: str) -> None:
    tree = _tree(tmp_path)
    with pytest.raises(ReleaseError, match=message.replace(".", r"\.")):
        prepare(tree, version, _DAY)
    assert (tree / "CHANGELOG.md").read_text() == _CHANGES


def test_without_changes_there_is_nothing_to_release(tmp_path: Path) -> None:
    bare = _CHANGES.replace("### Added\n\n- Something new.\n\n", "")
    with pytest.raises(ReleaseError, match="nothing to release"):
        prepare(_tree(tmp_path, bare), "0.2.0", _DAY)


def test_notes_are_of_the_version_that_is_built(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"pyproject\.toml says 0\.1\.0, not 0\.2\.0"):
        notes_of(_tree(tmp_path), "0.2.0")
    with pytest.raises(ReleaseError, match="no changes under"):
        notes_of(_tree(tmp_path, version="0.2.0"), "0.2.0")


def test_the_changelog_of_this_project_can_be_cut(repository: Path, tmp_path: Path) -> None:
    for name in ("CHANGELOG.md", "pyproject.toml"):
        (tmp_path / name).write_text((repository / name).read_text())
    prepare(tmp_path, "99.0.0", _DAY)
    assert notes_of(tmp_path, "99.0.0").startswith("### ")
