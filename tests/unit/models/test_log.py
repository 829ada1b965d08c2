"""models.log: one line per event, and nothing that quotes a data set."""

import json
import logging
from collections.abc import Iterator

import pytest
from pydicom.config import IGNORE
from pydicom.valuerep import IS

from models.log import bind, set_up_logging


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


def test_a_json_line_names_role_event_and_rows(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging("deliver", as_json=True)
    log = logging.getLogger("dicom_node.delivery")
    log.info("delivery %d: %s: 100%% of %5.1f MB of study %s", 7, "retry", 1.5, "1.2.3")
    log.info("job %d: %d objects", 3, 4, extra={"event": "report"})
    with bind(job_id=9), bind(attempt=2):
        log.info("no ids here")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert first["role"] == "deliver"
    assert first["event"] == "delivery %d: %s: 100%% of %5.1f MB of study %s"
    assert first["message"] == "delivery 7: retry: 100% of   1.5 MB of study 1.2.3"
    assert first["delivery_id"] == 7
    assert "study_id" not in first  # a UID is no id of a row
    assert (second["event"], second["job_id"]) == ("report", 3)
    assert (third["job_id"], third["attempt"]) == (9, 2)


_NAME = "Doe^Jane"


def _broken_data_set() -> None:
    """Raise what pydicom raises, with the value in its words."""
    IS(_NAME, validation_mode=IGNORE)


@pytest.mark.parametrize("as_json", [True, False])
def test_words_of_errors_that_quote_a_data_set_are_left_out(
    capsys: pytest.CaptureFixture[str], *, as_json: bool
) -> None:
    with pytest.raises(ValueError, match="Doe"):
        _broken_data_set()
    set_up_logging("listen", as_json=as_json)
    log = logging.getLogger("dicom_node")
    for wrap in (lambda error: error, lambda error: ExceptionGroup("parts", [error])):
        try:
            try:
                _broken_data_set()
            except ValueError as error:
                raise RuntimeError("job 7 broke") from wrap(error)  # noqa: EM101, TRY003  as short
        except RuntimeError:
            log.exception("step failed")
    said = capsys.readouterr().err
    assert said.count("_broken_data_set") >= 2  # the traceback is there, and our own words
    assert said.count("job 7 broke") >= 2
    assert "left out" in said
    assert "Doe" not in said
