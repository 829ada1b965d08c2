"""dicom_node.conformance: the statement is current, complete, and says what the tables say."""

import os
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from dicom_node.cli import cli
from dicom_node.conformance import tables, ups
from dicom_node.conformance.parameters import SETTINGS, association_limits, configuration
from dicom_node.conformance.statement import render
from dicom_node.contexts import ACCEPTED, STORAGE_SYNTAXES
from dicom_node.errors import StoreError, WorkitemError
from dicom_node.listener import build_ae
from dicom_node.senders.base import Verdict
from dicom_node.senders.cstore import CStoreSender
from dicom_node.senders.stored import judge
from dicom_node.status import STORE_STATUS, store_status
from dicom_node.worklist.ups.statuses import UPS_STATUS, WARNINGS, ups_status
from models.analysis_sections import ObjectSettings
from models.identity import MADE_CLASSES
from models.people_sections import UpsSettings
from models.reasons import Reason
from models.sections import DeliverySettings, DicomSettings, QueryRetrieveSettings
from models.settings import Settings, load_settings

_STATEMENT = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"
_INTERNAL = {"delivery.poll_seconds", "delivery.lease_seconds"}  # nothing a peer could notice


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in os.environ:
        if name.startswith("DICOM_NODE_"):
            monkeypatch.delenv(name)
    return load_settings()


@pytest.fixture
def statement(defaults: Settings) -> str:
    return render(defaults)


def _rows(table: str) -> list[list[str]]:
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_the_document_is_current(statement: str) -> None:
    """Else: dicom-node conformance --out docs/conformance.md."""
    assert _STATEMENT.read_text(encoding="utf-8") == statement


@pytest.mark.usefixtures("defaults")
def test_the_command_prints_it_or_writes_it(statement: str, tmp_path: Path) -> None:
    out = tmp_path / "statement.md"
    printed = CliRunner().invoke(cli, ["conformance"])
    written = CliRunner().invoke(cli, ["conformance", "--out", str(out)])
    assert (printed.exit_code, printed.output) == (0, statement)
    assert (written.exit_code, written.output) == (0, "")
    assert out.read_text(encoding="utf-8") == statement


@pytest.mark.usefixtures("defaults")
def test_a_folder_that_is_not_there_ends_in_a_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["conformance", "--out", str(tmp_path / "no" / "file")])
    assert result.exit_code != 0
    assert "No such file" in result.output


def test_it_says_what_it_is_for(statement: str) -> None:
    assert "research use only, not a medical device" in statement
    assert "${" not in statement


def test_references_lead_to_headings(statement: str) -> None:
    headings = set(re.findall(r"^#+ ([0-9.]*[0-9])", statement, re.MULTILINE))
    named = set(re.findall(r"(?:[Ss]ee|in|of|derived,) ([4-9]\.[0-9.]*[0-9])", statement))
    assert {"4.2.1.2", "4.2.1.4.4", "9.1.1.4", "9.3.3"} <= named
    assert named <= headings


def test_headings_have_the_order_of_the_template(statement: str) -> None:
    found = re.findall(r"^#+ ([0-9.]*[0-9])", statement, re.MULTILINE)
    numbers = [tuple(map(int, each.split("."))) for each in found]
    assert numbers == sorted(set(numbers))
    assert [number[0] for number in numbers if len(number) == 1] == list(range(1, 10))


@pytest.mark.parametrize("uid", [*ACCEPTED, *STORAGE_SYNTAXES])
def test_every_uid_is_named(uid: str, statement: str) -> None:
    name = tables.name_of(tables.UID(uid))
    assert name != uid
    assert f"| {name} | `{uid}` |" in statement


def test_what_is_sent_is_received_too() -> None:
    """The table of SOP Classes has one row per accepted class."""
    assert set(ACCEPTED) >= MADE_CLASSES


def test_every_outcome_of_a_store_has_a_condition() -> None:
    assert tables.CONDITIONS.keys() == STORE_STATUS.keys()


