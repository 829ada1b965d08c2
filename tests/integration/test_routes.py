"""Results go where the routes say: planned, audited, corrected, and explained by the command."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from message_nodes import MessageBench, message_node
from message_peers import MllpPeer
from rejection_bench import STUDY, image
from rejection_notes import rejection_note

from dicom_node.cli import cli
from dicom_node.repair import repair
from dicom_node.routing import EARLIER
from models.audit import AuditAction
from models.result import Analysis
from models.states import ArtifactKind, DeliveryState, StudyState
from worker.sandbox import Sandbox

Make = Callable[..., MessageBench]
SENT = DeliveryState.SENT


@pytest.fixture
def peers() -> Iterator[dict[str, MllpPeer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(MllpPeer().running()) for name in ("ward", "er")}


@pytest.fixture
def node(
    listen: Any,
    redis_server: str,
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
    peers: dict[str, MllpPeer],
) -> Iterator[Make]:
    """Give a node with two receivers and these routes."""
    with ExitStack() as stack:

        def start(*routes: dict[str, Any]) -> MessageBench:
            monkeypatch.setenv("DICOM_NODE_ROUTES", json.dumps(routes))
            to = [{"name": name, "url": peer.url} for name, peer in peers.items()]
            return stack.enter_context(
                message_node(listen, redis_server, sandbox, monkeypatch, *to)
            )

        yield start


def _planned(it: MessageBench) -> list[dict[str, Any]]:
    return [details for _, details in it.events(AuditAction.DELIVERIES_PLANNED)]


def _rules_test(it: MessageBench, *arguments: str) -> list[dict[str, Any]]:
    data_dir = str(it.settings.data_dir)
    environment = {"DICOM_NODE_DATABASE_URL": it.settings.effective_database_url}
    command = ["rules", "test", "--data-dir", data_dir, "--json", *arguments]
    result = CliRunner().invoke(cli, command, env=environment, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_a_correction_follows_the_result_whatever_the_routes_say_now(
    node: Make, peers: dict[str, MllpPeer]
) -> None:
    it = node(
        {"name": "everything", "send_to": ["ward"]},
        {"name": "much", "min_percent": 12, "send_to": ["er"]},
    )
    little, much = image(1), image(2)
    it.send(little, much)
    it.run()
    percents = [row.opacity_percent_total for row in it.all(Analysis)]
    assert percents[0] < 12 < percents[1]
    assert _planned(it) == [
        {
            "artifacts": 4,
            "deliveries": 2,
            "routes": {"ward": ["everything"], "er": ["much"]},
        }
    ]
    it.send(rejection_note([much]))
    it.run()
    assert [len(peer.messages) for peer in peers.values()] == [2, 2]
    assert _planned(it)[1]["routes"] == {"ward": ["everything", EARLIER], "er": [EARLIER]}
    assert it.unbalanced == []
    rows = {(row["kind"], row["name"]): row for row in _rules_test(it, STUDY)}
    assert not rows["route", "much"]["matches"]
    assert rows["route", "much"]["why"][0].endswith("is not 12 % or more")
    assert rows["destination", "er"]["why"] == [EARLIER]
    asked = {row["name"]: row for row in _rules_test(it, "--percent", "60")}
    assert asked["er"]["why"] == ["much"]
    assert asked["much"]["matches"]


def test_a_study_without_any_opacity_can_be_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = [
        {"name": "some", "min_percent": 1, "last": True},
        {"name": "none", "bands": ["none"], "last": True},
    ]
    monkeypatch.setenv("DICOM_NODE_ROUTES", json.dumps(routes))
    command = ["rules", "test", "--data-dir", str(tmp_path), "--json"]
    result = CliRunner().invoke(cli, [*command, "--percent", "0"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert {row["name"]: row["matches"] for row in rows if row["kind"] == "route"} == {
        "none": True,
        "some": False,
    }
    assert CliRunner().invoke(cli, command).exit_code == 2


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_station_and_institution_are_read_from_the_images(
    node: Make, peers: dict[str, MllpPeer]
) -> None:
    it = node(
        {
            "name": "north",
            "institutions": ["Krankenhaus Nord*"],
            "stations": ["XR-?"],
            "send_to": ["er"],
        }
    )
    it.send(image(1, InstitutionName="Krankenhaus Nördlingen", StationName="XR-7"))
    it.run()
    assert [len(peer.messages) for peer in peers.values()] == [0, 0]
    it.send(image(2, InstitutionName="KRANKENHAUS NORD", StationName="XR-8"))
    it.run()
    assert [len(peer.messages) for peer in peers.values()] == [0, 1]
    assert it.of_kind(ArtifactKind.HL7) == [(1, SENT), (2, SENT)] or it.of_kind(
        ArtifactKind.HL7
    ) == [(1, DeliveryState.WITHDRAWN), (2, SENT)]
    (row,) = (it for it in _rules_test(it, STUDY) if it["kind"] == "route")
    assert row["why"] == [
        "station XR-7 and XR-8 is XR-?",
        "institution KRANKENHAUS NORD and Krankenhaus Nördlingen is Krankenhaus Nord*",
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_no_route_sends_is_done_and_balances(node: Make, peers: dict[str, MllpPeer]) -> None:
    it = node({"name": "other sender", "calling_aets": ["ELSE"], "send_to": ["er", "ward"]})
    it.send(image(1))
    it.run()
    assert it.study.state is StudyState.DELIVERED
    assert it.deliveries() == []
    assert _planned(it) == [{"artifacts": 3, "deliveries": 0}]
    assert it.unbalanced == []
    assert {each.repaired for each in repair(it.database, it.settings)} == {0}
    assert [len(peer.messages) for peer in peers.values()] == [0, 0]


def test_the_command_tells_models_from_routes(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(
        """
        rules = [{ calling_aet = "ICU", model = "unet-next" }]
        destinations = [{ name = "pacs", ae_title = "PACS", host = "h", port = 104 }]
        [[routes]]
        name = "intensive care"
        calling_aets = ["ICU"]
        bands = ["severe"]
        send_to = ["pacs"]
        """
    )

    def run(*arguments: str) -> Any:
        command = ["rules", "test", "--config", str(config), "--data-dir", str(tmp_path)]
        return CliRunner().invoke(cli, [*command, *arguments])

    rows = [json.loads(line) for line in run("--calling-ae", "ICU", "--json").output.splitlines()]
    assert [(row["kind"], row["name"], row["matches"]) for row in rows] == [
        ("model", "unet-next", True),
        ("route", "intensive care", False),
        ("destination", "pacs", False),
    ]
    assert rows[1]["why"] == ["band (none) is not severe"]
    assert "intensive care" in run("--calling-ae", "ICU", "--band", "severe").output
    assert "name a study" in run().output
    assert "no --band" in run("--not-analysed", "--band", "mild").output
