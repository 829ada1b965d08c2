"""`dicom-node audit` and its subcommands, as an operator runs them."""

import csv
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from audit_schema import Read
from audits import SealedAudit, events_in
from click.testing import CliRunner, Result
from rows import open_database

from dicom_node.audit.gauges import audit_gauges
from dicom_node.cli import cli
from models.audit import AuditAction, record
from models.base import utc_now
from models.settings import load_settings


@pytest.fixture
def audit(tmp_path: Path) -> Any:
    settings = load_settings(None, data_dir=tmp_path / "data")
    with open_database(settings.effective_database_url) as database:
        audit = SealedAudit(database, settings)
        audit.sealed(3, 2)
        yield audit


def _run(audit: SealedAudit, *arguments: str, **options: Any) -> Result:
    line = ["audit", "--data-dir", str(audit.settings.data_dir), *arguments]
    return CliRunner().invoke(cli, line, **options)


def _last(audit: SealedAudit) -> Any:
    return events_in(audit.database)[-1]


def test_alone_it_lists_newest_first_and_says_so_in_the_audit(audit: SealedAudit) -> None:
    done = _run(audit, "--json", "--patient-id", "P1", "--limit", "2")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["id"], row["seal"]) for row in rows] == [(6, None), (5, 2)]  # itself too
    use = _last(audit)
    assert (use.action, use.outcome) == (AuditAction.AUDIT_READ, "command")
    assert use.actor
    assert use.details == {}
    assert use.patient == {"patient_id": "P1"}


def test_as_csv_every_row_has_the_same_columns(audit: SealedAudit) -> None:
    with audit.database.write() as session:
        record(session, AuditAction.QUERY, "success", details={"other": "=1+1"})
    done = _run(audit, "--csv")
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert len(rows) == 7
    assert json.loads(rows[1]["details"]) == {"other": "=1+1"}
    assert {row["patient_id"] for row in rows[2:]} == {"P1"}


def test_as_a_table_it_stops_and_says_that_it_does(audit: SealedAudit) -> None:
    audit.add(250)
    done = _run(audit)
    assert done.stdout.count("instance_stored") == 199  # and its own event
    assert "the newest 200; there are older ones" in done.stderr
    assert "older ones" not in _run(audit, "--limit", "1000").stderr


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("--action", "query"), 0),
        (("--ae", "CR1", "--outcome", "stored"), 5),
        (("--study-uid", "1.2.3", "--since", "2020-01-01"), 6),  # and itself
        (("--until", "2020-01-01"), 0),
        (("--user", "nobody"), 0),
        (("--model", "unet"), 0),
        (("--accession", "A1"), 0),
    ],
)
def test_filters(audit: SealedAudit, arguments: tuple[str, ...], found: int) -> None:
    done = _run(audit, "--json", *arguments)
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == found


def test_verify_says_that_it_is_sound(audit: SealedAudit) -> None:
    done = _run(audit, "verify")
    assert done.exit_code == 0, done.output
    assert done.stdout == "sound: 5 events under 2 seals were looked at\n"
    event = _last(audit)
    assert (event.action, event.outcome) == (AuditAction.AUDIT_VERIFIED, "sound")
    assert event.details == {"findings": 0, "kinds": {}, "events": 5, "seals": 2}


def test_the_data_folder_may_stand_before_and_behind_the_name(audit: SealedAudit) -> None:
    folder = str(audit.settings.data_dir)
    done = CliRunner().invoke(cli, ["audit", "verify", "--data-dir", folder])
    assert done.exit_code == 0, done.output
    assert "sound" in done.stdout


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE audit_event SET outcome = 'duplicate' WHERE id = 2", "event 2 was changed"),
        ("DELETE FROM audit_event WHERE id = 4", "event 4 was deleted"),
    ],
)
def test_verify_says_what_is_wrong_and_where(
    audit: SealedAudit, statement: str, words: str
) -> None:
    audit.sql(statement)
    done = _run(audit, "verify")
    assert done.exit_code == 1
    assert words in done.stdout
    assert "1 findings: 5 events under 2 seals were looked at" in done.stdout
    done = _run(audit, "verify", "--json")
    (row,) = map(json.loads, done.stdout.splitlines())
    assert words in row["what"]
    assert row["kind"].startswith("event_")
    assert row["at"]


