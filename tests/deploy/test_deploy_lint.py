"""Every linter that can be had, over everything in deploy/ that it reads. `make deploy-check`."""

import json
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from absent import missing
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from composed import CONTAIN
from images import DEPLOY, REPOSITORY
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from dicom_node.web.metrics.table import HELP, PREFIX

_BIN = Path(sys.prefix) / "bin"
_OVERLAYS = sorted(path.name for path in (DEPLOY / "k8s" / "overlays").iterdir())
_UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
# Oldest and newest Kubernetes whose schemas are at hand and that has everything we use.
_KUBERNETES = ("1.29", "1.37")
_EXPOSURE = 20  # systemd-analyze security, 0 to 100
_OWN_YAML = (*DEPLOY.glob("compose*.yaml"), *(DEPLOY / "k8s").rglob("*.yaml"))
_SCRIPTS = (DEPLOY / "make-secrets", CONTAIN, REPOSITORY / ".ci" / "run")


def _run(*command: str | Path) -> str:
    """Return what a linter says; nothing means that it is content."""
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    said = f"{ended.stdout}{ended.stderr}".strip()
    return said or (f"exit status {ended.returncode}" if ended.returncode else "")


def _dockerfiles(folder: Path) -> str:
    return _run(_BIN / "hadolint", *sorted(folder.glob("Dockerfile.*")))


def _scripts(*paths: Path) -> str:
    return _run(_BIN / "shellcheck", *paths)


def _yaml_style(*paths: Path) -> str:
    return _run(_BIN / "yamllint", "-s", "-c", REPOSITORY / ".yamllint", *paths)


def _compose(text: str) -> list[str]:
    """Return what the Compose Specification's own schema finds wrong."""
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = Draft202012Validator(json.loads(schema.read_text()))
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def _kubernetes(document: dict[str, Any]) -> str | None:
    """Return what the schemas of Kubernetes, or of KEDA, find wrong with one object."""
    if document["apiVersion"] == "keda.sh/v1alpha1":
        try:
            read = ScaledObject.model_validate(document)
        except ValueError as error:
            return str(error)
        known = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
        return None if known == document else "a field that a ScaledObject does not have"
    group, _, version = document["apiVersion"].rpartition("/")
    of_group = f"{group.partition('.')[0]}-{version}" if group else version
    for release in _KUBERNETES:
        folder, registry = _schemas(release)
        schema = json.loads((folder / f"{document['kind'].lower()}-{of_group}.json").read_text())
        validator = Draft202012Validator(schema, registry=Resource.from_contents(schema) @ registry)
        for error in validator.iter_errors(document):
            return f"{release}: {error.message}"
    return None


@cache
def _schemas(release: str) -> tuple[Any, Registry[Any]]:
    """Return the folder of a release's schemas, and what all of them refer to.

    The package's own function reads the definitions anew for each object: seconds for each overlay.
    """
    root = files("kubernetes_validate") / "kubernetes-json-schema"
    folder = root / f"v{release}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text())
    return folder, (Resource.from_contents(definitions) @ Registry()).crawl()


