"""`dicom-node worklist` and `dicom-node feedback` as a person at the host types them."""

import csv
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from readings import add_account, add_study, study_row
from rows import open_database, outcomes
from sqlalchemy import select

from dicom_node.cli import cli
from dicom_node.errors import ReadingError
from dicom_node.worklist.feedback import Opinion, give_feedback
from dicom_node.worklist.readings import Reader, claim
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.session import Database
from models.states import ReadingState, StudyState, Verdict

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _run(database: Database, *words: str) -> Result:
    environment = {"DICOM_NODE_DATABASE_URL": database.url.render_as_string(False)}
    folder = str(Path(database.url.database or "").parent)
    return CliRunner(env=environment).invoke(cli, [*words, "--data-dir", folder])


def _rows(database: Database, *words: str) -> list[dict[str, Any]]:
    result = _run(database, "worklist", "--json", *words)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_late_studies_stand_above_the_others(database: Database) -> None:
    figure = add_study(database, 30.0, caveats=("uncertain",))
    late = add_study(database, state=StudyState.OPEN, minutes_ago=60.0)
    none = add_study(database, state=StudyState.CLOSED, reason="lateral_view")
    rows = _rows(database)
    assert [row["study_instance_uid"] for row in rows] == [late, figure, none]
    assert [row["note"] for row in rows] == ["result late: read anyway", None, None]
    assert [row["percent"] for row in rows] == [None, 30.0, None]
    assert rows[2]["reasons"] == ["lateral_view"]
    assert rows[1]["caveats"] == ["uncertain"]
    assert rows[0]["state"] == "open"
    table = _run(database, "worklist").stdout
    assert "result late: read anyway" in table
    assert "lateral_view" in table
    sheet = list(csv.DictReader(io.StringIO(_run(database, "worklist", "--csv").stdout)))
    assert [row["percent"] for row in sheet] == ["", "30.0", ""]
    assert outcomes(database, AuditAction.PATIENT_DATA_READ) == ["worklist"] * 3


def test_the_filters_of_the_command_are_those_of_the_list(database: Database) -> None:
    uid = add_study(database, 30.0, patient_id="P7", accession_number="A7", calling_aet="CR1")
    read = add_study(database, 2.0)
    with database.write() as session:
        claim(session, read, Reader("anna"))
    now = utc_now().astimezone()
    for words in (
        ("--patient-id", "P7"),
        ("--accession", "A7"),
        ("--study-uid", uid),
        ("--min-percent", "25"),
        ("--state", "reported"),
        ("--band", "moderate"),
        ("--priority", "HIGH"),
        ("--sender", "CR1"),
        ("--since", f"{now - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"),
        ("--until", f"{now + timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"),
    ):
        assert [row["study_instance_uid"] for row in _rows(database, *words)] == [uid], words
    assert [row["reader"] for row in _rows(database, "--reading", "claimed")] == ["anna"]
    assert len(_rows(database, "--reading", "all")) == 2
    assert _rows(database, "--reader", "anna", "--reading", "all")[0]["reader"] == "anna"


def test_a_study_is_claimed_given_back_and_read_at_the_host(database: Database) -> None:
    uid = add_study(database, 30.0)
    for word, said, state in (
        ("claim", "claimed", ReadingState.CLAIMED),
        ("release", "given back", ReadingState.UNREAD),
        ("read", "read", ReadingState.READ),
        ("unread", "unread", ReadingState.UNREAD),
    ):
        result = _run(database, "worklist", word, uid)
        assert (result.exit_code, result.output) == (0, f"{said}\n")
        assert study_row(database, uid).reading_state is state
    with database.read() as session:
        actors = set(session.scalars(select(AuditEvent.actor)))
    assert len(actors) == 1
    assert None not in actors


def test_the_host_gives_back_what_another_claimed_but_reads_it_not(database: Database) -> None:
    uid = add_study(database, 30.0)
    with database.write() as session:
        claim(session, uid, Reader("anna"))
    assert isinstance(_run(database, "worklist", "read", uid).exception, ReadingError)
    assert _run(database, "worklist", "release", uid).exit_code == 0
    assert outcomes(database, AuditAction.STUDY_RELEASED) == ["forced"]


def test_feedback_is_summed_up_and_exported(database: Database, tmp_path: Path) -> None:
    add_account(database)
    uid = add_study(database, 30.0)
    with database.write() as session:
        give_feedback(session, uid, "anna", Opinion(Verdict.CORRECT, 20.0))
    result = _run(database, "feedback", "summary", "--json")
    (row,) = (json.loads(line) for line in result.stdout.splitlines())
    assert (row["model"], row["opinions"], row["mean_difference"]) == ("unet", 1, 10.0)
    result = _run(database, "feedback", "export", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "0 accepted, 0 to draw anew, 1 not here any more" in result.stdout
    assert "holds patient data" in result.stderr


def test_options_before_an_act_are_its_options_too(database_url: str, tmp_path: Path) -> None:
    with open_database(database_url) as database:
        uid = add_study(database, 30.0)
        environment = {"DICOM_NODE_DATABASE_URL": database_url}
        words = ["worklist", "--data-dir", str(tmp_path), "claim", uid]
        assert CliRunner(env=environment).invoke(cli, words).exit_code == 0
        assert study_row(database, uid).reading_state is ReadingState.CLAIMED
