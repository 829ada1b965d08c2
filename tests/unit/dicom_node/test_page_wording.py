"""How values read on a page, and that the sentences are those of the worker."""

from datetime import datetime, timedelta, timezone

import pytest
from pydantic import BaseModel

from dicom_node.web import wording
from models.base import utc_now
from models.reasons import SENTENCES, Reason
from worker import codes
from worker.types import CAVEAT_SENTENCES


def test_caveats_have_the_sentences_of_the_report() -> None:
    assert {each.value: text for each, text in CAVEAT_SENTENCES.items()} == wording.CAVEATS


def test_spacings_have_the_meanings_of_the_report() -> None:
    meanings = {basis.value: code.meaning for basis, code in codes.SPACING_METHODS.items()}
    assert meanings == wording.SPACINGS
    assert codes.NO_SPACING.meaning == wording.NO_SPACING


def test_a_reason_has_its_sentence_and_an_unknown_one_its_code() -> None:
    assert wording.reason_sentence("lateral_view") == SENTENCES[Reason.LATERAL_VIEW]
    assert wording.reason_sentence("of_tomorrow") == "of tomorrow"
    assert wording.reason_sentence(None) == "—"


def test_no_figure_is_a_dash_and_never_0() -> None:
    assert wording.percent(None) == "—"
    assert wording.percent(0.0) == "0.0"
    assert wording.points(-3.25) == "\N{MINUS SIGN}3.2"
    assert wording.points(14.46) == "+14.5"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"),
        (-5, "0 s"),
        (59.9, "59 s"),
        (61, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (86_400, "1 d"),
        (93_600, "1 d 2 h"),
    ],
)
def test_a_length_of_time(seconds: float | None, text: str) -> None:
    assert wording.span(seconds) == text


def test_times_are_utc_and_machines_can_read_them() -> None:
    at = datetime(2026, 1, 2, 5, 4, 3, tzinfo=timezone(timedelta(hours=2)))
    assert wording.moment(at) == wording.moment(at.isoformat()) == "2026-01-02 03:04:03"
    assert wording.machine_moment(at) == "2026-01-02T03:04:03+00:00"
    assert wording.moment(None) == "—"
    assert wording.age(utc_now() - timedelta(minutes=5)) == "5 min"


@pytest.mark.parametrize(
    ("value", "text"), [("20260102", "2026-01-02"), ("yesterday", "yesterday"), (None, "—")]
)
def test_a_dicom_date(value: str | None, text: str) -> None:
    assert wording.dicom_date(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "—"), (512, "512 B"), (1536, "1.5 KiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5.0 TiB")],
)
def test_bytes(value: float | None, text: str) -> None:
    assert wording.size(value) == text


def test_an_address_says_only_what_is_filtered_by() -> None:
    class Wanted(BaseModel):
        view: str = "read"
        sender: str = ""
        cursor: str | None = None

    assert wording.as_query(Wanted(), cursor="a b&c") == "view=read&cursor=a+b%26c"
    assert wording.as_query(Wanted()) == "view=read"
