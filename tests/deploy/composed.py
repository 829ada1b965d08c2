"""The services of compose.yaml as processes of this host: their own commands, users and files.

What a container runtime would do is done by `contain.sh`: a read-only root, secrets, settings and
volumes at the paths that the file names, the user of the image, no capabilities, host names of
services in /etc/hosts. Ports are others, since those of the file may be in use here.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from images import DEPLOY, PATH, REPOSITORY, Image, read_image
from servers import wait_until

CONTAIN = Path(__file__).with_name("contain.sh")
_HEALTHY_SECONDS = 240.0
_STOP_SECONDS = 90.0
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")


def read_compose(name: str = "compose.yaml", variables: Mapping[str, str] | None = None) -> Any:
    """Read a Compose file with its variables put in."""
    values = variables or {}

    def put_in(found: re.Match[str]) -> str:
        return values.get(found[1]) or (found[3] if found[2] == ":-" else "")

    text = _VARIABLE.sub(put_in, (DEPLOY / name).read_text().replace("$$", "$"))
    return yaml.safe_load(text)


def image_of(service: Mapping[str, Any]) -> Image:
    """Return the image that a service of ours is built as; of a foreign one nothing is known."""
    build = service.get("build")
    if build is None:
        return Image(user=service.get("user", "0:0"))
    return read_image(Path(build["dockerfile"]).name, build.get("target"))


@dataclass
class Host:
    """Where services run: a folder for each volume, files of secrets, and what differs here."""

    compose: Mapping[str, Any]
    folder: Path
    environment: Mapping[str, str]  # over that of every service of ours
    files: Mapping[str, Path] = field(default_factory=dict)  # of secrets and configs, by name
    commands: Mapping[str, list[str]] = field(default_factory=dict)  # in place of the file's
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _runs: int = 0

    def log_of(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def contained(
        self, name: str, command: list[str], log_name: str | None = None
    ) -> "subprocess.Popen[bytes]":
        """Start a command as in the container of a service."""
        service = self.compose["services"][name]
        image = image_of(service)
        self._runs += 1
        scratch = self.folder / f"scratch-{self._runs}"
        scratch.mkdir()
        line = ["unshare", "--mount", str(CONTAIN), str(scratch), *self._options(service, image)]
        environment = {"PATH": PATH, **image.environment}
        environment |= service.get("environment") or {}
        environment |= self.environment if "build" in service else {}
        with (self.folder / f"{log_name or name}.log").open("ab") as log:
            return subprocess.Popen(
                [*line, "--", *command],
                env={key: str(value) for key, value in environment.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _options(self, service: Mapping[str, Any], image: Image) -> list[str]:
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        options = ["--user", service["user"], "--workdir", image.workdir, "--tmpfs", "/run"]
        for each in service["tmpfs"]:
            options += ["--tmpfs", each.partition(":")[0]]
        for path in (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix)):
            options += ["--bind", f"{path}:{path}", "--reach", str(path)]
        binds = {f"/run/secrets/{it}": self.files[it] for it in service.get("secrets", [])}
        binds |= {it["target"]: self.files[it["source"]] for it in service.get("configs", [])}
        binds |= {"/etc/hosts": self.files["hosts"], "/opt/venv": Path(sys.prefix)}
        for volume in service.get("volumes", []):
            source, target = volume.split(":")
            binds[target] = self._volume(source, service["user"])
        for target, path in binds.items():
            options += ["--bind", f"{path}:{target}"]
        return options

    def _volume(self, name: str, user: str) -> Path:
        """Return the folder of a volume, owned as the image has its folder."""
        folder = self.folder / "volumes" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            owner, group = user.split(":")
            os.chown(folder, int(owner), int(group))
        return folder

    def start(self, *names: str) -> None:
        """Start services after those that they depend on, and wait until each is healthy."""
        for name in names:
            service = self.compose["services"][name]
            for other, when in service.get("depends_on", {}).items():
                if other not in self.processes:
                    self.start(other)
                if when["condition"] == "service_completed_successfully":
                    assert self.processes[other].wait(_STOP_SECONDS) == 0, self.log_of(other)
            if name in self.processes:
                continue
            command = [*image_of(service).entrypoint, *service["command"]]
            self.processes[name] = self.contained(name, self.commands.get(name, command))
        for name in names:
            if not self.compose["services"][name]["healthcheck"].get("disable"):
                wait_until(lambda name=name: self.is_healthy(name), _HEALTHY_SECONDS, name, 3.0)

    def is_healthy(self, name: str) -> bool:
        """Run the healthcheck of a service in its container. Raises when the service has ended."""
        process = self.processes[name]
        assert process.poll() is None, f"{name} ended: {self.log_of(name)[-3000:]}"
        test = self.compose["services"][name]["healthcheck"]["test"]
        command = test[1:] if test[0] == "CMD" else ["sh", "-c", *test[1:]]
        return self.contained(name, command, f"{name}-health").wait(_STOP_SECONDS) == 0

    def stop(self) -> dict[str, int]:
        """End every service as a container runtime does; return the exit statuses."""
        running = {name: it for name, it in self.processes.items() if it.poll() is None}
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        return {name: process.wait(_STOP_SECONDS) for name, process in running.items()}

    def kill(self) -> None:
        """End what is left, however it is."""
        for process in self.processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(_STOP_SECONDS)


@contextmanager
def running_host(**what: Any) -> Iterator[Host]:
    """Yield a host; at the end nothing of it runs."""
    host = Host(**what)
    host.folder.mkdir()
    try:
        yield host
    finally:
        host.kill()
        shutil.rmtree(host.folder / "volumes", ignore_errors=True)
