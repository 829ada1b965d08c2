"""The documents against the code: commands, options, settings, reasons."""

import os
import re
import shlex
from pathlib import Path

import click
import pytest
from pydantic import BaseModel

from dicom_node.cli import cli as node_cli
from models.reasons import Reason
from models.sections import DestinationSettings
from models.settings import Settings, load_settings
from models.states import DeliveryState, InstanceState, JobState, StudyState
from worker.cli import main as worker_cli

_ROOT = Path(__file__).resolve().parents[2]
_EXAMPLE = _ROOT / "deploy" / "node.example.toml"
_DOCS = sorted((_ROOT / "docs").glob("*.md"))
_PROGRAMS = {"dicom-node": node_cli, "dicom-worker": worker_cli}


@pytest.fixture
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("DICOM_NODE_"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_environment")
def test_example_settings_are_the_defaults() -> None:
    example = load_settings(_EXAMPLE)
    assert len(example.destinations) == 1
    assert example.model_dump(exclude={"destinations"}) == load_settings().model_dump(
        exclude={"destinations"}
    )


def _keys(model: type[BaseModel], section: str = "") -> list[tuple[str, str]]:
    """Return (section, key) of every leaf of the settings tree."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += _keys(kind, name)
        elif name == "destinations":
            found += _keys(DestinationSettings, name)
        else:
            found.append((section, name))
    return found


@pytest.mark.parametrize(("section", "key"), _keys(Settings))
def test_example_names_every_setting(section: str, key: str) -> None:
    blocks = re.split(r"^\[+(?:\w+\.)?(\w+)\]+.*$", _EXAMPLE.read_text(), flags=re.MULTILINE)
    texts = dict(zip(["", *blocks[1::2]], blocks[::2], strict=True))
    assert re.search(rf"^(# )?{key} = ", texts[section], flags=re.MULTILINE)


@pytest.mark.parametrize("reason", Reason)
def test_operations_explains_every_reason(reason: Reason) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (_ROOT / "docs/operations.md").read_text(), re.MULTILINE)
    assert rows.count(reason.value) == 1


@pytest.mark.parametrize("state", [*InstanceState, *StudyState, *JobState, *DeliveryState], ids=str)
def test_operations_explains_every_state(state: str) -> None:
    assert f"`{state}`" in (_ROOT / "docs/operations.md").read_text()


def _command_lines(text: str) -> list[list[str]]:
    """Return every command of ours in shell blocks and in `inline code`, as words."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"(?<!`)`((?:\S*/)?dicom-(?:node|worker) [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [each for each in words if each and Path(each[0]).name in _PROGRAMS]


_LINES = [
    line
    for name in ("README.md", "CHANGELOG.md", *(f"docs/{it.name}" for it in _DOCS))
    for line in _command_lines((_ROOT / name).read_text())
]


def test_documents_show_commands() -> None:
    assert ["dicom-node", "ledger"] in _LINES


@pytest.mark.parametrize("line", _LINES, ids=" ".join)
def test_documented_commands_and_options_exist(line: list[str]) -> None:
    command: click.Command = _PROGRAMS[Path(line[0]).name]
    options = [word for word in line[1:] if word.startswith("--")]
    for word in line[1:]:
        if not isinstance(command, click.Group) or word.startswith("-"):
            break
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"no command {word}"
        command = found
    known = {name for each in command.params for name in each.opts}
    assert set(options) <= known


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (_ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z-]+)", (_ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_readme_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (_ROOT / "README.md").read_text())
    assert "docs/overlay.png" in links
    assert [link for link in links if not (_ROOT / link).exists()] == []


def test_every_page_has_its_pictures_and_each_is_small() -> None:
    text = (_ROOT / "docs" / "pages.md").read_text()
    named = set(re.findall(r"screens/([\w-]+)-\d+-(?:dark|light)\.png", text))
    assert {"worklist", "study", "deliveries", "quarantine", "audit", "system", "models"} <= named
    wanted = {
        f"{name}-{width}-{colours}.png"
        for name in named
        for width in (1440, 800)
        for colours in ("dark", "light")
    }
    found = {path.name: path.stat().st_size for path in (_ROOT / "docs" / "screens").glob("*")}
    assert set(found) == wanted
    assert {name: size for name, size in found.items() if size > 150_000} == {}
