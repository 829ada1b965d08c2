"""Which distributions an extra brings, and what each of them needs: from installed metadata."""

import importlib.metadata
from collections.abc import Iterable
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name

from release.errors import ReleaseError
from release.project import PARTS, Pin, Project

# PyTorch's own build brings these where it needs them and pins them itself; the lock has none.
_CUDA: Final = ("cuda", "nvidia", "triton")

Closure = dict[NormalizedName, tuple[NormalizedName, ...]]


def closure_of(part: str, project: Project, lock: dict[NormalizedName, Pin]) -> Closure:
    """Return every distribution of a part of the node, with the names that it needs itself.

    Raises ReleaseError where the environment is not the lock's.
    """
    needed = [*project.dependencies]
    for extra in PARTS[part]:
        needed += project.extras[extra]
    return _walk(needed, lock)


def first_level(part: str, project: Project) -> tuple[NormalizedName, ...]:
    """Return the names that pyproject.toml itself asks for in a part, where they apply here."""
    needed = [*project.dependencies, *(r for extra in PARTS[part] for r in project.extras[extra])]
    return tuple(sorted({canonicalize_name(each.name) for each in needed if _applies(each, "")}))


def _walk(needed: Iterable[Requirement], lock: dict[NormalizedName, Pin]) -> Closure:
    found: dict[NormalizedName, set[NormalizedName]] = {}
    extras: dict[NormalizedName, set[str]] = {}
    waiting = [each for each in needed if _applies(each, "")]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        fresh = set(requirement.extras) - extras.setdefault(name, set())
        if name in found and not fresh:
            continue
        extras[name] |= fresh
        own = _requirements(name, extras[name], lock)
        found[name] = {canonicalize_name(each.name) for each in own}
        waiting += own
    return {name: tuple(sorted(found[name])) for name in sorted(found)}


def _requirements(
    name: NormalizedName, extras: set[str], lock: dict[NormalizedName, Pin]
) -> list[Requirement]:
    """Return what a distribution needs here, with these of its extras."""
    _check_installed(name, lock)
    wanted = map(Requirement, importlib.metadata.requires(name) or ())
    return [
        each
        for each in wanted
        if any(_applies(each, extra) for extra in ("", *extras))
        and not canonicalize_name(each.name).startswith(_CUDA)
    ]


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check_installed(name: NormalizedName, lock: dict[NormalizedName, Pin]) -> None:
    """Raise ReleaseError unless what is installed is what the lock pins."""
    if name not in lock:
        msg = f"{name} is needed and not in requirements.lock. Write the lock anew: make lock."
        raise ReleaseError(msg)
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        installed = "not installed"
    if installed.partition("+")[0] != lock[name].version:
        msg = f"{name}: the lock says {lock[name].version}, here is {installed}. Run make install."
        raise ReleaseError(msg)
