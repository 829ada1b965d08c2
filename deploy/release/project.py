"""What pyproject.toml and the two lock files say."""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from release.errors import ReleaseError

# What is installed where: the extras of a host with the node's roles, and of one with workers.
PARTS: Final = {
    "node": ("embedded", "otel", "postgres", "s3", "web"),
    "worker": ("otel", "postgres", "s3", "worker"),
}
# Never on a host that serves: a developer's tools, the reader of test messages, training.
NOT_SERVED: Final = ("all", "dev", "messages", "train")

# Its builds (CPU, CUDA) come from several indexes, each with files and hashes of its own.
WITHOUT_HASHES: Final = canonicalize_name("torch")

_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One line of the lock."""

    name: NormalizedName
    version: str
    line: str


@dataclass(frozen=True)
class Project:
    """The project table of pyproject.toml, as far as a release asks for it."""

    name: str
    version: str
    description: str
    licence: str
    dependencies: tuple[Requirement, ...]
    extras: dict[str, tuple[Requirement, ...]]


def read_project(root: Path) -> Project:
    """Return what pyproject.toml under `root` says."""
    table = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    return Project(
        name=table["name"],
        version=table["version"],
        description=table["description"],
        licence=table["license"],
        dependencies=tuple(map(Requirement, table["dependencies"])),
        extras={
            extra: tuple(map(Requirement, needed))
            for extra, needed in table["optional-dependencies"].items()
        },
    )


def read_lock(path: Path) -> dict[NormalizedName, Pin]:
    """Return the pins of a lock by name. Raises ReleaseError for a line that pins nothing."""
    pins = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        requirement = Requirement(line)
        versions = [each.version for each in requirement.specifier if each.operator == "=="]
        if len(versions) != 1:
            msg = f'{path.name}: "{line}" pins no version. Write the lock anew: make lock.'
            raise ReleaseError(msg)
        name = canonicalize_name(requirement.name)
        pins[name] = Pin(name, versions[0], line)
    return pins


def read_hashes(path: Path) -> dict[NormalizedName, tuple[str, tuple[str, ...]]]:
    """Return version and hashes by name from a lock with hashes."""
    found = {}
    for entry in path.read_text().replace("\\\n", " ").splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        requirement = Requirement(entry.partition("--hash=")[0])
        version = next(iter(requirement.specifier)).version
        found[canonicalize_name(requirement.name)] = (version, tuple(_HASH.findall(entry)))
    return found