def test_a_proof_with_a_time_to_come_hides_no_later_one(audit: SealedAudit) -> None:
    with audit.database.write() as session:
        later = utc_now() + timedelta(days=400)
        record(session, AuditAction.AUDIT_VERIFIED, "sound", at=later, details={"findings": 0})
    audit.sql("DELETE FROM audit_event WHERE id = 4")
    assert _run(audit, "verify").exit_code == 1
    with audit.database.read() as session:
        assert audit_gauges(session).verify_findings == 1


def test_verify_against_an_anchor_from_elsewhere(audit: SealedAudit, tmp_path: Path) -> None:
    kept = tmp_path / "kept.log"
    kept.write_text(audit.anchor.read_text())
    audit.sql("DELETE FROM audit_mark WHERE seal_number = 2")
    audit.sql("DELETE FROM audit_seal WHERE number = 2")
    audit.sql("DELETE FROM audit_event WHERE id > 3")
    audit.anchor.write_text(audit.anchor.read_text().splitlines(keepends=True)[0])
    assert _run(audit, "verify").exit_code == 0
    done = _run(audit, "verify", "--anchor", str(kept))
    assert done.exit_code == 1
    assert "the tail was cut after seal 1" in done.stdout


def test_without_its_key_nothing_is_proved(audit: SealedAudit) -> None:
    audit.key.unlink()
    done = _run(audit, "verify")
    assert done.exit_code == 1
    assert "the key of the audit is not at" in str(done.exception)


def test_redact_asks_first(audit: SealedAudit) -> None:
    done = _run(audit, "redact", "--patient-id", "P1", "--reason", "request 17", input="n\n")
    assert done.exit_code == 1
    assert "5 events lose their patient data for good" in done.stdout
    assert events_in(audit.database)[0].patient_id == "P1"
    done = _run(audit, "redact", "--patient-id", "P1", "--reason", "request 17", "--yes")
    assert done.stdout == "5 events redacted\n"
    assert {event.patient_id for event in events_in(audit.database)} == {None}
    assert _run(audit, "verify").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--reason", "x"), "say whose data goes"),
        (("--patient-id", "P9", "--reason", "x"), "nothing to redact"),
        (("--patient-id", "P1", "--reason", "  "), "must say why"),
    ],
)
def test_redact_refuses_what_says_nothing(
    audit: SealedAudit, arguments: tuple[str, ...], words: str
) -> None:
    done = _run(audit, "redact", "--yes", *arguments)
    assert done.exit_code != 0
    assert words in done.output + str(done.exception)


def test_export_in_every_format(audit: SealedAudit, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert _run(audit, "export", "--format", "ndjson", "--out", str(out)).exit_code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["action"] == "audit_exported"
    done = _run(audit, "export", "--format", "csv", "--action", "instance_stored")
    assert [row["id"] for row in csv.DictReader(done.stdout.splitlines())] == list("12345")
    done = _run(audit, "export", "--format", "dicom", "--patient-id", "P1")
    stored, use = (Read.of(line.encode()) for line in done.stdout.splitlines())
    assert stored.event == ("110104", "C", "0")
    assert [each[0] for each in stored.objects] == ["1.2.3", "P1"]
    assert use.event == ("110101", "R", "0")


def test_a_rotated_key_seals_and_all_is_proved(audit: SealedAudit) -> None:
    done = _run(audit, "rotate-key")
    assert "seals from now on" in done.stdout
    audit.add()
    assert audit.seal() == 2
    done = _run(audit, "verify")
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("line", "what", "details"),
    [
        (["results", "--patient-id", "P1", "--state", "failed"], "results", {"state": "failed"}),
        (["quarantine", "list", "--patient-id", "P1"], "quarantine", {"with_rejected": "False"}),
    ],
)
def test_other_listings_with_patients_are_recorded_too(
    audit: SealedAudit, line: list[str], what: str, details: dict[str, str]
) -> None:
    done = CliRunner().invoke(cli, [*line, "--data-dir", str(audit.settings.data_dir)])
    assert done.exit_code == 0, done.output
    event = _last(audit)
    assert (event.action, event.outcome) == (AuditAction.PATIENT_DATA_READ, what)
    assert event.actor
    assert (event.details, event.patient) == (details, {"patient_id": "P1"})
