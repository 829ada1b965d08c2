"""compose.yaml: its services run here by their own commands, and a study goes all the way."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import servers
from absent import missing
from composed import CONTAIN, Host, image_of, read_compose, running_host
from images import DEPLOY, REPOSITORY, read_image
from nodes import make_chest, store
from servers import free_port, wait_until

from dicom_node.demo.pacs import OrthancPacs
from models.settings import load_settings

_SEG, _SR = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"
_OURS = ("migrate", "listen", "dispatch", "deliver", "web", "worker-cpu")
_QUICK = {
    "DICOM_NODE_DICOM__MIN_FREE_BYTES": "0",
    "DICOM_NODE_DICOM__LISTENERS": "1",
    "DICOM_NODE_DISPATCH__SETTLE_SECONDS": "1",
    "DICOM_NODE_WORKER__TORCH_THREADS": "1",
}


@pytest.fixture(scope="module", autouse=True)
def _can_contain() -> None:
    """Mounting wants root."""
    probe = ["unshare", "--mount", "true"]
    if os.geteuid() or subprocess.run(probe, check=False).returncode:
        missing("root is needed to give each service files of its own")


@pytest.fixture
def secrets(tmp_path: Path, postgres_url: str) -> dict[str, Path]:
    """The files of make-secrets; the database's is that of the tests' server."""
    folder = tmp_path / "secrets"
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    names = ("database_password", "database_url", "broker_url", "redis.conf")
    files = {name: folder / name for name in names}
    assert {path.stat().st_mode & 0o777 for path in files.values()} == {0o444}
    _rewrite(files["database_url"], r"@postgres:5432/node$", "@" + _place(postgres_url))
    _rewrite(files["database_url"], r"//node:", "//postgres:")
    return files


def _place(postgres_url: str) -> str:
    port, database = re.search(r":(\d+)/(\w+)$", postgres_url).groups()  # type: ignore[union-attr]  # a URL of ours
    return f"postgres:{port}/{database}"


def _rewrite(path: Path, what: str, by: str) -> None:
    text, times = re.subn(what, by, path.read_text(), flags=re.MULTILINE)
    assert times == 1, path
    path.unlink()
    path.write_text(text)
    path.chmod(0o444)


def _own_copy(path: Path, folder: Path) -> Path:
    return Path(shutil.copy(path, folder / path.name))


@pytest.fixture
def host(
    tmp_path: Path, secrets: dict[str, Path], postgres_url: str, orthanc: OrthancPacs
) -> Iterator[Host]:
    """The host of one Compose project, with PostgreSQL and a PACS running and Redis to come."""
    compose = read_compose()
    settings = _own_copy(DEPLOY / "compose.node.toml", tmp_path)
    _rewrite(settings, "4242", orthanc.address.rpartition(":")[2])
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *compose["services"])))
    redis_port, dicom_port, web_port = (str(free_port()) for _ in range(3))
    _rewrite(secrets["broker_url"], "6379", redis_port)
    redis = servers.find_redis() or missing("no redis-server")
    command = [str(redis), *compose["services"]["redis"]["command"][1:], "--port", redis_port]
    check = compose["services"]["redis"]["healthcheck"]
    check["test"] = [it.replace("redis-cli", f"redis-cli -p {redis_port}") for it in check["test"]]
    ports = {"DICOM_NODE_DICOM__PORT": dicom_port, "DICOM_NODE_WEB__PORT": web_port}
    with running_host(
        compose=compose,
        folder=tmp_path / "host",
        environment=_QUICK | ports,
        files={**secrets, "node_settings": settings, "hosts": hosts},
        commands={"redis": [*command, "--bind", "127.0.0.1"]},
    ) as made:
        made.processes["postgres"] = _stand_in(postgres_url, compose)
        yield made


def _stand_in(postgres_url: str, compose: Any) -> "subprocess.Popen[bytes]":
    """Return a process for the service whose server the tests have running, once it is healthy."""
    test = compose["services"]["postgres"]["healthcheck"]["test"][1:]
    binaries = servers.find_postgres() or missing("no PostgreSQL")
    port = postgres_url.rpartition("/")[0].rpartition(":")[2]
    environment = {"PGPORT": port, "PATH": f"{binaries}:{os.environ['PATH']}"}
    assert subprocess.run(test, env=environment, check=False).returncode == 0
    compose["services"]["postgres"]["healthcheck"] = {"disable": True}
    return subprocess.Popen(["sleep", "infinity"], start_new_session=True)


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_study_goes_through_the_services(
    host: Host, orthanc: OrthancPacs, tmp_path: Path
) -> None:
    host.start("listen", "dispatch", "deliver", "web", "worker-cpu")
    port = int(host.environment["DICOM_NODE_DICOM__PORT"])
    assert store(port, make_chest(tmp_path / "chest.dcm")) == [0x0000]
    wanted = {_SEG, _SR}
    try:
        wait_until(
            lambda: wanted <= {each.sop_class_uid for each in orthanc.objects()}, 240, "SEG and SR"
        )
    except TimeoutError as error:
        logs = {name: host.log_of(name)[-1500:] for name in host.processes if name != "postgres"}
        raise AssertionError(logs) from error
    assert (host.folder / "volumes" / "data" / "audit.key").stat().st_uid == 10001
    ended = host.stop()
    assert {name: ended[name] for name in _OURS[1:]} == dict.fromkeys(_OURS[1:], 0)


def test_a_service_can_write_nowhere_else(tmp_path: Path, secrets: dict[str, Path]) -> None:
    """Test the test: the container that the services ran in is as closed as the file says."""
    files = {**secrets, "node_settings": DEPLOY / "compose.node.toml", "hosts": Path("/etc/hosts")}
    script = (
        "touch /var/lib/dicom-node/yes /tmp/yes || exit 10;"
        "touch /no /usr/no /etc/no /var/lib/no /opt/venv/no 2>/dev/null && exit 11;"
        '[ "$(id -u)" = 10001 ] || exit 12;'
        "grep -q '^CapBnd:.0*$' /proc/self/status || exit 13;"
        "grep -q '^NoNewPrivs:.1$' /proc/self/status || exit 14;"
        "[ -r /run/secrets/database_url ] || exit 15; [ -e /run/secrets/redis.conf ] && exit 16;"
        "exit 0"
    )
    with running_host(
        compose=read_compose(), folder=tmp_path / "host", environment={}, files=files
    ) as made:
        assert made.contained("listen", ["sh", "-c", script]).wait(60) == 0


def test_contained_options_are_known(tmp_path: Path) -> None:
    command = ["unshare", "--mount", CONTAIN, tmp_path, "--no-such", "option", "--", "true"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == 2


@pytest.mark.parametrize("name", sorted(read_compose()["services"]))
def test_every_service_is_hardened(name: str) -> None:
    service = read_compose()["services"][name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert ":latest" not in service["image"]
    assert ":" in service["image"].partition("/")[2] or ":" in service["image"]
    if name != "orthanc":  # the demo's PACS prepares its settings as root
        assert service["read_only"] is True
        assert int(service["user"].partition(":")[0]) > 0
    if name in _OURS:
        assert service["user"] == image_of(service).user


@pytest.mark.parametrize("name", _OURS)
def test_no_secret_is_in_an_environment_and_the_settings_are_valid(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secrets: dict[str, Path]
) -> None:
    service = read_compose()["services"][name]
    environment = image_of(service).environment | service["environment"]
    for key, value in environment.items():
        assert "password" not in f"{key}{value}".lower()
        if key.startswith("DICOM_NODE_"):
            file = secrets.get(Path(value).name, value) if key.endswith("_FILE") else value
            monkeypatch.setenv(key, str(file))
    monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path))
    settings = load_settings(DEPLOY / "compose.node.toml")
    assert settings.database_url == secrets["database_url"].read_text().strip()
    assert settings.web.behind_proxy
    assert settings.log.format == "json"


def test_workers_reach_the_inside_only() -> None:
    compose = read_compose()
    for name in ("worker-cpu", "worker-gpu", "postgres", "redis", "migrate"):
        assert compose["services"][name]["networks"] == ["inside"]
    assert compose["networks"]["inside"] == {"internal": True}


def test_the_bucket_is_for_every_role(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = read_compose("compose.s3.yaml", {"NODE_STORAGE_URL": "s3://bucket/node"})["services"]
    assert set(over) == {*_OURS, "worker-gpu"}
    for service in over.values():
        monkeypatch.setenv(
            "DICOM_NODE_STORAGE_URL", service["environment"]["DICOM_NODE_STORAGE_URL"]
        )
        monkeypatch.setenv("DICOM_NODE_DATABASE_URL", "postgresql+psycopg://node@db/node")
        monkeypatch.setenv("DICOM_NODE_DATA_DIR", str(tmp_path))
        assert load_settings().storage_url == "s3://bucket/node"


@pytest.mark.parametrize(
    ("file", "target"),
    [("Dockerfile.node", None), ("Dockerfile.worker", "cpu"), ("Dockerfile.worker", "cuda")],
)
def test_images_run_as_nobody_in_particular_and_know_their_health(
    file: str, target: str | None
) -> None:
    image = read_image(file, target)
    assert image.user == "10001:10001"
    assert image.entrypoint in (["dicom-node"], ["dicom-worker"])
    assert image.healthcheck[:3] == ["python", "-m", "dicom_node.health"]
    bases = re.findall(r"^ARG PYTHON=(\S+)$", (DEPLOY / file).read_text(), re.MULTILINE)
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases[0])


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.glob("Dockerfile.*")))
def test_what_an_image_copies_is_there_and_admitted(file: str) -> None:
    text = (DEPLOY / file).read_text()
    copied = {
        source.rstrip("/")
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied
    admitted = re.findall(r"^!(.+)$", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    for source in copied:
        assert (REPOSITORY / source).exists()
        assert any(source == each or source.startswith(f"{each}/") for each in admitted), source
    if "pyproject.toml" in copied:  # else the wheel lacks what it is to be made of
        project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
        assert {project["readme"], *project["license-files"]} <= copied