@cache
def rendered(overlay: str) -> tuple[dict[str, Any], ...]:
    """Return the objects of an overlay, as `kubectl apply -k` would send them."""
    folder = DEPLOY / "k8s" / "overlays" / overlay
    ended = subprocess.run(
        [_BIN / "kubectl", "kustomize", folder], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return tuple(yaml.safe_load_all(ended.stdout))


def test_dockerfiles() -> None:
    assert _dockerfiles(DEPLOY) == ""


def test_scripts() -> None:
    assert _scripts(*_SCRIPTS) == ""


def test_yaml() -> None:
    assert len(_OWN_YAML) > 10
    assert _yaml_style(*_OWN_YAML) == ""


@pytest.mark.parametrize("name", ["compose.yaml", "compose.s3.yaml"])
def test_compose(name: str) -> None:
    assert _compose((DEPLOY / name).read_text()) == []


@pytest.mark.parametrize("overlay", _OVERLAYS)
def test_kubernetes(overlay: str) -> None:
    problems = {
        f"{it['kind']}/{it['metadata']['name']}": problem
        for it in rendered(overlay)
        if (problem := _kubernetes(it))
    }
    assert problems == {}


def _units(folder: Path) -> str:
    """Return what systemd says of copies whose programs are those of this environment."""
    for path in sorted((DEPLOY / "systemd").glob("dicom-*")):
        if path.suffix in {".service", ".target"} and not (folder / path.name).exists():
            text = path.read_text().replace("/opt/dicom-node/venv/bin", str(_BIN))
            (folder / path.name).write_text(text)
    analyse = shutil.which("systemd-analyze") or missing("systemd-analyze is not installed")
    return _run(analyse, "verify", *sorted(folder.glob("dicom-*")))


def test_units(tmp_path: Path) -> None:
    assert _units(tmp_path) == ""


def _is_closed(path: Path) -> bool:
    """Whether systemd finds a unit's sandbox tight enough."""
    analyse = shutil.which("systemd-analyze") or missing("systemd-analyze is not installed")
    security = [analyse, "security", "--offline=true", f"--threshold={_EXPOSURE}", path]
    return subprocess.run(security, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("path", _UNITS, ids=lambda path: path.stem)
def test_units_are_closed(path: Path) -> None:
    assert _is_closed(path)


def test_each_linter_finds_something(tmp_path: Path) -> None:
    """A linter that is content with everything is none."""
    (tmp_path / "Dockerfile.bad").write_text("FROM debian\nRUN cd /srv && apt-get install vim\n")
    assert "DL3006" in _dockerfiles(tmp_path)
    (tmp_path / "bad").write_text("#!/bin/bash\nrm $1\n")
    assert "SC2086" in _scripts(tmp_path / "bad")
    (tmp_path / "bad.yaml").write_text("one: 1\none: 2\n")
    assert "duplication of key" in _yaml_style(tmp_path / "bad.yaml")
    good = (DEPLOY / "compose.yaml").read_text()
    assert _compose(good.replace("read_only:", "readonly:"))
    assert _compose(good.replace("cap_drop: [ALL]", "cap_drop: ALL"))
    (tmp_path / "dicom-worker.service").write_text(
        (DEPLOY / "systemd" / "dicom-worker.service").read_text().replace("Restart=", "Restrat=")
    )
    said = _units(tmp_path)
    assert re.search(r"Unknown key.*'Restrat'", said)
    assert "/opt/dicom-node/venv/bin/dicom-worker is not executable" in said
    (tmp_path / "open.service").write_text("[Service]\nExecStart=/bin/true\nUser=nobody\n")
    assert not _is_closed(tmp_path / "open.service")


def test_the_schemas_find_something() -> None:
    objects = {(it["kind"], it["metadata"]["name"]): it for it in rendered("cpu")}
    for kind, name, wrong in (
        ("Deployment", "listen", {"replicas": "two"}),
        ("Deployment", "listen", {"replica": 2}),
        ("NetworkPolicy", "nothing", {"podSelectors": {}}),
        ("PodDisruptionBudget", "web", {"minAvailable": []}),
        ("ScaledObject", "worker", {"maxReplicaCount": "many"}),
        ("ScaledObject", "worker", {"maxReplicas": 3}),
    ):
        good = objects[kind, name]
        assert _kubernetes({**good, "spec": {**good["spec"], **wrong}}), wrong


@pytest.mark.parametrize("trigger", [0, 1])
def test_workers_are_scaled_on_numbers_that_the_node_has(trigger: int) -> None:
    scaled = next(it for it in rendered("cpu") if it["kind"] == "ScaledObject")
    query = scaled["spec"]["triggers"][trigger]["metadata"]["query"]
    named = re.findall(rf"{PREFIX}(\w+)", query)
    assert named
    assert set(named) <= set(HELP)
