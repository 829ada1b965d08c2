"""Filters of the lists are served by their indexes, on PostgreSQL, in the words it recognises."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
from rows import open_database
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from dicom_node.deliveries import DeliveryFilter, delivery_page
from dicom_node.results import ResultFilter, ResultSort, result_page
from dicom_node.studies import StudyFilter, StudySort, studies
from models.base import utc_now
from models.session import Database
from models.settings import Settings, load_settings
from models.states import DeliveryState, StudyState

_ROWS = 6000
_FILL = f"""
INSERT INTO model_version (id, name, version, sha256, created_at)
    VALUES (1, 'unet', '1', 'x', now()), (2, 'other', '1', 'y', now());
INSERT INTO destination (id, name, ae_title, host, port, enabled)
    VALUES (1, 'PACS', 'PACS', 'h', 104, TRUE), (2, 'RARE', 'RARE', 'h', 104, TRUE);
INSERT INTO study (id, study_instance_uid, state, patient_id, accession_number, study_date,
        calling_aet, created_at, last_received_at, revision, reading_order, severity,
        opacity_percent, model_version_id)
    SELECT g, '1.2.' || g, CASE WHEN g % 1000 = 0 THEN 'open' ELSE 'delivered' END, 'P' || g,
        'A' || g, to_char(now() - make_interval(days => g / 10), 'YYYYMMDD'), 'CR1',
        now() - make_interval(mins => {_ROWS} - g), now(), 1, -(g % 100),
        CASE WHEN g % 500 = 0 THEN 'severe' ELSE 'none' END, g % 100, CASE WHEN g < 9 THEN 2 ELSE 1
        END FROM generate_series(1, {_ROWS}) g;
INSERT INTO series (id, study_id, series_instance_uid, modality)
    SELECT g, g, '1.3.' || g, CASE WHEN g % 1000 = 0 THEN 'MG' ELSE 'DX' END
    FROM generate_series(1, {_ROWS}) g;
INSERT INTO instance (id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
        data_set_sha256, size_bytes, storage_key, state, reason, patient_id, calling_aet,
        called_aet, received_at)
    SELECT g, g, '1.4.' || g, '1', '1', g, 1, g,
        CASE WHEN g % 1000 = 0 THEN 'failed' ELSE 'analysed' END,
        CASE WHEN g % 1000 = 0 THEN 'no_decoder' END, 'P' || g,
        CASE WHEN g % 1000 = 0 THEN 'RARE' ELSE 'CR1' END, 'NODE',
        now() - make_interval(mins => {_ROWS} - g) FROM generate_series(1, {_ROWS}) g;
INSERT INTO analysis (id, instance_id, model_version_id, configuration_hash, severity,
        opacity_percent_total, lung_pixels_total, lung_pixels_left, lung_pixels_right,
        opacity_pixels_total, opacity_pixels_left, opacity_pixels_right, orientation_assumed, notes,
        device, seconds, created_at)
    SELECT id, id, CASE WHEN id < 9 THEN 2 ELSE 1 END, 'c',
        CASE WHEN id % 500 = 1 THEN 'severe' ELSE 'none' END, id % 100, 1, 1, 1, 1, 1, 1, FALSE,
        '[]', 'cpu', 1, now() FROM instance WHERE state = 'analysed';
INSERT INTO artifact (id, kind, analysis_id, sop_instance_uid, storage_key, sha256, size_bytes,
        created_at)
    SELECT id, 'seg', id, '1.5.' || id, 's' || id, 'x', 1, now() FROM analysis;
INSERT INTO delivery (id, artifact_id, destination_id, state, attempts, next_attempt_at, created_at)
    SELECT id, id, CASE WHEN id % 1000 = 1 THEN 2 ELSE 1 END,
        CASE WHEN id % 1000 = 2 THEN 'dead' ELSE 'sent' END, 1, now(),
        now() - make_interval(mins => {_ROWS} - id) FROM artifact
