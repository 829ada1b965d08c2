"""One release of this tree, made under odd conditions, and checked as who receives it does."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from absent import missing
from click.testing import CliRunner
from release.artefacts import check_same, sha256_of
from release.assembling import Wishes, assemble
from release.cli import cli
from release.errors import ReleaseError
from release.weights import weights_in

pytestmark = pytest.mark.timeout(900)  # builds of the whole tree, on a machine with much else to do

_VERSION = "99.0.0"
_SIGNER = "release@dicom-node"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "R",
    "GIT_AUTHOR_EMAIL": "r@example.org",
    "GIT_COMMITTER_NAME": "R",
    "GIT_COMMITTER_EMAIL": "r@example.org",
    "GIT_COMMITTER_DATE": "2026-12-01T12:00:00Z",
}
_SHIPPED = {
    ".css", ".csv", ".html", ".ini", ".js", ".json", ".mako", ".md", ".png", ".py",
    ".safetensors", ".svg", ".toml", ".typed",
}  # fmt: skip


@dataclass(frozen=True)
class Released:
    """The repository, the release made from it, and the key that signed it."""

    repository: Path
    folder: Path
    key: Path

    @property
    def wheel(self) -> Path:
        return next(self.folder.glob("*.whl"))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def _run(*command: str | Path, cwd: Path, **surroundings: Any) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, **surroundings
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _release(repository: Path, *arguments: str | Path, **surroundings: str) -> list[str | Path]:
    """Return the command line of the release program of a repository."""
    paths = [f"PYTHONPATH={repository / 'deploy'}", *(f"{k}={v}" for k, v in surroundings.items())]
    return ["env", *paths, sys.executable, "-m", "release", *arguments]


def _copy_of_the_tree(repository: Path, target: Path) -> None:
    """Make a repository of the working tree as it is now, cut for a version and committed."""
    named = _run("git", "ls-files", "-coz", "--exclude-standard", cwd=repository)
    for name in filter(None, named.split("\0")):
        source = repository / name
        if source.is_file() and not name.startswith(("tests/", "docs/", "benchmarks/")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target / name)
    _run(*_release(target, "prepare", _VERSION), cwd=target)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "Cut"]):
        _run("git", *command, cwd=target, env=os.environ | _IDENTITY)


@pytest.fixture(scope="module")
def released(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Released:
    scratch = tmp_path_factory.mktemp("release")
    tree, key = scratch / "tree", scratch / "key"
    _copy_of_the_tree(repository, tree)
    _run(_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key, cwd=scratch)
    made = _release(tree, "build", _VERSION, "--key", key, "--untested", "--unaudited")
    _run(*made, cwd=scratch)
    folder = scratch / "received"
    shutil.copytree(tree / "dist" / _VERSION, folder)
    signer = f"{_SIGNER} {key.with_suffix('.pub').read_text()}"
    (folder / "allowed_signers").write_text(signer)
    return Released(tree, folder, key)


def test_another_time_place_umask_and_language_give_the_same_bytes(
    released: Released, tmp_path: Path
) -> None:
    epoch = json.loads((released.folder / "BUILD.json").read_text())["source_date_epoch"]
    odd = {"LC_ALL": "C", "TZ": "Pacific/Apia", "PYTHONHASHSEED": "7", "HOME": str(tmp_path)}
    built = ["wheel", "--out", tmp_path / "a/b/c", "--epoch", str(epoch)]
    command = _release(released.repository, *built, **odd)
    _run(_program("faketime"), "2031-05-06 07:08:09", *command, cwd=tmp_path, umask=0o077)
    check_same(released.wheel, tmp_path / "a/b/c" / released.wheel.name)
    (sdist,) = released.folder.glob("*.tar.gz")
    check_same(sdist, tmp_path / "a/b/c" / sdist.name)


def test_a_byte_that_differs_is_told(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ReleaseError, match="came out different"):
        check_same(tmp_path / "a", tmp_path / "b")


def _block(repository: Path, heading: str) -> str:
    """Return the commands of docs/release.md under a heading."""
    text = (repository / "docs" / "release.md").read_text()
    found = re.search(rf"^## {heading}.*?```sh\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def _verify(repository: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the first two commands that docs/release.md tells who receives a release."""
    commands = _block(repository, "What a hospital does").splitlines()[:2]
    return subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_what_is_received_verifies(released: Released, repository: Path) -> None:
    done = _verify(repository, released.folder)
    assert done.returncode == 0, done.stderr
    assert f'Good "dicom-node-release" signature for {_SIGNER}' in done.stdout
    assert f"{released.wheel.name}: OK" in done.stdout
    named = {line.split()[1] for line in (released.folder / "SHA256SUMS").read_text().splitlines()}
    given = {path.name for path in released.folder.iterdir()}
    assert given - named == {"SHA256SUMS", "SHA256SUMS.sig", "allowed_signers"}


