"""`replay --dry-run`: which images a model saw, and what another one would say of them."""

from datetime import timedelta

import pytest
from click.testing import CliRunner
from rows import add_analysis, add_instance
from sqlalchemy import select, update

from dicom_node import comparison
from dicom_node.cli import cli
from dicom_node.ledger import compute
from dicom_node.quarantine import Operator
from dicom_node.rehearsal import Begun, Rehearsal, begin, waiting
from dicom_node.results import ResultFilter
from models.audit import AuditAction, AuditEvent
from models.base import utc_now
from models.imaging import Instance, Study
from models.job import Job
from models.result import Analysis, ModelVersion, ShadowAnalysis
from models.session import Database
from models.settings import load_settings
from models.states import InstanceState, JobKind, JobState, StudyState

BY = Operator("ann", "what would it say")
MONTH = timedelta(days=30)


@pytest.fixture
def node(emptied_database: Database) -> Database:
    """Three images: of two studies, one seen by an older version a month ago."""
    for study, model in (("1.1", "unet"), ("1.2", "unet"), ("1.2", "old")):
        image = add_instance(
            emptied_database, study_instance_uid=study, state=InstanceState.ANALYSED
        )
        add_analysis(emptied_database, image, 20.0, model=model)
    with emptied_database.write() as session:
        past = utc_now() - MONTH
        session.execute(update(Analysis).where(Analysis.id == 3).values(created_at=past))
        session.execute(update(ModelVersion).where(ModelVersion.id == 2).values(version="0.9"))
    return emptied_database


def _jobs(database: Database) -> list[tuple[int | None, JobState]]:
    with database.read() as session:
        rows = session.scalars(select(Job).order_by(Job.analysis_id))
        return [(it.analysis_id, it.state) for it in rows if it.kind is JobKind.SHADOW]


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Rehearsal("next"), [1, 2, 3]),
        (Rehearsal("next", seen_by="unet"), [1, 2]),
        (Rehearsal("next", seen_by="0.9"), [3]),
        (Rehearsal("next", seen_by="unet 1"), [1, 2]),
        (Rehearsal("next", seen_by="unet 2"), []),
        (Rehearsal("next", study_instance_uid="1.2"), [2, 3]),
        (Rehearsal("next", since=utc_now() - MONTH / 2), [1, 2]),
        (Rehearsal("next", until=utc_now() - MONTH / 2), [3]),
    ],
)
def test_it_repeats_what_is_meant_and_changes_nothing(
    node: Database, wanted: Rehearsal, meant: list[int]
) -> None:
    assert begin(node, wanted, BY) == Begun(len(meant), len(meant), 0)
    assert _jobs(node) == [(key, JobState.PENDING) for key in meant]
    assert waiting(node, wanted) == len(meant)
    with node.read() as session:
        assert set(session.scalars(select(Instance.state))) == {InstanceState.ANALYSED}
        assert set(session.scalars(select(Study.state))) == {StudyState.OPEN}
        replayed = AuditEvent.action == AuditAction.STUDY_REPLAYED
        event = session.scalars(select(AuditEvent).where(replayed)).one()
    assert (event.outcome, event.actor) == ("dry_run", "ann")
    assert event.details["model"] == "next"
    assert event.details["begun"] == len(meant)


def test_what_was_measured_is_not_measured_again_and_what_broke_is(node: Database) -> None:
    wanted = Rehearsal("next")
    begin(node, wanted, BY)
    with node.write() as session:
        numbers = {"severity": "severe", "opacity_percent_total": 60.0, "device": "cpu"}
        pixels = {f"{what}_pixels_{side}": 10 for what in ("lung", "opacity") for side in SIDES}
        done = session.scalars(select(Job).where(Job.analysis_id == 1)).one()
        done.state = JobState.DONE
        model = ModelVersion(name="next", version="2", sha256="a" * 64)
        session.add(
            ShadowAnalysis(
                job_id=done.id,
                model_version=model,
                configuration_hash="c" * 64,
                orientation_assumed=False,
                seconds=0.1,
                **numbers,
                **pixels,
            )
        )
        broken = session.scalars(select(Job).where(Job.analysis_id == 2)).one()
        broken.state, broken.error = JobState.DEAD, "worker_lost"
    assert begin(node, wanted, BY) == Begun(3, 1, 0)
    assert [state for _, state in _jobs(node)] == [
        JobState.DONE,
        JobState.PENDING,
        JobState.PENDING,
    ]
    with node.read() as session:
        rows = list(comparison.comparisons(session, ResultFilter(), *wanted.jobs()))
    assert [(row["status"], row["difference"]) for row in rows] == [
        ("compared", 40.0),
        ("pending", None),
        ("pending", None),
    ]
    assert rows[0]["shadow"]["version"] == "2"
    assert waiting(node, wanted) == 2


SIDES = ("total", "left", "right")


def test_purged_images_are_counted_and_left_out(node: Database) -> None:
    with node.write() as session:
        session.execute(update(Instance).where(Instance.id == 1).values(purged_at=utc_now()))
    assert begin(node, Rehearsal("next"), BY) == Begun(3, 2, 1)


def test_the_ledger_knows_these_jobs(node: Database, tmp_path: object) -> None:
    begin(node, Rehearsal("next"), BY)
    settings = load_settings(None, data_dir=tmp_path)
    lines = {line.name: line for line in compute(node, settings)}
    assert lines["shadow jobs"].balanced
    assert lines["shadow jobs"].parts["pending"] == 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dry-run"], "--dry-run needs --model"),
        ([], "name a study"),
        (["1.2", "--seen-by", "unet", "--no-wait"], "no_wait, seen_by go with --dry-run"),
    ],
)
def test_what_does_not_go_together_is_said(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(cli, ["replay", *arguments])
    assert done.exit_code == 2
    assert words in done.output
