"""An older database with rows becomes this release's, and nothing in it changes its meaning."""

from collections.abc import Iterator

import pytest
from alembic import command
from alembic.config import Config
from rows import count
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError

from migrations import schema
from models.imaging import Instance, Study
from models.job import Job
from models.result import Analysis, AnalysisCaveat, ModelVersion, ShadowAnalysis
from models.session import Database
from models.states import InstanceState, JobKind

NOW = "2026-01-02 03:04:05+00:00"
HASH = "a" * 64
OLD_ROWS = f"""
INSERT INTO study (id, study_instance_uid, state, calling_aet, created_at, last_received_at,
    revision) VALUES (1, '1.2.3', 'reported', 'PACS', '{NOW}', '{NOW}', 1);
INSERT INTO series (id, study_id, series_instance_uid) VALUES (1, 1, '1.2.3.4');
INSERT INTO instance (id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
    data_set_sha256, size_bytes, storage_key, state, calling_aet, called_aet, received_at)
    VALUES (1, 1, '1.2.3.4.5', '1.2', '1.2', '{HASH}', 1, 'key', 'analysed', 'PACS', 'NODE',
    '{NOW}');
INSERT INTO model_version (id, name, version, sha256, created_at)
    VALUES (1, 'unet', '1', '{HASH}', '{NOW}');
INSERT INTO analysis (id, instance_id, model_version_id, configuration_hash, severity,
    opacity_percent_total, lung_pixels_total, lung_pixels_left, lung_pixels_right,
    opacity_pixels_total, opacity_pixels_left, opacity_pixels_right, orientation_assumed, notes,
    device, seconds, created_at)
    VALUES (1, 1, 1, '{HASH}', 'mild', 12.5, 80, 40, 40, 10, 5, 5, FALSE, '[]', 'cpu', 0.5,
    '{NOW}');
INSERT INTO job (id, kind, state, priority, instance_id, model_selector, attempts, not_before,
    created_at) VALUES (1001, 'analyse', 'done', 0, 1, 'unet', 1, '{NOW}', '{NOW}');
INSERT INTO job (id, kind, state, priority, study_id, revision, attempts, not_before, created_at)
    VALUES (1002, 'report', 'dead', 0, 1, 1, 3, '{NOW}', '{NOW}')
"""  # noqa: S608  constants of this file

WITHOUT_SUBJECT = f"""
INSERT INTO job (kind, state, priority, attempts, not_before, created_at)
    VALUES ('analyse', 'done', 0, 0, '{NOW}', '{NOW}')
"""  # noqa: S608  constants of this file


SHADOW_ROWS = (
    f"""INSERT INTO job (id, kind, state, priority, analysis_id, model_selector, attempts,
    not_before, created_at)
    VALUES (1003, 'shadow', 'done', -10, 1, 'next', 1, '{NOW}', '{NOW}')""",  # noqa: S608  as above
    f"""INSERT INTO shadow_analysis (id, job_id, model_version_id, configuration_hash, severity,
    lung_pixels_total, lung_pixels_left, lung_pixels_right, opacity_pixels_total,
    opacity_pixels_left, opacity_pixels_right, orientation_assumed, notes, device, seconds,
    created_at) VALUES (1, 1003, 1, '{HASH}', 'mild', 1, 1, 1, 1, 1, 1, FALSE, '[]', 'cpu', 0.1,
    '{NOW}')""",  # noqa: S608  as above
)

QUESTION = """
INSERT INTO commitment_order (id, transaction_uid, calling_aet, instances, is_duplicate, state,
    attempts, next_attempt_at, asked_at) VALUES (1, '2.25.1', 'CR1',
    '[["1.2", "1.2.3.4.5"], ["1.2", "1.2.9"]]', FALSE, 'accepted', 1, :now, :now)
"""


def _migrate(database: Database, to: str, step: str = "upgrade") -> None:
    config = Config(schema._config().config_file_name)
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        {"upgrade": command.upgrade, "downgrade": command.downgrade}[step](config, to)


@pytest.fixture
def old(bare_database_url: str) -> Iterator[Database]:
    """A database of the first release, with one study in it."""
    database = Database(bare_database_url)
    _migrate(database, "0001")
    with database.write() as session:
        for statement in OLD_ROWS.split(";\n"):
            session.execute(text(statement))
    yield database
    database.dispose()


def _jobs(database: Database) -> list[tuple[object, ...]]:
    query = "SELECT id, kind, state, instance_id, study_id, attempts FROM job ORDER BY id"
    with database.read() as session:
        return [tuple(row) for row in session.execute(text(query))]


def test_old_rows_stay_and_new_columns_are_empty(old: Database) -> None:
    before = _jobs(old)
    schema.upgrade(old)
    assert _jobs(old) == before
    with old.read() as session:
        analysis = session.scalars(select(Analysis)).one()
        assert (analysis.opacity_percent_total, analysis.severity) == (12.5, "mild")
        assert analysis.severity_left is analysis.zone_score_total is None
        assert analysis.caveats == []
    assert count(old, ShadowAnalysis) == count(old, AnalysisCaveat) == 0


def test_the_newest_analysis_counts_and_its_model_gives_the_figure(old: Database) -> None:
    """One of several counts since then, by constraint; a study names the model of its figure."""
    again = (
        OLD_ROWS.split(";\n")[4].replace("VALUES (1, 1, 1", "VALUES (2, 1, 2").replace("12.5", "20")
    )
    with old.write() as session:
        session.execute(
            text("INSERT INTO model_version VALUES (2, 'unet', '2', 'b', :now)"), {"now": NOW}
        )
        session.execute(text(again))
        session.execute(text("UPDATE study SET opacity_percent = 20.0, severity = 'mild'"))
    schema.upgrade(old)
    with old.read() as session:
        analyses = session.scalars(select(Analysis).order_by(Analysis.id)).all()
        assert [(row.id, row.is_replaced) for row in analyses] == [(1, True), (2, False)]
        study = session.scalars(select(Study)).one()
        assert (study.model_version_id, study.reading_order) == (2, -20.0)
    with pytest.raises(IntegrityError), old.write() as session:
        session.execute(text("UPDATE analysis SET is_replaced = FALSE"))


