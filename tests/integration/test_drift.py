"""Drift from rows: references, windows, sources, the command and the gauges."""

import json
import random
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families
from rows import CR, open_database, random_uid
from sqlalchemy import insert

from dicom_node.cli import cli
from dicom_node.documents import Documents
from dicom_node.drift import images
from dicom_node.drift.judging import Drift, drifts
from dicom_node.web.metrics import Metrics
from models.base import utc_now
from models.imaging import Instance, Series, Study
from models.monitoring_sections import MonitoringSettings
from models.result import Analysis, ModelVersion
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState

LONG_AGO = timedelta(days=60)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return load_settings(None, data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    with open_database(settings.effective_database_url) as opened:
        yield opened


def _model(database: Database, version: str, began: timedelta = LONG_AGO) -> int:
    with database.write() as session:
        row = ModelVersion(
            name="unet", version=version, sha256="f" * 64, created_at=utc_now() - began
        )
        session.add(row)
        session.flush()
        return row.id


def _add(
    database: Database,
    model: int,
    number: int,
    ago: timedelta,
    *,
    source: str = "CR1",
    scale: float = 1.0,
    reasons: dict[str, float] | None = None,
) -> None:
    """Add images that came within an hour: figures drawn from one distribution, and reasons."""
    draw = random.Random(f"{number} {ago} {source} {scale}")
    shares = {"lateral_view": 0.1} | (reasons or {})
    kinds = draw.choices(
        [*shares, "analysed"], [*shares.values(), 1 - sum(shares.values())], k=number
    )
    with database.write() as session:
        series = Series(
            study=Study(study_instance_uid=random_uid(), calling_aet=source),
            series_instance_uid=random_uid(),
        )
        session.add(series)
        session.flush()
        begin = utc_now() - ago
        rows = [
            _instance(series.id, kind, source, begin + timedelta(seconds=place))
            for place, kind in enumerate(kinds)
        ]
        ids = session.scalars(insert(Instance).returning(Instance.id), rows).all()
        opaque = [scale * draw.lognormvariate(1.5, 1.2) for _ in ids]
        figures = [
            _analysis(key, model, min(100.0, percent))
            for key, kind, percent in zip(sorted(ids), kinds, opaque, strict=True)
            if kind == "analysed"
        ]
        session.execute(insert(Analysis), figures)


def _instance(series_id: int, kind: str, source: str, at: datetime) -> dict[str, Any]:
    is_analysed = kind == "analysed"
    return {
        "series_id": series_id,
        "sop_instance_uid": random_uid(),
        "sop_class_uid": CR,
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "data_set_sha256": secrets.token_hex(32),
        "size_bytes": 1000,
        "storage_key": secrets.token_hex(16),
        "state": InstanceState.ANALYSED if is_analysed else InstanceState.NOT_ANALYSED,
        "reason": None if is_analysed else kind,
        "calling_aet": source,
        "called_aet": "NODE",
        "received_at": at,
    }


def _analysis(instance_id: int, model: int, percent: float) -> dict[str, Any]:
    whole = {
        f"{name}_pixels_{side}": 1 for name in ("lung", "opacity") for side in ("left", "right")
    }
    return {
        "instance_id": instance_id,
        "model_version_id": model,
        "configuration_hash": "c" * 64,
        "severity": "mild",
        "opacity_percent_total": percent,
        "lung_pixels_total": 1,
        "opacity_pixels_total": 1,
        "orientation_assumed": False,
        "device": "cpu",
        "seconds": 0.1,
        **whole,
    }


def _found(database: Database, **settings: Any) -> dict[tuple[str, str], Drift]:
    drift = {"reference_images": 300} | settings.pop("drift", {})
    with database.read() as session:
        found = drifts(session, MonitoringSettings(drift=drift, **settings))
    return {(each.source, each.of): each for each in found}


def _days(number: float) -> timedelta:
    return timedelta(days=number)


def test_the_same_images_are_no_alarm(database: Database) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 200, _days(2))
    found = _found(database)
    assert found.keys() == {(it, of) for it in ("CR1", "all") for of in ("opacity", "reasons")}
    assert not any(it.is_alarm for it in found.values())
    assert all(it.is_known for it in found.values())
    assert (found["CR1", "reasons"].reference, found["CR1", "reasons"].current) == (300, 200)
    assert found["CR1", "opacity"].sentence.startswith("CR1: the opacity is as in the reference")


def test_one_source_of_two_has_changed(database: Database) -> None:
    model = _model(database, "1")
    for source, scale in (("CR1", 1.0), ("DX2", 4.0)):
        _add(database, model, 300, _days(50), source=source)
        _add(database, model, 200, _days(2), source=source, scale=scale)
    found = _found(database)
    assert {key for key, it in found.items() if it.is_alarm} == {
        ("DX2", "opacity"),
        ("all", "opacity"),
    }
    assert "DX2: the images show more opacity" in found["DX2", "opacity"].sentence


def test_a_new_reason_is_named(database: Database) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 200, _days(2), reasons={"inverted": 0.08})
    found = _found(database)["CR1", "reasons"]
    assert found.is_alarm
    assert found.new_reasons == ("inverted",)


def test_what_counts_in_the_reference_counts_not_in_the_window(database: Database) -> None:
    """A young node: its first images are all from this week."""
    model = _model(database, "1", _days(3))
    _add(database, model, 300, _days(2))
    _add(database, model, 50, _days(1), scale=9.0)
    found = _found(database)["CR1", "opacity"]
    assert (found.is_known, found.is_alarm) == (False, False)
    assert "50 now" in _found(database)["CR1", "reasons"].sentence


