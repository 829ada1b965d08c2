"""Whose earlier results are shown beside a study, and which of them may be compared."""

from datetime import timedelta

import pytest
from pydantic import ValidationError
from readings import add_figure, add_study
from rows import add_analysis, add_instance
from sqlalchemy import update

from dicom_node.errors import UnknownStudyError
from dicom_node.worklist.priors import Prior, priors
from models.base import utc_now
from models.imaging import Instance
from models.result import Analysis
from models.session import Database
from models.settings import Settings, load_settings
from models.states import InstanceState

on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def _priors(database: Database, uid: str, **worklist: object) -> list[Prior]:
    settings = load_settings(None, worklist=worklist or None)
    with database.read() as session:
        return priors(session, settings, uid)


def test_priors_come_in_the_order_of_the_exams_with_what_changed(database: Database) -> None:
    last = add_study(database, 12.0, study_date="20250301")
    first = add_study(database, 30.0, study_date="20240101")
    this = add_study(database, 20.5, study_date="20250302")
    later = add_study(database, 8.0, study_date="20250909")
    add_study(database, study_date="20250201")  # without a figure
    add_study(database, 70.0, patient_id="P2")
    found = _priors(database, this)
    assert [each.study_instance_uid for each in found] == [first, last, later]
    assert [each.percent for each in found] == [30.0, 12.0, 8.0]
    assert [each.delta for each in found] == [-9.5, 8.5, 12.5]
    assert [each.is_later for each in found] == [False, False, True]
    assert {each.measured.name for each in found} == {"unet"}


@on_one_database
def test_the_figures_of_two_models_are_not_compared(database: Database) -> None:
    add_study(database, 12.0, model="unet")
    this = add_study(database, 20.0, model="unet-next")
    (prior,) = _priors(database, this)
    assert (prior.percent, prior.is_comparable, prior.delta) == (12.0, False, None)
    assert prior.measured.name == "unet"


@on_one_database
def test_another_configuration_is_another_measure(database: Database) -> None:
    add_study(database, 12.0)
    with database.write() as session:
        session.execute(update(Analysis).values(configuration_hash="d" * 64))
    this = add_study(database, 20.0)
    assert [each.is_comparable for each in _priors(database, this)] == [False]


@on_one_database
def test_a_study_without_a_figure_has_priors_without_a_difference(database: Database) -> None:
    add_study(database, 12.0)
    this = add_study(database)
    assert [(each.percent, each.delta) for each in _priors(database, this)] == [(12.0, None)]


@on_one_database
def test_the_difference_is_that_of_the_figure_which_counts_now(database: Database) -> None:
    """After a late image or a replay the study's row still has the figure of the last report."""
    add_study(database, 40.0)
    this = add_study(database, 35.0)
    late = add_instance(database, study_instance_uid=this, state=InstanceState.ANALYSED)
    add_analysis(database, late, 65.0)
    assert [each.delta for each in _priors(database, this)] == [25.0]


RIS = {"RIS1": ["CR1", "DX2"]}
# Issuer and sender of the prior, of the study, the domains: is it the same patient?
SAME_PATIENT = [
    ("H1", "CR1", "H1", "CR9", {}, True),
    ("H1", "CR1", "H2", "CR1", RIS, False),
    (None, "CR1", None, "CR1", {}, True),
    (None, "CR1", None, "CR9", {}, False),
    (None, "CR1", None, "DX2", RIS, True),
    (None, "CR1", None, "CR9", RIS, False),
    ("H1", "CR1", None, "DX2", RIS, True),
    (None, "CR1", "H1", "DX2", RIS, True),
    (None, "CR1", "H1", "CR9", RIS, False),
    ("H1", "CR1", None, "CR9", RIS, False),
]


def test_the_patient_is_the_same_within_an_issuer_or_a_domain_of_sources(
    database: Database,
) -> None:
    for number, (issuer, sender, its_issuer, its_sender, domains, expected) in enumerate(
        SAME_PATIENT
    ):
        patient = f"P-{number}"
        shared = {"patient_id": patient}
        add_study(database, 9.0, issuer_of_patient_id=issuer, calling_aet=sender, **shared)
        this = add_study(
            database, 10.0, issuer_of_patient_id=its_issuer, calling_aet=its_sender, **shared
        )
        assert bool(_priors(database, this, domains=domains)) is expected, SAME_PATIENT[number]


def test_two_exams_of_one_day_are_in_the_order_of_their_times(database: Database) -> None:
    """The archive sent the morning's last: what counts is when they were made."""
    noon = utc_now() - timedelta(hours=2)
    morning, evening = noon - timedelta(hours=5), noon + timedelta(hours=1)
    shared = {"study_date": "20250301"}
    last = add_study(database, 30.0, exam_at=evening, minutes_ago=30, **shared)
    this = add_study(database, 20.0, exam_at=noon, minutes_ago=20, **shared)
    first = add_study(database, 10.0, exam_at=morning, minutes_ago=10, **shared)
    found = _priors(database, this)
    assert [(each.study_instance_uid, each.is_later) for each in found] == [
        (first, False),
        (last, True),
    ]


@on_one_database
def test_a_study_without_a_patient_has_no_priors(database: Database) -> None:
    add_study(database, 10.0, patient_id=None)
    assert _priors(database, add_study(database, 9.0, patient_id=None)) == []


def test_what_was_withdrawn_or_analysed_again_counts_as_it_is_now(database: Database) -> None:
    withdrawn = add_study(database, 12.0)
    with database.write() as session:
        session.execute(update(Instance).values(state=InstanceState.WITHDRAWN))
    this = add_study(database, 20.0)
    assert _priors(database, this) == []
    add_figure(database, withdrawn, 7.0, revision=2)
    assert [each.percent for each in _priors(database, this)] == [7.0]
    with database.write() as session:
        session.execute(update(Analysis).values(is_replaced=True))
    assert _priors(database, this) == []


def test_of_very_many_priors_the_newest_are_shown(database: Database) -> None:
    for number in range(4):
        add_study(database, float(number), study_date=f"2024010{number + 1}")
    this = add_study(database, 20.0, exam_at=utc_now() - timedelta(days=1))
    with database.read() as session:
        found = priors(session, Settings(), this, limit=2)
    assert [each.percent for each in found] == [2.0, 3.0]


@on_one_database
def test_a_study_that_is_not_there_has_no_priors(database: Database) -> None:
    with database.read() as session, pytest.raises(UnknownStudyError):
        priors(session, Settings(), "1.2.3")


def test_a_sender_in_two_domains_is_refused() -> None:
    domains = {"A": ["CR1"], "B": ["CR1"]}
    with pytest.raises(ValidationError, match="names CR1 twice"):
        Settings(worklist={"domains": domains})
