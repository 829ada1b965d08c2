"""`dicom-node retry --all`: reports that were given up are written again."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from rows import add_instance, open_database, outcomes
from sqlalchemy import select, update

from dicom_node.cli import cli
from dicom_node.quarantine import Operator
from models.audit import AuditAction, AuditEvent
from models.imaging import Study
from models.job import Job
from models.settings import load_settings
from models.states import JobKind, JobState, StudyState


@pytest.mark.parametrize(
    ("study", "revision", "state", "again"),
    [
        (StudyState.SETTLED, 2, JobState.DEAD, True),
        (StudyState.SETTLED, 1, JobState.DEAD, False),
        (StudyState.OPEN, 2, JobState.DEAD, False),
        (StudyState.SETTLED, 2, JobState.FAILED, False),
    ],
)
def test_it_is_so_for_the_newest_revision_of_a_settled_study(
    tmp_path: Path,
    study: StudyState,
    revision: int,
    state: JobState,
    again: bool,  # noqa: FBT001  a table
) -> None:
    settings = load_settings(None, data_dir=tmp_path)
    with open_database(settings.effective_database_url) as database:
        add_instance(database)
        with database.write() as session:
            session.execute(update(Study).values(state=study, revision=2))
            job = Job(kind=JobKind.REPORT, study_id=1, revision=revision, state=state, attempts=3)
            session.add(job)
        said = CliRunner().invoke(cli, ["retry", "--all", "--data-dir", str(tmp_path)])
        assert said.exit_code == 0, said.output
        assert ("1 to be reported again" in said.output) is again
        with database.read() as session:
            row = session.scalars(select(Job)).one()
            by = select(AuditEvent.actor).where(AuditEvent.action == AuditAction.REPORT_DUE_AGAIN)
            assert list(session.scalars(by)) == [Operator.of_this_process("").name] * again
        expected = (JobState.PENDING, 0) if again else (state, 3)
        assert (row.state, row.attempts) == expected
        assert outcomes(database, AuditAction.REPORT_DUE_AGAIN) == ["due"] * again