@pytest.mark.parametrize("file", ["RELEASE_NOTES.md", "SHA256SUMS", "allowed_signers"])
def test_what_was_changed_on_the_way_does_not(
    released: Released, repository: Path, tmp_path: Path, file: str
) -> None:
    folder = shutil.copytree(released.folder, tmp_path / "received")
    if file == "allowed_signers":  # another key than the one that signed
        _run(
            _program("ssh-keygen"),
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-f",
            tmp_path / "k",
            cwd=folder,
        )
        (folder / file).write_text(f"{_SIGNER} {(tmp_path / 'k.pub').read_text()}")
    else:
        (folder / file).write_text((folder / file).read_text() + "\n")
    assert _verify(repository, folder).returncode != 0


def test_the_wheel_installs_and_says_its_version(released: Released, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    pip += ["--no-deps", "--no-index", "--no-compile", "--target", str(tmp_path)]
    _run(*pip, released.wheel, cwd=tmp_path)
    code = (
        "from importlib.metadata import version; import models;"
        " print(version('dicom-node'), models.__file__)"
    )
    said = _run(sys.executable, "-c", code, cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert said.split()[0] == _VERSION
    assert Path(said.split()[1]).is_relative_to(tmp_path)


def test_the_notes_say_what_was_left_out(released: Released) -> None:
    notes = (released.folder / "RELEASE_NOTES.md").read_text()
    assert notes.startswith(f"# dicom-node {_VERSION}\n\nResearch use only.")
    assert "The tests were NOT run." in notes
    assert "were NOT looked up." in notes
    assert "NOT signed" not in notes
    assert "### Added" in notes


def test_everything_in_the_wheel_has_a_licence_that_it_names(released: Released) -> None:
    with zipfile.ZipFile(released.wheel) as archive:
        names = archive.namelist()
        (notice,) = (archive.read(name).decode() for name in names if name.endswith("/NOTICE"))
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    kinds = {Path(name).suffix for name in names if ".dist-info/" not in name}
    assert kinds <= _SHIPPED, "no font, no binary, no picture of a patient: name it in NOTICE first"
    assert "License-Expression: Apache-2.0 AND CC-BY-NC-SA-4.0" in metadata
    weights = weights_in(released.wheel)
    assert {each.name for each in weights} == {"unet", "two-step", "adversarial-unet", "view"}
    assert [each.file for each in weights if each.file not in notice] == []


@pytest.mark.parametrize("part", ["node", "worker"])
def test_the_bill_lists_packages_and_weights(released: Released, part: str) -> None:
    bill = json.loads((released.folder / f"sbom-{part}.cdx.json").read_text())
    assert bill["metadata"]["component"]["hashes"][0]["content"] == sha256_of(released.wheel)
    packages = {each["name"] for each in bill["components"] if each["type"] == "library"}
    assert ("torch" in packages) is (part == "worker")
    assert {"pydicom", "sqlalchemy", "psycopg"} <= packages
    assert packages.isdisjoint({"pytest", "ruff", "keras", "pip-audit"})
    models = {
        each["name"]: each["hashes"][0]["content"]
        for each in bill["components"]
        if each["type"] == "machine-learning-model"
    }
    assert models == {each.name: each.sha256 for each in weights_in(released.wheel)}
    listed = (released.folder / f"requirements-{part}.txt").read_text()
    named = set(re.findall(r"^([a-z0-9][\w.-]*)==", listed.lower(), re.MULTILINE))
    assert {name.replace("_", "-").replace(".", "-") for name in named} == packages - {"torch"}


def test_weights_with_another_hash_than_stated_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("worker/view_weights/model.safetensors", b"other")
        archive.writestr("worker/view_weights/metadata.json", json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ReleaseError, match="has SHA-256"):
        weights_in(tmp_path / "x.whl")


def test_weights_without_a_licence_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("worker/bundles/new/models/model.safetensors", b"")
    with pytest.raises(ReleaseError, match=r"has no metadata\.json"):
        weights_in(tmp_path / "x.whl")


def test_a_tree_that_is_not_as_committed_is_refused(released: Released) -> None:
    stray = released.repository / "stray.py"
    stray.write_text("")
    try:
        with pytest.raises(ReleaseError, match=r"1 files are not as committed.* is stray\.py"):
            assemble(released.repository, "98.0.0", released.folder, Wishes(None, tested=False))
    finally:
        stray.unlink()


def test_a_release_is_made_once(released: Released) -> None:
    with pytest.raises(ReleaseError, match="is there already"):
        assemble(
            released.repository, _VERSION, released.repository / "dist", Wishes(None, tested=False)
        )


@pytest.mark.parametrize("arguments", [(), ("--unsigned", "--key", "key")])
def test_a_release_is_signed_or_unsigned_on_purpose(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, ["build", _VERSION, *arguments])
    assert isinstance(done.exception, ReleaseError)
    assert "Give KEY=FILE" in str(done.exception)
