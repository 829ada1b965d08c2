"""models.log: one line per event, and nothing that quotes a data set."""

import json
import logging
from collections.abc import Iterator

import pytest

from models.log import set_up_logging


@pytest.fixture(autouse=True)
def _root_logger_restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def test_json_lines_carry_what_was_bound(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(as_json=True)
    logging.getLogger("worker.tasks").info("analysed", extra={"job_id": 7})
    entry = json.loads(capsys.readouterr().err)
    assert (entry["message"], entry["job_id"], entry["level"]) == ("analysed", 7, "info")


def test_a_traceback_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(as_json=True)
    logging.getLogger("worker").error("broke", exc_info=ValueError("odd"))
    assert "ValueError" in json.loads(capsys.readouterr().err)["traceback"]


def test_libraries_that_quote_values_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("analyse")
    for name in ("pydicom", "pydicom.filereader", "py.warnings"):
        logging.getLogger(name).error("Invalid value: Doe^Jane")
    logging.getLogger("highdicom.base").info("copy attributes")
    logging.getLogger("worker").warning("kept")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "kept" in lines[0]
