"""Known vulnerabilities of the locked packages, by pip-audit against the advisories of OSV."""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

from release.errors import NotAuditedError, ReleaseError
from release.project import read_lock

EXCEPTIONS: Final = Path(__file__).with_name("audit_exceptions.toml")
LONGEST: Final = timedelta(days=180)

_SECONDS_PER_QUESTION: Final = 10
_SECONDS: Final = 600


@dataclass(frozen=True)
class Finding:
    """One advisory about one locked package."""

    package: str
    version: str
    names: tuple[str, ...]  # all that the advisory is called
    fixed_in: tuple[str, ...]

    def __str__(self) -> str:
        """Return what is wrong and what mends it."""
        mend = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix is known"
        return f"{self.package} {self.version}: {', '.join(self.names)}; {mend}"


@dataclass(frozen=True)
class Accepted:
    """An advisory that does not hinder a release until a day, and why."""

    advisory: str
    package: str
    until: date
    reason: str


def read_accepted(path: Path = EXCEPTIONS, today: date | None = None) -> list[Accepted]:
    """Return the exceptions of a file.

    Raises ReleaseError for one without a reason, or that would hold longer than half a year.
    """
    day = today or date.today()  # noqa: DTZ011  the releaser's day is the one that counts
    accepted = []
    for entry in tomllib.loads(path.read_text()).get("exception", []):
        one = Accepted(
            entry["advisory"], canonicalize_name(entry["package"]), entry["until"], entry["reason"]
        )
        if not one.reason.strip():
            msg = f"{path.name}: {one.advisory} has no reason. Say why it does no harm here."
            raise ReleaseError(msg)
        if one.until > day + LONGEST:
            msg = f"{path.name}: {one.advisory} is accepted for more than {LONGEST.days} days."
            raise ReleaseError(msg)
        accepted.append(one)
    return accepted


def look_up(lock: Path, osv_url: str | None = None) -> list[Finding]:
    """Return what the advisories say about every pin of a lock.

    Raises NotAuditedError where the service gave no answer, or none about some of the packages.
    """
    pinned = {name: pin.version for name, pin in read_lock(lock).items()}
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch, "requirements.txt")  # without markers: all of the lock is asked about
        plain.write_text("".join(f"{name}=={version}\n" for name, version in pinned.items()))
        answer = _ask(plain, Path(scratch, "cache"), osv_url)
    about = {canonicalize_name(each["name"]): each for each in answer["dependencies"]}
    unknown = sorted(name for name in pinned if "vulns" not in about.get(name, {}))
    if unknown:
        msg = f"The advisory service did not answer about {', '.join(unknown)}: nothing is known."
        raise NotAuditedError(msg)
    return [
        Finding(
            name,
            pinned[name],
            tuple(sorted({each["id"], *each.get("aliases", [])})),
            tuple(each["fix_versions"]),
        )
        for name in sorted(about)
        for each in about[name]["vulns"]
    ]


def open_findings(
    findings: Iterable[Finding], accepted: Iterable[Accepted], today: date
) -> list[str]:
    """Return a sentence for each finding that no exception covers today."""
    valid = list(accepted)
    sentences = []
    for finding in findings:
        covering = [
            each
            for each in valid
            if each.package == finding.package and each.advisory in finding.names
        ]
        if not covering:
            sentences.append(f"{finding}.")
        elif (last := max(each.until for each in covering)) < today:
            sentences.append(f"{finding}. It was accepted until {last.isoformat()}: judge it anew.")
    return sentences


def _ask(requirements: Path, cache: Path, osv_url: str | None) -> dict[str, Any]:
    """Run pip-audit and return its answer; it ends with 1 both for findings and for failures."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements)]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += ["--desc", "off", "--aliases", "on", "--cache-dir", str(cache)]
    command += ["--timeout", str(_SECONDS_PER_QUESTION), "--vulnerability-service", "osv"]
    command += ["--osv-url", osv_url] if osv_url else []
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        msg = f"The advisory service did not answer in {_SECONDS} s: nothing is known."
        raise NotAuditedError(msg) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        msg = f"The advisory service did not answer: {said}"
        raise NotAuditedError(msg) from error
    return answer
