"""CHANGELOG.md and the version: cutting a release, and reading its notes."""

import re
from datetime import date
from pathlib import Path
from typing import Final

from packaging.version import InvalidVersion, Version

from release.errors import ReleaseError

_UNRELEASED: Final = "## Unreleased"
_VERSION_LINE: Final = re.compile(r'^version = "([^"]+)"$', re.MULTILINE)


def prepare(root: Path, version: str, day: date) -> list[Path]:
    """Write the version into pyproject.toml and make the unreleased changes those of `version`.

    Returns the changed files, which the releaser reads, commits and tags. Raises ReleaseError where
    there is nothing to release or the version does not follow the present one.
    """
    pyproject, changelog = root / "pyproject.toml", root / "CHANGELOG.md"
    settings, changes = pyproject.read_text(), changelog.read_text()
    _check_follows(version, _present(settings))
    if not _section(changes, _UNRELEASED).strip():
        msg = 'CHANGELOG.md has nothing under "Unreleased": there is nothing to release.'
        raise ReleaseError(msg)
    heading = f"{_UNRELEASED}\n\n## {version} ({day.isoformat()})"
    pyproject.write_text(_VERSION_LINE.sub(f'version = "{version}"', settings, count=1))
    changelog.write_text(changes.replace(_UNRELEASED, heading, 1))
    return [pyproject, changelog]


def notes_of(root: Path, version: str) -> str:
    """Return what CHANGELOG.md says under a version, without its heading.

    Raises ReleaseError where pyproject.toml has another version, or the section is missing or bare.
    """
    present = _present((root / "pyproject.toml").read_text())
    if present != version:
        msg = (
            f"pyproject.toml says {present}, not {version}: run"
            f" make release-prepare VERSION={version} and commit what it changed."
        )
        raise ReleaseError(msg)
    text = _section((root / "CHANGELOG.md").read_text(), f"## {version} (")
    notes = text.partition("\n")[2].strip() if text else ""
    if not notes:
        msg = (
            f'CHANGELOG.md has no changes under "## {version} (date)": run'
            f" make release-prepare VERSION={version} and commit what it changed."
        )
        raise ReleaseError(msg)
    return notes + "\n"


def _section(changes: str, heading: str) -> str:
    """Return what stands between a heading (what it begins with) and the next of its level."""
    found = re.search(
        rf"^{re.escape(heading)}(.*?)(?=^## |\Z)", changes, flags=re.MULTILINE | re.DOTALL
    )
    return found[1] if found else ""


def _present(settings: str) -> str:
    found = _VERSION_LINE.search(settings)
    if found is None:
        msg = 'pyproject.toml has no line version = "…" at the beginning of a line.'
        raise ReleaseError(msg)
    return found[1]


def _check_follows(version: str, present: str) -> None:
    try:
        wanted = Version(version)
    except InvalidVersion as error:
        msg = f"{version} is no version: write three numbers, as 0.2.0."
        raise ReleaseError(msg) from error
    if str(wanted) != version or wanted.local:
        msg = f"Write the version as {wanted.public}, the form that packages have."
        raise ReleaseError(msg)
    if wanted <= Version(present):
        msg = f"{version} does not follow {present}, the version in pyproject.toml."
        raise ReleaseError(msg)
