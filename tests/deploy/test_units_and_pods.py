"""The commands, variables and probes in units and manifests are those that the programs have."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from images import DEPLOY, read_image
from test_deploy_lint import rendered

from dicom_node.cli import cli as node_cli
from dicom_node.health import health
from models.secret_files import SECRETS
from models.settings import Settings, load_settings
from worker.cli import main as worker_cli

_PROGRAMS = {"dicom-node": node_cli, "dicom-worker": worker_cli}
_UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
_OVERLAYS = ("cpu", "gpu", "s3")
_ROLES = {"migrate", "listen", "dispatch", "deliver", "web", "worker"}


def _parse(command: list[str]) -> None:
    """Have click read a command line to its end, as the program would; nothing is run."""
    program = Path(command[0]).name
    if command[:3] == ["python", "-m", "dicom_node.health"]:
        health.make_context("health", command[3:], resilient_parsing=False)
        return
    context = click.Context(_PROGRAMS[program], info_name=program)
    words, found = command[1:], context.command
    while isinstance(found, click.Group):
        _, sub, words = found.resolve_command(context, list(words))
        assert sub is not None
        found = sub
    found.make_context(found.name, list(words))


def _require_known(variables: set[str]) -> None:
    """Fail on a variable of ours that no setting reads."""
    ours = {name.removeprefix("DICOM_NODE_") for name in variables if "DICOM_NODE_" in name}
    files = {f"{name.upper()}_FILE" for name in SECRETS}
    for name in ours - files - {"CONFIG"}:
        section, _, key = name.lower().partition("__")
        assert section in Settings.model_fields, name
        if key:
            assert key in type(Settings.model_fields[section].default).model_fields, name


def test_a_wrong_command_does_not_parse() -> None:
    for command in (["dicom-node", "lissen"], ["dicom-worker", "run", "--gpu"]):
        with pytest.raises(click.UsageError):
            _parse(command)
    with pytest.raises(click.UsageError):
        _parse(["python", "-m", "dicom_node.health", "listener"])
    with pytest.raises(AssertionError):
        _require_known({"DICOM_NODE_DICOM__PROT"})


@pytest.mark.parametrize("path", _UNITS, ids=lambda path: path.stem)
def test_units_start_what_there_is(path: Path) -> None:
    text = path.read_text()
    (line,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    _parse(shlex.split(line))
    assert line.startswith("/opt/dicom-node/venv/bin/")
    pairs = " ".join(re.findall(r"^Environment=(.+)$", text, re.MULTILINE)).split()
    _require_known({pair.partition("=")[0] for pair in pairs})
    credentials = set(re.findall(r"^LoadCredential=(\w+):", text, re.MULTILINE))
    assert credentials == set(re.findall(r"%d/(\w+)", text))
    assert credentials == (set() if path.stem == "dicom-node" else set(SECRETS))


def test_there_is_a_unit_for_every_role() -> None:
    names = {path.stem.removeprefix("dicom-").removeprefix("node-") for path in _UNITS}
    assert names == _ROLES | {"node"}


def _pods(overlay: str) -> dict[str, dict[str, Any]]:
    found = [it for it in rendered(overlay) if it["kind"] in {"Deployment", "Job"}]
    return {it["metadata"]["name"]: it["spec"]["template"]["spec"] for it in found}


@pytest.mark.parametrize("overlay", _OVERLAYS)
def test_pods_start_what_there_is(overlay: str) -> None:
    pods = _pods(overlay)
    assert set(pods) == _ROLES
    for name, pod in pods.items():
        (container,) = pod["containers"]
        program = "dicom-worker" if name == "worker" else "dicom-node"
        assert container["image"].partition(":")[0] == program
        _parse([program, *container["args"]])
        _require_known({each["name"] for each in container["env"]})
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if "exec" in container.get(probe, {}):
                _parse(container[probe]["exec"]["command"])
        ports = {each["name"] for each in container.get("ports", [])}
        assert ports == {"listen": {"dicom"}, "web": {"http"}}.get(name, set())


@pytest.mark.parametrize("overlay", _OVERLAYS)
def test_pods_are_closed(overlay: str) -> None:
    user = int(read_image("Dockerfile.node").user.partition(":")[0])
    for pod in _pods(overlay).values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        inside = pod["containers"][0]["securityContext"]
        assert inside["readOnlyRootFilesystem"] is True
        assert inside["allowPrivilegeEscalation"] is False
        assert inside["capabilities"] == {"drop": ["ALL"]}
        writable = {
            mount["mountPath"]
            for mount in pod["containers"][0]["volumeMounts"]
            if not mount.get("readOnly")
        }
        assert writable == {"/var/lib/dicom-node", "/tmp"}  # noqa: S108  a mount point


@pytest.mark.parametrize("overlay", _OVERLAYS)
def test_workers_reach_database_broker_and_storage_only(overlay: str) -> None:
    policies = [it for it in rendered(overlay) if it["kind"] == "NetworkPolicy"]
    worker = {"app.kubernetes.io/name": "dicom-node", "app.kubernetes.io/component": "worker"}

    def selects_worker(policy: dict[str, Any]) -> bool:
        wanted = policy["spec"]["podSelector"].get("matchLabels", {})
        return wanted.items() <= worker.items()

    mine = {it["metadata"]["name"]: it["spec"] for it in policies if selects_worker(it)}
    assert set(mine) == {"nothing", "names", "backing-services"} | (
        {"storage"} if overlay == "s3" else set()
    )
    assert mine["nothing"]["policyTypes"] == ["Ingress", "Egress"]
    ports = {port["port"] for spec in mine.values() for rule in spec.get("egress", [])
             for port in rule["ports"]}  # fmt: skip
    assert ports == {53, 5432, 6379} | ({9000, 443} if overlay == "s3" else set())
    assert not any(spec.get("ingress") for spec in mine.values())


def test_with_a_bucket_only_the_dispatcher_has_a_volume() -> None:
    claims = {
        name: [it["persistentVolumeClaim"]["claimName"] for it in pod["volumes"]
               if "persistentVolumeClaim" in it]
        for name, pod in _pods("s3").items()
    }  # fmt: skip
    assert claims == {name: [] for name in _ROLES} | {"dispatch": ["dicom-node-dispatch"]}
    made = [it for it in rendered("s3") if it["kind"] == "PersistentVolumeClaim"]
    assert [it["metadata"]["name"] for it in made] == ["dicom-node-dispatch"]


def test_the_gpu_s_workers_ask_for_one() -> None:
    (container,) = _pods("gpu")["worker"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"].endswith("-cuda")
    assert (
        read_image("Dockerfile.worker", "cuda").environment["DICOM_NODE_WORKER__DEVICE"] == "cuda"
    )


def test_no_secret_is_in_a_manifest_and_the_settings_are_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ:
        if name.startswith("DICOM_NODE_"):
            monkeypatch.delenv(name)
    for overlay in _OVERLAYS:
        assert not [it for it in rendered(overlay) if it["kind"] == "Secret"]
        assert not re.search(r"://[^/\s]*:[^/\s]*@", json.dumps(rendered(overlay)))
    maps = {it["metadata"]["name"].rpartition("-")[0]: it["data"]
            for it in rendered("s3") if it["kind"] == "ConfigMap"}  # fmt: skip
    (tmp_path / "node.toml").write_text(maps["dicom-node-settings"]["node.toml"])
    storage = maps["dicom-node-storage"]
    _require_known(set(storage))
    monkeypatch.setenv("DICOM_NODE_STORAGE_URL", storage["DICOM_NODE_STORAGE_URL"])
    monkeypatch.setenv("DICOM_NODE_DATABASE_URL", "postgresql+psycopg://node@postgres/node")
    settings = load_settings(tmp_path / "node.toml")
    assert settings.storage_url == "s3://dicom-node/prod"
    assert settings.web.open_metrics
