"""Under which licence each dependency is, and whether it may be used: policy against metadata."""

import importlib.metadata
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from boolean import Expression
from license_expression import AND, OR, ExpressionError, get_spdx_licensing
from packaging.utils import NormalizedName, canonicalize_name

POLICY: Final = Path(__file__).with_name("licences.toml")

_LONGEST_NAME: Final = 60  # the old License field holds a name or a whole text
_TEXT_FILE: Final = re.compile(r"(licen[cs]e|copying|notice)", re.IGNORECASE)
_NOT_TEXT: Final = (".py", ".pyc", ".pyi", ".so", ".json")
_GNU: Final = re.compile(
    r"GNU\s+(?:LESSER\s+|LIBRARY\s+|AFFERO\s+)?GENERAL\s+PUBLIC\s+LICENSE", re.IGNORECASE
)
_LIBRARY: Final = re.compile(r"(lib\w+?)(?:-[0-9a-f]{8})*\.so(?:\.[\w.]+)?$")
_licensing: Final = get_spdx_licensing()


@dataclass(frozen=True)
class Judgement:
    """Why a package is used although its licence is not one that passes by itself."""

    package: NormalizedName
    licence: str
    reason: str
    served: bool  # it may be on a host that serves, not only on a developer's


@dataclass(frozen=True)
class Policy:
    """licences.toml."""

    allowed: frozenset[str]
    classifiers: dict[str, str]
    names: dict[str, str]
    stated: dict[NormalizedName, str]
    judged: dict[NormalizedName, Judgement]
    inside: dict[NormalizedName, str]
    gnu_libraries: frozenset[str]


@dataclass(frozen=True)
class Licence:
    """The licence of one distribution, and where that is written."""

    name: NormalizedName
    version: str
    expression: str | None
    source: str
    gnu_files: tuple[str, ...] = field(default=())
    libraries: tuple[str, ...] = field(default=())


def read_policy(path: Path = POLICY) -> Policy:
    """Return the policy of a file."""
    table: dict[str, Any] = tomllib.loads(path.read_text())
    judged = [
        Judgement(
            canonicalize_name(each["package"]), each["licence"], each["reason"], each["served"]
        )
        for each in table["judged"]
    ]
    return Policy(
        allowed=frozenset(table["allowed"]),
        classifiers=table["classifiers"],
        names=table["names"],
        stated={canonicalize_name(name): said for name, said in table["stated"].items()},
        judged={each.package: each for each in judged},
        inside={canonicalize_name(name): said for name, said in table["inside"].items()},
        gnu_libraries=frozenset(table["gnu_libraries"]),
    )


def licence_of(name: NormalizedName, policy: Policy) -> Licence:
    """Return the licence of an installed distribution; where none is known, None stands in it."""
    found = importlib.metadata.distribution(name)
    expression, source = _expression(name, found.metadata, policy)
    version = found.version.partition("+")[0]
    libraries = _libraries(found)
    gnu = [each for each in libraries if _stem(each) in policy.gnu_libraries]
    return Licence(name, version, expression, source, (*_gnu_texts(found), *gnu), libraries)


def faults(
    licences: Iterable[Licence], served: Iterable[NormalizedName], policy: Policy
) -> list[str]:
    """Return a sentence for every licence that the policy does not admit, and for stale entries."""
    licences, served = list(licences), set(served)
    found = [each for licence in licences for each in _faults_of(licence, served, policy)]
    names = {each.name for each in licences}
    entries: dict[str, Iterable[NormalizedName]] = {
        "judged": policy.judged,
        "inside": policy.inside,
        "stated": policy.stated,
    }
    found += [
        f"{name} is named under {table} in licences.toml and is no dependency: take it out."
        for table, entry in entries.items()
        for name in sorted(set(entry) - names)
    ]
    return found


def is_allowed(expression: str, policy: Policy) -> bool:
    """Whether an SPDX expression is satisfied by licences that pass by themselves."""
    return _satisfied(_licensing.parse(expression), policy.allowed)


def _faults_of(licence: Licence, served: set[NormalizedName], policy: Policy) -> Iterable[str]:
    judgement = policy.judged.get(licence.name)
    if licence.expression is None:
        yield (
            f"{licence.name} does not say its licence ({licence.source}): read its licence file and"
            " write it under stated in licences.toml."
        )
    elif judgement is None and not is_allowed(licence.expression, policy):
        yield (
            f"{licence.name} is under {licence.expression}, which does not pass by itself: judge it"
            " in licences.toml, or do without it."
        )
    elif judgement is not None and judgement.licence != licence.expression:
        yield (
            f"{licence.name} was judged under {judgement.licence} and is now under"
            f" {licence.expression}: judge it anew in licences.toml."
        )
    if judgement is not None and licence.name in served and not judgement.served:
        yield (
            f"{licence.name} was judged as a developer's tool only, and would now be on hosts that"
            " serve: judge it anew in licences.toml, or move it."
        )
    if licence.gnu_files and judgement is None and licence.name not in policy.inside:
        yield (
            f"{licence.name} brings {licence.gnu_files[0]}, which is or names something of the GNU"
            " family: find out what and write it under inside in licences.toml."
        )


def _expression(
    name: NormalizedName, metadata: importlib.metadata.PackageMetadata, policy: Policy
) -> tuple[str | None, str]:
    """Return the SPDX expression, and which field says so."""
    if name in policy.stated:
        return policy.stated[name], "its licence file"
    if stated := metadata.get_all("License-Expression"):
        return stated[0], "License-Expression"
    old = (metadata.get_all("License") or [""])[0].strip()
    if old in policy.names:
        return policy.names[old], "License"
    if old and len(old) <= _LONGEST_NAME and _is_spdx(old):
        return old, "License"
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in metadata.get_all("Classifier") or []
        if each.startswith("License :: ")
    ]
    known = sorted({policy.classifiers[each] for each in classifiers if each in policy.classifiers})
    if len(known) == 1 and len(classifiers) == len(known):
        return known[0], "Classifier"
    return None, f"License {old[:_LONGEST_NAME]!r}, classifiers {classifiers}"


def _is_spdx(text: str) -> bool:
    try:
        return not _licensing.unknown_license_keys(text)
    except ExpressionError:
        return False


def _satisfied(parsed: Expression, allowed: frozenset[str]) -> bool:
    if isinstance(parsed, AND):
        return all(_satisfied(each, allowed) for each in parsed.args)
    if isinstance(parsed, OR):
        return any(_satisfied(each, allowed) for each in parsed.args)
    return str(parsed) in allowed


def _libraries(found: importlib.metadata.Distribution) -> tuple[str, ...]:
    """Return the libraries in C that a wheel carries along, by file name."""
    names = {path.name for path in found.files or () if _LIBRARY.match(path.name)}
    return tuple(sorted(names))


def _stem(library: str) -> str:
    named = _LIBRARY.match(library)
    return named[1] if named else library


def _gnu_texts(found: importlib.metadata.Distribution) -> tuple[str, ...]:
    """Return the licence files of a distribution that hold or name a licence of the GNU family."""
    hits = []
    for path in found.files or ():
        if not _TEXT_FILE.search(str(path)) or path.suffix in _NOT_TEXT:
            continue
        try:
            text = Path(str(found.locate_file(path))).read_text(errors="replace")
        except OSError:
            continue
        if _GNU.search(text):
            hits.append(str(path))
    return tuple(sorted(hits))
