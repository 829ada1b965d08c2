"""What one scrape of /metrics costs when the node has many objects: a scratch PostgreSQL, no files.

    python benchmarks/scrape.py --instances 1000000

Prints how long each part takes that is read in the background, and a Markdown table of scrapes.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from rows import open_database  # noqa: E402  found by the line above
from servers import find_postgres, postgres  # noqa: E402  the same

from dicom_node.documents import Documents  # noqa: E402  the same
from dicom_node.drift.judging import drifts  # noqa: E402  the same
from dicom_node.ledger import compute  # noqa: E402  the same
from dicom_node.web.metrics import Metrics  # noqa: E402  the same
from dicom_node.web.metrics import minute, tallies  # noqa: E402  the same
from dicom_node.web.metrics.counting import RowCounter  # noqa: E402  the same
from models.session import Database  # noqa: E402  the same
from models.settings import load_settings  # noqa: E402  the same

_DAYS = 90
# One study, series, job, analysis and delivery for each instance; a tenth is not analysed.
_ROWS = """
INSERT INTO model_version (id, name, version, sha256, created_at)
VALUES (1, 'unet', '1.0', repeat('f', 64), now() - interval '{days} days');
INSERT INTO destination (id, name, ae_title, host, port, enabled)
VALUES (1, 'pacs', 'PACS', '127.0.0.1', 104, true);
INSERT INTO study (id, study_instance_uid, state, patient_id, calling_aet, created_at,
                   last_received_at, revision)
SELECT i, '1.2.3.' || i, 'delivered', 'P' || i, 'CR' || i %% 12, at, at, 1
FROM (SELECT i, now() - interval '{days} days' * (1 - i / {number}.0) AS at
      FROM generate_series(1, {number}) i) each;
INSERT INTO series (id, study_id, series_instance_uid, modality)
SELECT i, i, '1.2.4.' || i, 'CR' FROM generate_series(1, {number}) i;
INSERT INTO instance (id, series_id, sop_instance_uid, sop_class_uid, transfer_syntax_uid,
                      data_set_sha256, size_bytes, storage_key, state, reason, patient_id,
                      calling_aet, called_aet, received_at)
SELECT id, id, '1.2.5.' || id, '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1',
       md5(id::text) || md5(id::text), 500000, md5('k' || id) || '.dcm',
       CASE WHEN id %% 10 = 0 THEN 'not_analysed' ELSE 'analysed' END,
       CASE WHEN id %% 10 = 0 THEN (ARRAY['lateral_view', 'not_chest', 'sop_class'])[id %% 3 + 1] END,
       patient_id, calling_aet, 'NODE', created_at
FROM study;
INSERT INTO job (id, kind, state, priority, instance_id, model_selector, attempts, not_before,
                 created_at, finished_at)
SELECT id, 'analyse', 'done', 0, id, 'unet', 1, received_at, received_at, received_at
FROM instance;
INSERT INTO analysis (id, instance_id, model_version_id, configuration_hash, severity,
                      opacity_percent_total, lung_pixels_total, lung_pixels_left,
                      lung_pixels_right, opacity_pixels_total, opacity_pixels_left,
                      opacity_pixels_right, orientation_assumed, notes, device, seconds,
                      decode_seconds, gate_seconds, inference_seconds, measure_seconds,
                      objects_seconds, created_at)
SELECT id, id, 1, repeat('c', 64), 'mild', 100 * power(random(), 4), 1, 1, 1, 1, 1, 1, false,
       '[]', 'cpu', 0.8, 0.1, 0.2, 0.4, 0.1, 0.3, received_at
FROM instance WHERE state = 'analysed';
INSERT INTO artifact (id, kind, analysis_id, sop_class_uid, sop_instance_uid, storage_key, sha256,
                      size_bytes, created_at)
SELECT id, 'seg', id, '1.2.840.10008.5.1.4.1.1.66.4', '1.2.6.' || id, md5('a' || id),
       repeat('0', 64), 5000, created_at
FROM analysis;
INSERT INTO delivery (id, artifact_id, destination_id, state, attempts, next_attempt_at, sent_at,
                      created_at, commitment_attempts)
SELECT id, id, 1, CASE WHEN id %% 1000 = 1 THEN 'rejected' ELSE 'sent' END, 1, created_at,
       created_at, created_at, 0
FROM artifact;
INSERT INTO audit_event (at, action, outcome, calling_aet, study_instance_uid, sop_instance_uid,
                         status, details)
SELECT received_at, 'instance_stored', 'stored', calling_aet, '1.2.3.' || id, sop_instance_uid, 0,
       '{{"size_bytes": 500000}}'
FROM instance;
INSERT INTO audit_event (at, action, outcome, sop_instance_uid, status, details)
SELECT created_at, 'artifact_sent', 'sent', '1.2.6.' || id, 0,
       json_build_object('delivery', id, 'attempt', 1)
FROM delivery;
"""


def main() -> None:
    """Make the rows, read every part once, and scrape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--scrapes", type=int, default=40)
    arguments = parser.parse_args()
    binaries = find_postgres()
    if binaries is None:
        sys.exit("no PostgreSQL is installed")
    with (
        tempfile.TemporaryDirectory(prefix="scrape-") as folder,
        postgres(binaries) as server,
        open_database(f"{server}/postgres") as database,
    ):
        _timed("rows", lambda: _fill(database, arguments.instances))
        _measure(database, Path(folder), arguments.scrapes)


def _fill(database: Database, number: int) -> None:
    with database.engine.begin() as connection:
        for statement in _ROWS.format(number=number, days=_DAYS).split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for table in ("study", "series", "instance", "job", "analysis", "artifact", "delivery"):
            top = f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}"  # noqa: S608  our own names
            connection.execute(sa.text(top))
        connection.execute(sa.text("VACUUM ANALYZE"))


def _measure(database: Database, folder: Path, scrapes: int) -> None:
    settings = load_settings(None, data_dir=folder, database_url=str(database.url))
    settings.spool_dir.mkdir(parents=True)
    documents = Documents(settings.artifact_dir)
    for name in ("RECEIVED", "EVENTS", "SENDS", "ANALYSES"):
        counter = RowCounter(getattr(tallies, name))
        _timed(f"{name.lower()}: whole table, once per start", lambda it=counter: it.read(database))
        _timed(f"{name.lower()}: again", lambda it=counter: it.read(database))
    _timed("counts, once a minute", lambda: minute.read_counts(database))
    with database.read() as session:
        _timed("drift, every ten minutes", lambda: drifts(session, settings.monitoring))
    _timed("ledger without files", lambda: compute(database, settings, documents))
    page = Metrics(settings, database, documents)
    _timed("first scrape", page.render)
    page.collector.settle()
    seconds = [_timed(None, page.render) for _ in range(scrapes)]
    page.collector.settle()
    print(f"\nScrapes: median {statistics.median(seconds) * 1000:.0f} ms, ", end="")
    print(f"largest of {scrapes} {max(seconds) * 1000:.0f} ms")


def _timed(name: str | None, act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    if name is not None:
        print(f"{name}: {seconds:.3f} s", flush=True)
    return seconds


if __name__ == "__main__":
    main()