"""  # noqa: S608  constants of this file
Ask = Callable[[Session, Settings], object]


def _studies(sort: StudySort = StudySort.RECEIVED, **wanted: Any) -> Ask:
    return lambda session, _: studies(session, StudyFilter(**wanted), sort)


def _results(sort: ResultSort = ResultSort.RECEIVED, **wanted: Any) -> Ask:
    return lambda session, settings: result_page(
        session,
        settings,
        ResultFilter(**wanted),
        sort,
        descends=True,
        cursor=None,
        limit=50,
    )


def _deliveries(**wanted: Any) -> Ask:
    return lambda session, _: delivery_page(
        session, DeliveryFilter(**wanted), descends=True, cursor=None, limit=50
    )


@pytest.fixture(scope="module")
def filled(request: pytest.FixtureRequest) -> Iterator[Database]:
    """Some thousand rows, of which few are unusual: so does PostgreSQL look for an index."""
    server = request.getfixturevalue("_postgres_server")
    with servers.new_database(server) as url, open_database(url) as database:
        with database.engine.begin() as connection:
            for statement in _FILL.split(";\n"):
                connection.execute(text(statement))
        with database.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("VACUUM ANALYZE"))
        yield database


def _plans(database: Database, ask: Ask, settings: Settings) -> str:
    """Return the plans of everything that is asked of the database."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        asked.append((statement, values))

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        with database.read() as session:
            ask(session, settings)
    finally:
        event.remove(database.engine, "before_cursor_execute", note)
    plans: list[str] = []
    with database.engine.connect() as connection:
        for statement, values in asked:
            if statement.startswith("SELECT"):
                plan = connection.exec_driver_sql(f"EXPLAIN {statement}", values)
                plans += [*map(str, plan.scalars()), ""]
    return "\n".join(plans)


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (_studies(), "ix_study_created_at"),
        (_studies(StudySort.PERCENT), "ix_study_reading_order"),
        (_studies(StudySort.STUDY_DATE), "ix_study_study_date"),
        (_studies(patient_id="P7"), "ix_study_patient_id"),
        (_studies(accession_number="A7"), "ix_study_accession_number"),
        (_studies(state=StudyState.OPEN), "ix_study_state_last_received_at"),
        (_studies(model="other"), "ix_study_model_version_id"),
        (_studies(severity="severe", sort=StudySort.PERCENT), "ix_study_severity_reading_order"),
        (_studies(modality="MG"), "ix_series_modality"),
        (_studies(reason="no_decoder"), "ix_instance_reason"),
        (_results(), "pk_instance"),
        (_results(since=utc_now() - timedelta(hours=1)), "ix_instance_received_at"),
        (_results(patient_id="P7"), "ix_instance_patient_id"),
        (_results(calling_aet="RARE"), "ix_instance_calling_aet"),
        (_results(state="failed"), "ix_instance_state"),
        (_results(reason="no_decoder"), "ix_instance_reason"),
        (_results(modality="MG"), "ix_series_modality"),
        (_results(ResultSort.PERCENT), "ix_analysis_opacity_percent_total"),
        (_results(ResultSort.PERCENT, severity="severe"), "ix_analysis_severity"),
        (_results(model="other"), "ix_analysis_model_version_id"),
        (_deliveries(), "pk_delivery"),
        (_deliveries(state=DeliveryState.DEAD), "ix_delivery_state_next_attempt_at"),
        (_deliveries(destination="RARE"), "ix_delivery_destination_id"),
        (_deliveries(since=utc_now() - timedelta(hours=1)), "ix_delivery_created_at"),
        (_deliveries(study_instance_uid="1.2.7"), "uq_delivery_artifact_id_destination_id"),
    ],
)
def test_a_filter_is_served_by_its_index(
    filled: Database, tmp_path: Path, ask: Ask, index: str
) -> None:
    assert index in _plans(filled, ask, load_settings(None, data_dir=tmp_path))
