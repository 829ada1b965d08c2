"""Alert rules and dashboard against the metrics, the documents, and `promtool` where it is."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import find_program

from dicom_node.web.metrics import HELP
from dicom_node.web.metrics.table import PREFIX
from models.audit import AuditAction

_ROOT = Path(__file__).resolve().parents[3]
_FOLDER = _ROOT / "deploy" / "monitoring"
_HISTOGRAMS = {"opacity_percent", "analysis_seconds", "analysis_stage_seconds"}
_SAMPLES = {f"{name}_{end}" for name in _HISTOGRAMS for end in ("bucket", "sum", "count")}
_RULES = [
    rule
    for group in yaml.safe_load((_FOLDER / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
_DASHBOARD = json.loads((_FOLDER / "dashboard.json").read_text())
_PANELS = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]


def _expressions() -> Iterator[tuple[str, str]]:
    for panel in _PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def _unknown(expression: str) -> set[str]:
    """Return the names in an expression that are no sample of ours."""
    named = {word.removeprefix(PREFIX) for word in re.findall(rf"{PREFIX}\w+", expression)}
    return named - (HELP.keys() - _HISTOGRAMS) - _SAMPLES


def _anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub and Grafana make them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("rule", _RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_what_for_how_bad_and_where_to_read(rule: dict[str, Any]) -> None:
    assert _unknown(rule["expr"]) == set()
    assert PREFIX in rule["expr"]
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    assert rule["labels"] in ({"severity": "page"}, {"severity": "ticket"})
    summary = rule["annotations"]["summary"]
    assert summary.endswith(".")
    assert ". " not in summary.replace("{{ ", "").replace(" }}", "")  # one sentence
    document, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor in _anchors(_ROOT / document)


def test_every_alarm_of_the_document_has_a_rule() -> None:
    text = (_ROOT / "docs" / "operations.md").read_text()
    rows = re.findall(r"^\| `(DicomNode\w+)` \| (page|ticket) \|", text, re.MULTILINE)
    assert dict(rows) == {rule["alert"]: rule["labels"]["severity"] for rule in _RULES}


def test_every_rule_has_a_test_of_its_own() -> None:
    tests = yaml.safe_load((_FOLDER / "alerts.test.yml").read_text())["tests"]
    fires = {
        case["alertname"]
        for test in tests
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    quiet = {case["alertname"] for case in tests[-1]["alert_rule_test"] if not case["exp_alerts"]}
    assert fires == quiet == {rule["alert"] for rule in _RULES}


@pytest.mark.parametrize(("panel", "expression"), list(_expressions()))
def test_a_panel_asks_for_metrics_that_exist(panel: str, expression: str) -> None:
    assert _unknown(expression) == set(), panel
    assert 'instance=~"$instance"' in expression
    actions = re.findall(r'action=~?"([\w|]+)"', expression)
    named = {name for each in actions for name in each.split("|")}
    assert named <= {action.value for action in AuditAction}


def test_the_dashboard_is_one_that_grafana_takes() -> None:
    assert _DASHBOARD["schemaVersion"] >= 39  # Grafana 10 and newer
    assert _DASHBOARD["id"] is None  # the one who imports it gives it one
    variables = {it["name"]: it for it in _DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for panel in _PANELS:
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(it == {"type": "prometheus", "uid": "${datasource}"} for it in sources)
        assert panel["title"]
        assert panel["description"]
    ids = [panel["id"] for panel in _DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    rows = [it["title"] for it in _DASHBOARD["panels"] if it["type"] == "row"]
    assert [title.partition("?")[0] for title in rows] == [
        "Is everything flowing",
        "What is stuck",
        "Does the model behave",
    ]


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _DASHBOARD["panels"]:
        at = panel["gridPos"]
        places = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not places & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= places


def _promtool(*arguments: str, text: str | None = None) -> None:
    program = find_program("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        [program, *arguments], cwd=_FOLDER, input=text, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_takes_the_rules_and_sees_them_fire() -> None:
    _promtool("check", "config", "prometheus.yml")
    _promtool("test", "rules", "alerts.test.yml")


def test_promtool_takes_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": each} for n, (_, each) in enumerate(_expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    _promtool("check", "rules", str(file))