def test_the_revision_is_read_while_another_writes(old: Database) -> None:
    with old.write() as session:
        session.execute(text("UPDATE study SET revision = 1"))
        assert schema.current_revision(old) == "0001"


def test_the_tables_are_those_of_the_models(old: Database) -> None:
    schema.upgrade(old)
    config = Config(schema._config().config_file_name)
    with old.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.check(config)


@pytest.mark.parametrize(
    "subject",
    [
        {"instance_id": 1},
        {"analysis_id": 1},
        {"analysis_id": 1, "instance_id": 1, "model_selector": "m"},
    ],
)
def test_a_shadow_job_is_about_an_analysis_and_nothing_else(
    old: Database, subject: dict[str, object]
) -> None:
    schema.upgrade(old)
    with pytest.raises(IntegrityError, match="subject"), old.write() as session:
        session.add(Job(kind=JobKind.SHADOW, **subject))


def test_one_shadow_job_per_analysis_and_model_and_one_result_per_job(old: Database) -> None:
    schema.upgrade(old)
    shadow = {"kind": JobKind.SHADOW, "analysis_id": 1, "model_selector": "next"}
    with old.write() as session:
        session.add(Job(**shadow))
    with pytest.raises(IntegrityError, match="model_selector"), old.write() as session:
        session.add(Job(**shadow))
    with old.read() as session:
        model = session.scalars(select(ModelVersion)).one()
        job = session.scalars(select(Job).where(Job.kind == JobKind.SHADOW)).one()
    with old.write() as session:
        session.add(_figures(job, model))
    with pytest.raises(IntegrityError, match="job_id"), old.write() as session:
        session.add(_figures(job, model))


def _figures(job: Job, model: ModelVersion) -> ShadowAnalysis:
    pixels = {
        f"{what}_pixels_{side}": 1
        for what in ("lung", "opacity")
        for side in ("total", "left", "right")
    }
    return ShadowAnalysis(
        job_id=job.id,
        model_version_id=model.id,
        configuration_hash=HASH,
        severity="mild",
        orientation_assumed=False,
        device="cpu",
        seconds=0.1,
        **pixels,
    )


def test_one_row_of_a_uid_counts_whatever_the_others_are(old: Database) -> None:
    schema.upgrade(old)

    def again(number: int, state: InstanceState) -> None:
        with old.write() as session:
            row = Instance(
                id=100 + number,
                series_id=1,
                sop_instance_uid="1.2.3.4.5",
                sop_class_uid="1.2",
                transfer_syntax_uid="1.2",
                data_set_sha256=f"{number:064}",
                size_bytes=1,
                storage_key=str(number),
                state=state,
                calling_aet="PACS",
                called_aet="NODE",
                supersedes_id=1,
            )
            session.add(row)

    again(1, InstanceState.SUPERSEDED)
    again(2, InstanceState.QUARANTINED)
    with pytest.raises(IntegrityError, match="sop_instance_uid"):
        again(3, InstanceState.QUEUED)


def test_one_analyse_job_per_identity_and_compare_jobs_without_a_model(old: Database) -> None:
    schema.upgrade(old)
    analyse = {"kind": JobKind.ANALYSE, "instance_id": 1, "model_selector": "unet"}
    with old.write() as session:
        session.add(Job(**analyse, identity_revision=1))
        session.add(Job(kind=JobKind.COMPARE, instance_id=1))
    with pytest.raises(IntegrityError, match="identity_revision"), old.write() as session:
        session.add(Job(**analyse, identity_revision=1))
    with pytest.raises(IntegrityError, match="subject"), old.write() as session:
        session.add(Job(kind=JobKind.COMPARE, instance_id=1, model_selector="unet"))


def test_a_shadow_result_stays_when_the_table_of_its_job_is_copied(old: Database) -> None:
    _migrate(old, "0004")
    with old.write() as session:
        session.execute(text(SHADOW_ROWS[0]))
        session.execute(text(SHADOW_ROWS[1]))
    schema.upgrade(old)
    _migrate(old, "0004", "downgrade")
    schema.upgrade(old)
    with old.read() as session:
        row = session.scalars(select(ShadowAnalysis)).one()
        assert (row.job_id, row.job.kind, row.device) == (1003, JobKind.SHADOW, "cpu")
    with pytest.raises(IntegrityError), old.write() as session:
        session.execute(text("DELETE FROM job WHERE id = 1003"))


def test_going_back_keeps_what_the_first_release_knew(old: Database) -> None:
    before = _jobs(old)
    schema.upgrade(old)
    with old.write() as session:
        session.add(Job(kind=JobKind.SHADOW, analysis_id=1, model_selector="next"))
    _migrate(old, "0001", "downgrade")
    assert _jobs(old) == before
    with pytest.raises(IntegrityError, match="subject"), old.write() as session:
        session.execute(text(WITHOUT_SUBJECT))


def test_what_was_promised_to_senders_before_retention_is_kept(old: Database) -> None:
    _migrate(old, "0006")
    with old.write() as session:
        session.execute(text(QUESTION), {"now": NOW})
    schema.upgrade(old)
    with old.read() as session:
        row = session.scalars(select(Instance)).one()
        assert row.promised_at is not None
        assert row.purged_at is row.stored_at is row.damaged_at is None
