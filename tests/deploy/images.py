"""What a Dockerfile says of how its image runs; enough of the format for our own files."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
DEPLOY = REPOSITORY / "deploy"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of Debian's images


@dataclass
class Image:
    """The run-time half of one stage, what it takes from the stage below it included."""

    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"


def read_image(name: str, target: str | None = None) -> Image:
    """Read a stage of deploy/NAME, by default the last one."""
    text = re.sub(r"\\\n", " ", (DEPLOY / name).read_text())
    stages: dict[str, Image] = {}
    image = Image()
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            source, _, stage = rest.partition(" AS ")
            below = stages.get(source, Image())
            image = Image(**{**vars(below), "environment": dict(below.environment)})
            stages[stage or "(last)"] = image
        elif word in {"ENTRYPOINT", "CMD"}:
            setattr(image, {"CMD": "command"}.get(word, "entrypoint"), json.loads(rest))
        elif word == "HEALTHCHECK":
            image.healthcheck = json.loads(rest[rest.index("[") :])
        elif word == "ENV":
            words = shlex.split(rest.replace("$PATH", PATH))
            image.environment |= dict(each.split("=", 1) for each in words)
        elif word == "USER":
            image.user = rest
        elif word == "WORKDIR":
            image.workdir = rest
    return stages[target] if target else image