def test_a_new_version_of_the_model_begins_a_new_reference(database: Database) -> None:
    """It may measure more: that is no drift of the images."""
    old, new = _model(database, "1"), _model(database, "2", _days(20))
    _add(database, old, 300, _days(50))
    _add(database, new, 300, _days(19), scale=4.0)
    _add(database, new, 200, _days(2), scale=4.0)
    assert not any(it.is_alarm for it in _found(database).values())


def test_a_source_that_began_late_has_its_reference_behind_the_many_of_another(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_MOST", 400)
    model = _model(database, "1")
    for ago in (50, 49):
        _add(database, model, 300, _days(ago))
    _add(database, model, 300, _days(30), source="DX2")
    _add(database, model, 150, _days(2))
    _add(database, model, 150, _days(2), source="DX2", scale=4.0)
    found = _found(database)
    assert (found["DX2", "opacity"].is_known, found["DX2", "opacity"].is_alarm) == (True, True)
    assert found["DX2", "reasons"].reference == found["CR1", "reasons"].reference == 300
    assert not found["CR1", "opacity"].is_alarm
    today = datetime.now(UTC).astimezone().date()
    days = {"reference_from": today - _days(51), "reference_until": today - _days(28)}
    assert _found(database, drift=days)["DX2", "opacity"].is_alarm


def test_days_can_be_the_reference(database: Database) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 300, _days(20), scale=4.0)
    _add(database, model, 200, _days(2), scale=4.0)
    assert _found(database)["CR1", "opacity"].is_alarm
    today = datetime.now(UTC).astimezone().date()
    chosen = {"reference_from": today - _days(21), "reference_until": today - _days(18)}
    found = _found(database, drift=chosen)["CR1", "opacity"]
    assert (found.is_known, found.is_alarm) == (True, False)


def test_our_own_results_and_named_sources(database: Database) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 200, _days(2), reasons={"own_result": 0.5})
    _add(database, model, 100, _days(2), source="DX2")
    found = _found(database, sources=("DX2",))
    assert {source for source, _ in found} == {"DX2", "all"}
    assert found["all", "reasons"].current < 250  # 200 less those that came back, and 100
    assert not found["all", "reasons"].is_alarm


def test_a_source_may_not_take_the_name_of_all(database: Database) -> None:
    model = _model(database, "1")
    _add(database, model, 150, _days(2), source="all")
    assert {source for source, _ in _found(database)} == {"all"}


@pytest.fixture
def run(settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Runs `dicom-node drift` on these rows."""
    config = tmp_path / "node.toml"
    config.write_text(
        f'database_url = "{settings.effective_database_url}"\n'
        "[monitoring]\nno_study_minutes_by_calling_ae = { CR1 = 60.0, CR9 = 60.0 }\n"
        "[monitoring.drift]\nreference_images = 300\n"
    )

    def command(*options: str) -> Any:
        arguments = ["drift", "--config", str(config), "--data-dir", str(tmp_path / "data")]
        return CliRunner().invoke(cli, [*arguments, *options])

    return command


def test_the_command_says_what_has_changed(database: Database, run: Callable[..., Any]) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 300, _days(50), source="DX2")
    _add(database, model, 200, _days(2), scale=4.0)
    answer = run("--json")
    assert answer.exit_code == 1
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    by_subject = {(row["source"], row["of"]): row for row in rows}
    assert by_subject["CR1", "opacity"]["alarm"] == "ALARM"
    assert by_subject["CR1", "opacity"]["psi"] > by_subject["CR1", "opacity"]["psi_limit"]
    assert by_subject["CR1", "silence"]["is_alarm"]
    assert "48 hours ago; 60 minutes are allowed" in by_subject["CR1", "silence"]["sentence"]
    assert by_subject["CR9", "silence"]["sentence"] == "CR9: no image has ever come."
    assert not by_subject["DX2", "silence"]["is_alarm"]
    assert len({tuple(row) for row in rows}) == 1  # the same keys in each
    assert run("--csv").stdout.startswith("source,of,")
    assert "more opacity" in run().stdout


def test_without_images_the_command_says_that_too(
    database: Database, tmp_path: Path, settings: Settings
) -> None:
    arguments = ["drift", "--data-dir", str(tmp_path / "data"), "--json"]
    environment = {"DICOM_NODE_DATABASE_URL": settings.effective_database_url}
    answer = CliRunner().invoke(cli, arguments, env=environment)
    assert answer.exit_code == 0
    rows = [json.loads(line) for line in answer.stdout.splitlines()]
    assert {(row["source"], row["of"]) for row in rows} >= {("all", "opacity"), ("all", "silence")}
    assert database.url is not None


def test_the_page_has_it_as_gauges(
    settings: Settings, database: Database, redis_server: str
) -> None:
    model = _model(database, "1")
    _add(database, model, 300, _days(50))
    _add(database, model, 200, _days(2), scale=4.0)
    of_drift = settings.monitoring.drift.model_copy(update={"reference_images": 300})
    monitoring = settings.monitoring.model_copy(update={"drift": of_drift})
    settings = settings.model_copy(update={"monitoring": monitoring, "broker_url": redis_server})
    metrics = Metrics(settings, database, Documents(settings.artifact_store))
    metrics.render()
    metrics.collector.settle()
    page = metrics.render().decode()
    found = {
        (sample.name.removeprefix("dicom_node_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert found["drift_alarm", "opacity", "CR1"] == 1
    assert found["drift_alarm", "reasons", "CR1"] == 0
    assert found["drift_psi", "opacity", "CR1"] > found["drift_psi_limit", "opacity", "CR1"]
    assert found["drift_ks", "CR1"] > found["drift_ks_limit", "CR1"] > 0
    assert found["drift_images", "reasons", "reference", "CR1"] == 300
    assert found["drift_images", "reasons", "current", "CR1"] == 200
