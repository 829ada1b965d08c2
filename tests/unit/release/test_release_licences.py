"""The licences of the lock against the policy, and that the policy can say no."""

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.utils import NormalizedName, canonicalize_name
from release.assembling import known_licences
from release.closure import closure_of
from release.errors import ReleaseError
from release.install_lists import check_pin
from release.licences import Judgement, Licence, Policy, faults, is_allowed, licence_of, read_policy
from release.project import (
    NOT_SERVED,
    PARTS,
    WITHOUT_HASHES,
    read_hashes,
    read_lock,
    read_project,
)

_SOME = canonicalize_name("some-package")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return read_policy()


def _licence(expression: str | None, gnu_files: tuple[str, ...] = ()) -> Licence:
    return Licence(_SOME, "1.0", expression, "License", gnu_files)


def _bare(policy: Policy, judged: Judgement | None = None) -> Policy:
    return replace(policy, judged={_SOME: judged} if judged else {}, inside={}, stated={})


def test_every_locked_package_is_admitted_and_no_host_has_one_under_the_gpl(
    repository: Path,
) -> None:
    licences, against = known_licences(repository)
    assert against == []
    assert len(licences) == len(read_lock(repository / "requirements.lock"))
    project, lock = read_project(repository), read_lock(repository / "requirements.lock")
    served = {name for part in PARTS for name in closure_of(part, project, lock)}
    named = {each.name: each.expression or "" for each in licences if each.name in served}
    gnu = {name: expression for name, expression in named.items() if "GPL" in expression}
    assert gnu == {"psycopg": "LGPL-3.0-only", "psycopg-binary": "LGPL-3.0-only"}


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("Apache-2.0 WITH LLVM-exception AND MIT", True),
        ("GPL-2.0-or-later OR BSD-3-Clause", True),
        ("GPL-2.0-or-later AND BSD-3-Clause", False),
        ("GPL-3.0-only", False),
        ("AGPL-3.0-or-later", False),
        ("LGPL-3.0-only", False),
        ("CC-BY-NC-SA-4.0", False),
    ],
)
def test_which_licences_pass_by_themselves(
    policy: Policy, expression: str, *, allowed: bool
) -> None:
    assert is_allowed(expression, policy) is allowed


@pytest.mark.parametrize(
    ("licence", "message"),
    [
        (_licence("GPL-3.0-only"), "is under GPL-3.0-only, which does not pass by itself"),
        (_licence(None), "does not say its licence"),
        (_licence("MIT", ("x.dist-info/COPYING",)), "brings x.dist-info/COPYING"),
    ],
)
def test_what_nobody_judged_is_a_fault(policy: Policy, licence: Licence, message: str) -> None:
    (found,) = faults([licence], [_SOME], _bare(policy))
    assert message in found


def test_a_judgement_is_of_one_licence_and_one_place(policy: Policy) -> None:
    judged = _bare(policy, Judgement(_SOME, "LGPL-3.0-only", "why", served=False))
    assert faults([_licence("LGPL-3.0-only")], [], judged) == []
    (moved,) = faults([_licence("LGPL-3.0-only")], [_SOME], judged)
    assert "as a developer's tool only" in moved
    (changed,) = faults([_licence("GPL-3.0-only")], [], judged)
    assert "was judged under LGPL-3.0-only and is now under GPL-3.0-only" in changed


def test_an_entry_about_no_dependency_is_a_fault(policy: Policy) -> None:
    judged = _bare(policy, Judgement(_SOME, "LGPL-3.0-only", "why", served=True))
    assert faults([], [], judged) == [
        "some-package is named under judged in licences.toml and is no dependency: take it out."
    ]


def test_every_judgement_gives_a_reason(policy: Policy) -> None:
    assert all(len(each.reason) > 40 for each in policy.judged.values())
    assert all(len(reason) > 40 for reason in policy.inside.values())


@pytest.mark.parametrize("name", ["psycopg", "numpy", "pillow"])
def test_texts_and_libraries_of_the_gnu_family_are_seen(policy: Policy, name: str) -> None:
    assert licence_of(canonicalize_name(name), policy).gnu_files != ()


def test_every_extra_is_of_a_part_or_not_served(repository: Path) -> None:
    named = {*NOT_SERVED, *(extra for extras in PARTS.values() for extra in extras)}
    assert named == set(read_project(repository).extras)


def test_the_lock_with_hashes_is_the_lock(repository: Path) -> None:
    lock = read_lock(repository / "requirements.lock")
    hashes = read_hashes(repository / "requirements.hashes.lock")
    for name in set(lock) - {WITHOUT_HASHES}:
        check_pin(lock[name], hashes)
    assert set(hashes) == set(lock) - {WITHOUT_HASHES}


def test_a_pin_without_hashes_is_refused(repository: Path) -> None:
    lock = read_lock(repository / "requirements.lock")
    pin = lock[NormalizedName("click")]
    with pytest.raises(ReleaseError, match="make hashes"):
        check_pin(pin, {pin.name: ("0.1", ("sha256:" + "0" * 64,))})
    with pytest.raises(ReleaseError, match="make hashes"):
        check_pin(pin, {})
