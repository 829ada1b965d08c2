"""`dicom-node results`: the fields of the file command, with bands, zones and caveats."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import lung_masks
from rows import add_analysis, add_instance, open_database
from sqlalchemy import update

from dicom_node.listing import Format, flatten, print_rows
from dicom_node.results import ResultFilter, results, with_every_column
from models.analysis_sections import AnalysisSettings
from models.result import Analysis
from models.session import Database
from models.settings import load_settings
from models.states import InstanceState
from worker.analyse import FileResult
from worker.measurements import measure
from worker.types import FileOutcome, Zone


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """One analysed image and one that was not."""
    with open_database(database_url) as opened:
        instance = add_instance(opened, state=InstanceState.ANALYSED)
        add_analysis(opened, instance, caveats=("uncertain", "inverted"))
        add_instance(opened, state=InstanceState.NOT_ANALYSED)
        yield opened


def _rows(database: Database, tmp_path: Path) -> list[dict[str, object]]:
    settings = load_settings(None, data_dir=tmp_path)
    with database.read() as session:
        return list(results(session, settings, ResultFilter()))


def test_bands_zones_and_caveats_are_listed(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        session.execute(update(Analysis).values(zone_grade_left_lower=2, zone_score_left=2))
    first, second = _rows(database, tmp_path)
    assert first["severity_by_side"] == {"total": "mild", "left": "mild", "right": "mild"}
    assert first["zone_grade"] == {zone.value: None for zone in Zone} | {"left_lower": 2}
    assert first["zone_score"] == {"total": None, "left": 2, "right": None}
    assert first["caveats"] == ["inverted", "uncertain"]
    assert second["caveats"] == []
    assert set(second["zone_percent"].values()) == {None}


def test_a_spreadsheet_has_the_model_wherever_it_comes_first(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = _rows(database, tmp_path)
    print_rows(with_every_column([second, first]), Format.CSV, [])
    unanalysed, analysed = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (unanalysed["model.name"], analysed["model.name"]) == ("", "unet")


def test_every_field_of_the_file_command_is_there(database: Database, tmp_path: Path) -> None:
    file = FileResult(FileOutcome(tmp_path, "not_analysed")).as_row()
    row = _rows(database, tmp_path)[0]
    del file["path"]
    assert set(file) <= set(row)
    for name, value in file.items():
        if isinstance(value, dict) and name != "files":
            assert set(value) == set(row[name])


def test_a_list_is_text_in_the_table_and_json_in_csv(
    capsys: pytest.CaptureFixture[str],
) -> None:
    row = {"caveats": ["a", "b"]}
    assert flatten(row) == {"caveats": '["a", "b"]'}
    print_rows([row], Format.TABLE, [("caveats", "caveats")])
    assert "a, b" in capsys.readouterr().out


def test_the_file_command_names_bands_and_zones_as_the_node_does(tmp_path: Path) -> None:
    masks = lung_masks()
    measured = measure(masks, None, AnalysisSettings(zone_score=True))
    outcome = FileOutcome(tmp_path, "analysed")
    row = FileResult(outcome, measurements=measured).as_row()
    assert row["severity_by_side"] == {"total": "mild", "left": "mild", "right": "none"}
    assert row["zone_grade"]["left_lower"] > row["zone_grade"]["left_upper"] == 0
    assert row["zone_score"]["total"] == sum(row["zone_grade"].values())
    assert row["zone_score"]["right"] == 0
    plain = FileResult(outcome, measurements=measure(masks, None, AnalysisSettings())).as_row()
    assert set(plain["zone_grade"].values()) == set(plain["zone_score"].values()) == {None}
    assert plain["zone_grade"].keys() == row["zone_grade"].keys()