def test_every_outcome_of_the_workitem_service_has_a_condition() -> None:
    assert ups.CONDITIONS.keys() == UPS_STATUS.keys()
    assert set(ups.PARTS) == set(ups._MADE_FROM)


def test_every_status_of_the_workitem_service_is_listed(statement: str) -> None:
    kinds = [kind for kind in _every_kind(WorkitemError) if kind is not WorkitemError]
    assert set(kinds) == {kind for kind in UPS_STATUS if issubclass(kind, WorkitemError)}
    listed = set(re.findall(r"0x[0-9A-F]{4}", ups.statuses()))
    answers = {ups_status(kind(), is_query=False) for kind in kinds}
    assert {f"0x{status:04X}" for status in (*answers, *WARNINGS)} <= listed
    assert ups.statuses() in statement


def _every_kind(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*map(_every_kind, kind.__subclasses__()))


def test_every_status_that_a_handler_can_answer_is_listed() -> None:
    listed = {row[0] for row in _rows(tables.given_statuses())}
    modules = ("builtins", "sqlalchemy.exc", "dicom_node.errors")
    kinds = {kind for kind in _every_kind(Exception) if kind.__module__ in modules}
    assert _every_kind(StoreError) <= kinds
    answers = {store_status(kind.__new__(kind, "", [Exception()])) for kind in kinds}
    assert {"`0x0000`", *(f"`0x{status:04X}`" for status in answers)} <= listed


def test_every_status_that_may_come_is_treated_as_listed() -> None:
    (stored, _), (again, _), (other, _) = _rows(tables.received_statuses())
    assert other == "any other"
    listed: dict[int, Verdict] = {}
    for cell, verdict in ((stored, Verdict.SENT), (again, Verdict.RETRY)):
        for part in cell.split(", "):
            first, *last = (int(it, 16) for it in re.findall(r"0x[0-9A-F]{4}", part))
            listed |= dict.fromkeys(range(first, (last or [first])[0] + 1), verdict)
    for status in range(0x10000):
        assert judge(1, status, "").verdict is listed.get(status, Verdict.REJECTED)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_is_listed(reason: Reason) -> None:
    assert f"`{reason}`" in {row[0] for row in _rows(tables.reasons())}


@pytest.mark.parametrize(
    ("section", "model"),
    [
        ("dicom", DicomSettings),
        ("delivery", DeliverySettings),
        ("objects", ObjectSettings),
        ("query_retrieve", QueryRetrieveSettings),
        ("worklist.ups", UpsSettings),
    ],
)
def test_every_setting_of_the_network_is_listed(section: str, model: type[BaseModel]) -> None:
    keys = {f"{section}.{name}" for name in model.model_fields}
    assert keys - _INTERNAL <= SETTINGS.keys()


def test_a_site_sees_its_own_values(defaults: Settings) -> None:
    assert "| Here |" not in configuration(defaults)
    tree = defaults.model_dump()
    tree["dicom"] |= {"ae_title": "CHEST", "max_pdu": 0, "allowed_calling_aets": ["A", "B"]}
    site = Settings.model_validate(tree)
    rows = {row[0]: row[2:] for row in _rows(configuration(site))}
    assert rows["`dicom.ae_title`"] == ["NODE", "CHEST"]
    assert rows["`dicom.allowed_calling_aets`"] == ["none", "A, B"]
    assert rows["`dicom.max_pdu`"] == ["1048576", "0"]
    assert "| storage SCP | CHEST | 11112 |" in render(site)


def test_limits_are_those_of_the_application_entities(defaults: Settings) -> None:
    rows = {row[0]: row[1:] for row in _rows(association_limits(defaults))}
    scp, scu = build_ae(defaults), CStoreSender("ANY", 30.0).build_ae()
    assert rows["Associations at once"][0] == str(scp.maximum_associations)
    assert rows["Network time-out, seconds"] == ["60", "30"]
    assert rows["Implementation Class UID"] == [f"`{scp.implementation_class_uid}`"] * 2
    assert rows["Largest PDU received, bytes"] == [
        str(scp.maximum_pdu_size),
        str(scu.maximum_pdu_size),
    ]
