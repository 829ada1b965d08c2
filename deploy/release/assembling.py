"""A release, step by step: one commit in, one folder with everything that is handed out."""

import json
import platform
import sys
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from packaging.utils import NormalizedName

from release.artefacts import build, check_builder, check_same, sha256_of, unpack
from release.audit import Finding, look_up, open_findings, read_accepted
from release.changelog import notes_of
from release.closure import Closure, closure_of, first_level
from release.errors import NotAuditedError, ReleaseError
from release.install_lists import requirements
from release.licence_report import licence_report
from release.licences import Licence, faults, licence_of, read_policy
from release.project import PARTS, read_hashes, read_lock, read_project
from release.sbom import Contents, bill_of_materials
from release.signing import sign, write_sums
from release.source import commit_of, export
from release.weights import weights_in


@dataclass(frozen=True)
class Wishes:
    """What the releaser decides. What is left out stands in the release notes."""

    key: Path | None
    tested: bool
    unaudited: bool = False
    osv_url: str | None = None


def assemble(root: Path, version: str, out: Path, wishes: Wishes) -> Path:
    """Make the release of the commit at HEAD under `out` and return its folder.

    Nothing is published, and the folder appears complete or not at all. Raises ReleaseError.
    """
    target = out / version
    if target.exists():
        msg = f"{target} is there already: a release is made once. Remove it to make it anew."
        raise ReleaseError(msg)
    commit, epoch = commit_of(root)
    notes = notes_of(root, version)
    check_builder(root / "requirements.lock")
    audited = _audited(root, wishes)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".making-") as scratch:
        made = Path(scratch, version)
        wheel = _build_alike(root, commit, epoch, Path(scratch), made)
        _list_contents(root, made, wheel, commit, epoch)
        _write_notes(made, version, notes, wishes, audited)
        _write_record(made, commit, epoch, wishes, audited)
        sums = write_sums(made)
        if wishes.key:
            sign(sums, wishes.key)
        made.rename(target)
    return target


def known_licences(root: Path) -> tuple[list[Licence], list[str]]:
    """Return the licences of every pin of the lock, and what the policy has against them."""
    policy, lock, project = read_policy(), read_lock(root / "requirements.lock"), read_project(root)
    served = {name for part in PARTS for name in closure_of(part, project, lock)}
    licences = [licence_of(name, policy) for name in lock]
    return licences, faults(licences, served, policy)


def audit(root: Path, osv_url: str | None, today: date) -> tuple[list[Finding], list[str]]:
    """Return what the advisories say about the lock, and what of it no exception covers."""
    accepted = read_accepted(today=today)
    findings = look_up(root / "requirements.lock", osv_url)
    return findings, open_findings(findings, accepted, today)


def _audited(root: Path, wishes: Wishes) -> str:
    """Return the sentence of the notes on advisories. Raises ReleaseError where some are open."""
    if wishes.unaudited:
        return "Known vulnerabilities of the packages were NOT looked up."
    today = date.today()  # noqa: DTZ011  the releaser's day is the one that counts
    try:
        findings, still_open = audit(root, wishes.osv_url, today)
    except NotAuditedError as error:
        msg = f"{error} Release where it can be reached, or say UNAUDITED=1."
        raise ReleaseError(msg) from error
    if still_open:
        raise ReleaseError("Known vulnerabilities:\n" + "\n".join(still_open))
    passed = f", {len(findings)} accepted with a reason" if findings else ""
    return f"Known vulnerabilities of the packages on {today.isoformat()}: none open{passed}."


def _build_alike(root: Path, commit: str, epoch: int, scratch: Path, made: Path) -> Path:
    """Build from the commit, and elsewhere from the source archive; both must give the same."""
    export(root, commit, scratch / "tree")
    wheel, sdist = build(scratch / "tree", made, epoch)
    again = build(unpack(sdist, scratch / "from/sdist"), scratch / "again", epoch)
    check_same(wheel, again[0])
    check_same(sdist, again[1])
    return wheel


def _list_contents(root: Path, made: Path, wheel: Path, commit: str, epoch: int) -> None:
    """Write bills of materials, lists to install from, and the licence report."""
    project, lock = read_project(root), read_lock(root / "requirements.lock")
    hashes, policy = read_hashes(root / "requirements.hashes.lock"), read_policy()
    known, against = known_licences(root)
    if against:
        raise ReleaseError("\n".join(against))
    licences = {each.name: each for each in known}
    weights = weights_in(wheel)
    closures: dict[str, Closure] = {part: closure_of(part, project, lock) for part in PARTS}
    for part, closure in closures.items():
        contents = Contents(
            part, project, closure, first_level(part, project), licences, weights,
            sha256_of(wheel), commit, epoch,
        )  # fmt: skip
        (made / f"sbom-{part}.cdx.json").write_text(bill_of_materials(contents))
        listed = requirements(part, project.version, closure, lock, hashes)
        (made / f"requirements-{part}.txt").write_text(listed)
    report = licence_report(project.version, known, _names(closures), weights, policy)
    (made / "LICENCES.md").write_text(report)


def _names(closures: dict[str, Closure]) -> dict[str, Iterable[NormalizedName]]:
    return {part: closure.keys() for part, closure in closures.items()}


def _write_notes(made: Path, version: str, notes: str, wishes: Wishes, audited: str) -> None:
    tested = "All checks of the gate passed." if wishes.tested else "The tests were NOT run."
    signed = "" if wishes.key else "\nThis release is NOT signed.\n"
    (made / "RELEASE_NOTES.md").write_text(
        f"# dicom-node {version}\n\n"
        "Research use only. Not a medical device.\n\n"
        f"{tested} {audited}\n{signed}\n"
        "docs/release.md tells how to check what you got.\n\n"
        f"{notes}"
    )


def _write_record(made: Path, commit: str, epoch: int, wishes: Wishes, audited: str) -> None:
    """Write what is needed to build the same bytes again."""
    record: dict[str, Any] = {
        "commit": commit,
        "source_date_epoch": epoch,
        "python": platform.python_version(),
        "setuptools": installed_version("setuptools"),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "platform": sys.platform,
        "tested": wishes.tested,
        "advisories": audited,
    }
    (made / "BUILD.json").write_text(json.dumps(record, indent=1) + "\n")
